"""What the site does beyond its plugins: formulas of docstrings as MathML, no address of another server in scripts."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert

_FORMULA = re.compile(r":math:<code>(.*?)</code>", re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr):(<code>.*?</code>)")
_REMOTE = re.compile(r"https://unpkg\.com/[\w@./-]+")  # of what old browsers lack, and of diagrams, which no page has


def on_page_content(content: str, **_: object) -> str:
    """Sphinx's roles, which Markdown does not know: formulas as browsers draw them, names as code."""
    content = _FORMULA.sub(lambda found: convert(html.unescape(found[1])), content)
    return _ROLE.sub(r"\1", content)


def on_post_build(config: dict[str, str], **_: object) -> None:
    """Nothing is fetched from elsewhere, whatever the browser: addresses of scripts become empty pages."""
    for script in Path(config["site_dir"], "assets", "javascripts").glob("bundle.*.min.js"):
        script.write_text(_REMOTE.sub("data:text/javascript,", script.read_text("utf-8")), "utf-8")
