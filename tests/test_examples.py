"""Every script of examples/ runs as it stands, and what it says at the end is so."""

import contextlib
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import import_torchvision

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")


def run(name, *arguments, monkeypatch, capsys):
    """What the script prints when it is started with these arguments."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.fixture
def started(tmp_path, monkeypatch, capsys):
    with contextlib.chdir(tmp_path):
        yield lambda *arguments: run(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def accuracies(said):
    """Before and after."""
    return [float(each) for each in re.search(r"accuracy ([\d.]+) → ([\d.]+)", said).groups()]


def test_own_model_keeps_both_budgets_and_is_made_again_from_its_file(started):
    said = started("own_model.py")
    assert said.count(": holds") == 2
    assert min(accuracies(said)) > 0.9
    before, after = re.search(r"([\d,]+) → ([\d,]+) parameters", said).groups()
    assert int(after.replace(",", "")) < 0.55 * int(before.replace(",", ""))
    assert "it is an output of the network" in said


@pytest.mark.parametrize("library", [False, True], ids=["manner", "transformers"])
def test_a_network_of_dicts_and_a_config_is_pruned_within_its_class(library, started):
    if library and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    said = started("hugging_face_style.py", *(["--transformers"] if library else []))
    assert "6 prunable of" in said
    assert ": holds" in said
    assert min(accuracies(said)) > 0.5
    assert re.search(r"(SequenceClassifier|BertForSequenceClassification): [\d,]+ parameters, logits \(1, 10\)", said)


def test_a_network_of_timm_is_pruned_as_it_is(started):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    said = started("timm_model.py")
    assert ": holds" in said
    assert Path("small.pt").exists()


def test_a_plain_loop_ends_within_its_last_limit(started):
    last = started("plain_loop.py").splitlines()[-1]
    assert int(last.split("%")[0]) <= 30
    assert float(re.search(r"([\d.]+)% of the other", last)[1]) > 80


def test_the_page_shows_every_example():
    assert re.findall(r'--8<-- "examples/(\w+\.py)"', PAGE) == [
        "own_model.py",
        "hugging_face_style.py",
        "timm_model.py",
        "plain_loop.py",
    ]
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r'--8<-- "examples/(\w+\.py)"', PAGE))
