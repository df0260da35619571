"""The site: every page is in its navigation, every public name on an API page, and nothing comes from another server.

Links, anchors and docstrings are checked by `make docs`, which takes warnings for errors.
"""

import importlib.util
import re
from pathlib import Path

import pytest

import ecc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation():
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(re.findall(r": ([\w/-]+\.md)$", SITE, flags=re.MULTILINE)) == pages


def test_every_public_name_is_on_one_api_page_and_in_their_index():
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    assert sorted(re.findall(r"^::: ecc\.(\w+)$", pages, flags=re.MULTILINE)) == sorted(ecc.__all__)
    assert set(re.findall(r"\]\[ecc\.(\w+)\]", index)) == set(ecc.__all__)


def test_nothing_is_fetched_from_another_server():
    ours = [SITE, *(path.read_text(encoding="utf-8") for path in (DOCS / "assets").iterdir())]
    assert not [found for text in ours for found in re.findall(r"https?://\S+", text)]
    assert "font: false" in SITE


def test_formulas_of_docstrings_become_markup_and_remote_scripts_empty(tmp_path):
    pytest.importorskip("latex2mathml", reason="the docs extra is not installed")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_content("<p>:math:<code>a &lt; b^2</code> by :func:<code>trace</code></p>")
    assert re.fullmatch(r"<p><math .*<mo>&#x0003C;</mo>.*<msup>.*</math> by <code>trace</code></p>", page)
    script = tmp_path / "assets" / "javascripts" / "bundle.1.min.js"
    script.parent.mkdir(parents=True)
    script.write_text('load("https://unpkg.com/mermaid@11/dist/mermaid.min.js")')
    hooks.on_post_build({"site_dir": str(tmp_path)})
    assert script.read_text() == 'load("data:text/javascript,")'
