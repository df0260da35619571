"""``ecc stage`` and ``ecc inspect`` of what it wrote, as they are typed."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from cli_toy import run, workplace

from ecc.api.stage_options import stage_options, stages_of
from ecc.report.page import pictures, render
from ecc.stages.methods import STAGES

TRAINED = "net.py:small --weights weights.safetensors --data digits"
FIELDS = {"bytes_before", "bytes", "ratio", "accuracy_before", "accuracy", "stages", "artefact", "dense_bytes"}
FAST = {  # options with which stages that train are done in a second or two
    "prune": "--set prune.epochs=1",
    "svd": "--set svd.epochs=1",
    "deepthin": "--set deepthin.epochs=1 --set deepthin.ratio=4",
    "codebook": "--set codebook.epochs=1",
    "deep-compression": "--set deep-compression.epochs=1 --set deep-compression.tune_epochs=1",
}
BEHIND = {"huffman": "--apply prune --effort 0.1", "entropy": "--apply codebook --effort 0.5"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained network and the artefact of its compression to half of its MACs."""
    folder = workplace(tmp_path_factory.mktemp("stage"))
    with contextlib.chdir(folder):
        assert run(f"compress {TRAINED} --budget macs=0.5 --method uniform --epochs 2 --out half --quiet").code == 0
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("ECC_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ecc.report.saving.pictures", lambda report: {})  # they take longer than a stage
    monkeypatch.setattr("ecc.report.saving.render", lambda report: "")


@pytest.fixture(scope="module")
def packed(made):
    """JSON of the artefact in two stages."""
    with contextlib.chdir(made):
        said = run("stage half --apply fold --apply fixed-point --set fixed-point.bits=6 --out packed --json --quiet")
    assert said.code == 0, said.err
    return said.value


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_works_on_an_artefact_of_compress(name, tmp_path):
    line = (
        f"stage half {BEHIND.get(name, '')} --apply {name} {FAST.get(name, '')} --out {tmp_path / name} --json --quiet"
    )
    said = run(line)
    assert said.code == 0, said.err
    assert set(said.value) >= FIELDS
    last = said.value["stages"][-1]
    assert {"name", "bytes", "accuracy", "seconds"} <= set(last)
    assert (last["name"], last["bytes"]) == (name, said.value["bytes"])
    assert said.value["ratio"] == said.value["bytes_before"] / said.value["bytes"] > 1
    again = run(f"verify {tmp_path / name} --json")
    assert again.value["accuracy"] == said.value["accuracy"] == last["accuracy"]
    assert again.code == 0


def test_bytes_are_those_of_the_files(packed, made):
    assert packed["bytes"] == (made / "packed" / "weights.ecz").stat().st_size
    assert packed["bytes_before"] == (made / "half" / "weights.safetensors").stat().st_size
    manifest = json.loads((made / "packed" / "manifest.json").read_text())
    assert packed["dense_bytes"] == 4 * manifest["counts"]["params_dense"]
    assert packed["accuracy_before"] == json.loads((made / "half" / "manifest.json").read_text())["accuracy"]
    assert packed["budgets"] == json.loads((made / "half" / "manifest.json").read_text())["budgets"]


def test_the_terminal_shows_a_row_per_stage(packed):
    said = run("stage packed --apply entropy --out entropy")
    assert said.code == 0
    rows = [line.split()[0] for line in said.out.splitlines()]
    assert rows[:4] == ["stage", "-------", "as", "entropy"] or rows[2:4] == ["as", "entropy"]
    assert "times less than the" in said.out
    assert "macs" in said.out
    assert said.out.splitlines()[-1].endswith("report.html")


def test_a_network_that_was_never_compressed_is_staged_too(tmp_path):
    said = run(f"stage {TRAINED} --apply deep-compression,entropy --effort 0.1 --out {tmp_path / 'out'} --json --quiet")
    assert said.code == 0, said.err
    assert [stage["name"] for stage in said.value["stages"]] == ["deep-compression", "entropy"]
    assert said.value["accuracy_before"] > 0.5
    assert run(f"verify {tmp_path / 'out'} --json").value["accuracy"] == said.value["accuracy"]


