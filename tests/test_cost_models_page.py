"""The page on cost models is written from the files of measurements alone."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent / "experiments"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    yield __import__("cost_models_page")
    for name in ("cost_models_page", "results_page"):
        sys.modules.pop(name, None)


def test_every_section_has_its_figures(page, tmp_path):
    page.write_page(HERE / "measurements", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "Not measured." not in text
    assert "at or under 20 % without rows" in text
    assert "the best of each: median error" in text
    assert "nan" not in text


def test_what_was_not_measured_is_said(page, tmp_path):
    (tmp_path / "none").mkdir()
    page.write_page(tmp_path / "none", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text().count("Not measured.") == 8