def test_no_data_are_needed_where_nothing_is_trained(tmp_path):
    line = f"stage net.py:small --weights weights.safetensors --input 1x1x8x8 --out {tmp_path / 'out'}"
    said = run(line, "--apply fold --apply fixed-point --json")
    assert said.code == 0, said.err
    assert (said.value["accuracy"], said.value["accuracy_reason"]) == (None, "no --data is given")
    assert "accuracy is not computed" in said.err
    assert run(f"verify {tmp_path / 'out'} --json").value["accuracy"] is None


def test_inspect_shows_each_tensor_of_the_folder_and_of_the_file(packed):
    for what in ("packed", "packed/weights.ecz"):
        said = run(f"inspect {what}")
        assert said.code == 0
        (row,) = [line.split() for line in said.out.splitlines() if line.startswith("head.weight")]
        assert row[1].startswith("10x")
        assert row[2:4] == ["fixed", "packed"]
        tensors = run(f"inspect {what} --json").value["tensors"]
        assert tensors["head.weight"]["bits"] == pytest.approx(float(row[-1]), abs=0.01)


def test_fronts_over_bytes_hold_staged_artefacts(packed, monkeypatch):
    monkeypatch.setattr("ecc.report.saving.pictures", pictures)
    monkeypatch.setattr("ecc.report.saving.render", render)
    value = run("front half packed --x bytes --out bytes.html --json").value
    assert [point["x"] for point in value["points"]][1:] == [packed["bytes_before"], packed["bytes"]]
    assert value["points"][0]["x"] == packed["dense_bytes"]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("stage half --apply codebok --out new", 2, "stage 'codebok' is unknown; did you mean codebook"),
        (
            "stage half --apply codebook --set codebook.bit=4 --out new",
            2,
            "option codebook.bit is unknown; did you mean",
        ),
        ("stage half --apply codebook --set codebook.bits=many --out new", 2, "must be a whole number, got 'many'"),
        (
            "stage half --apply codebook --set bits=4 --out new",
            2,
            "is not PART.OPTION=VALUE; write for example codebook",
        ),
        ("stage half --apply codebook --set prune.density=4 --out new", 2, "is of stage prune, which is not applied"),
        ("stage half --apply fixed-point --apply fold --out new", 2, "apply fold before any other stage"),
        ("stage packed --apply codebook --out new", 2, "an earlier call has quantised them"),
        ("stage half --apply codebook --out net.py", 2, "is not a folder"),
        ("stage half --apply codebook --out half", 2, "is the artefact that is read; choose another folder"),
        ("stage nowhere --apply codebook --out new", 2, "is not a folder"),
        ("stage half --weights weights.safetensors --apply codebook --out new", 2, "--weights is of a MODEL"),
        ("stage half width=3 --apply codebook --out new", 2, "KEY=VALUE is of a MODEL"),
        ("stage half --data nothing --apply codebook --out new", 2, "nothing"),
        ("stage half --apply codebook --effort -1 --out new", 2, "effort must be a positive number"),
        ("stage half --out new", 2, "--apply"),
        ("stage half --apply codebook", 2, "--out"),
        ("stage net.py:small --apply codebook --out new", 2, "the input shape of small is not known"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(packed, made, line, code, said):
    found = run(line)
    assert (found.code, found.out) == (code, "")
    assert said in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not (made / "new").exists()
    assert not list(made.glob(".new*"))


def test_help_names_the_stages_and_their_options():
    text = run("stage --help").out
    for name in STAGES:
        assert name in text
    assert "density" in text


def test_the_page_on_stages_names_every_stage_and_options_that_there_are():
    page = (Path(__file__).parents[1] / "docs" / "stages.md").read_text(encoding="utf-8")
    options = stage_options()
    for name in STAGES:
        assert f"`{name}`" in page, name
    for stage, option in re.findall(r"\b([a-z-]+)\.([a-z_]+)=", page):
        assert stage == "train" or option in options[stage], (stage, option)


def test_the_seed_of_the_command_is_that_of_the_stages():
    assert [stage.seed for stage in stages_of(["product-quant"], {}, seed=7)] == [7]
    assert [stage.seed for stage in stages_of(["product-quant"], {"product-quant.seed": 3}, seed=7)] == [3]
