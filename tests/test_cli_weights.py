"""Weights pruned through the command line: from a budget to an artefact, its verdict and its page."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
from cli_toy import run, workplace

from ecc.api.named import data_name
from ecc.api.weight_recipe import WEIGHT_METHODS
from ecc.cli.progress import ProgressLine
from ecc.zoo.loading import load_model

TRAINED = "net.py:small --weights weights.safetensors --data digits"
ENERGY = "--budget energy=0.6 --cost systolic:eyeriss"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return workplace(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("ECC_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="module")
def pruned(made):
    """What is said of a compression by projected SGD, as JSON and as text."""
    line = f"compress {TRAINED} {ENERGY} --method projected-sgd --epochs 1 --quiet --out"
    with contextlib.chdir(made):
        return run(f"{line} sparse --json").value, run(f"{line} again")


@pytest.fixture(scope="module")
def joint(made):
    """JSON of a compression of channels and then weights."""
    with contextlib.chdir(made):
        return run(
            f"compress {TRAINED} --budget energy=0.4 --budget macs=0.8 --cost systolic:eyeriss --method uniform "
            "--then projected-sgd --epochs 2 --quiet --json --out joint"
        ).value


def test_the_fields_of_the_interface_are_there(pruned, made):
    value, _ = pruned
    assert {
        "method",
        "budgets",
        "accuracy_dense",
        "accuracy",
        "widths",
        "nonzero_fraction",
        "rounds",
        "seconds",
    } <= set(value)
    (budget,) = value["budgets"]
    assert value["method"] == "projected-sgd"
    assert (budget["met"], value["met"]) == (True, True)
    assert budget["measured"] <= budget["predicted"] <= budget["limit"] == 0.6 * budget["dense"]
    assert (budget["unit"], budget["source"]) == ("e_RF", "systolic array eyeriss")
    assert 0 < value["nonzero_fraction"] < 1
    assert {layer["name"] for layer in value["layers"]} == {"stem", "inner", "outer", "head"}
    assert value["layers_unit"] == "e_RF"
    assert sum(layer["total"] for layer in value["layers"]) == pytest.approx(budget["measured"])
    assert Path(value["artefact"]) == made / "sparse"
    assert not Path(".sparse.work").exists()


def test_the_text_shows_each_layer_before_and_after(pruned):
    _, said = pruned
    assert (said.code, said.err) == (0, "")
    assert re.search(r"^layer +weights +kept +energy before \(e_RF\) +after +saved$", said.out, re.MULTILINE)
    assert re.search(r"^inner +2,304 +[\d.]+ % +1\.689 M +[\d.]+ [kM] +[\d.]+ %$", said.out, re.MULTILINE)
    assert "energy of systolic array eyeriss" in said.out


def test_verify_computes_the_verdict_from_the_stored_weights(pruned, joint):
    for name, value in (("sparse", pruned[0]), ("joint", joint)):
        said = run(f"verify {name} --json --quiet")
        assert said.code == 0
        assert said.value["accuracy"] == value["accuracy"]
        for again, before in zip(said.value["budgets"], value["budgets"], strict=True):
            assert (again["met"], again["measured"]) == (True, pytest.approx(before["measured"]))


def test_channels_and_weights_share_a_job(joint):
    assert joint["method"] == "uniform+projected-sgd"
    assert {budget["metric"]: budget["met"] for budget in joint["budgets"]} == {"energy": True, "macs": True}
    assert all(width < 16 for width in joint["widths"].values())
    settings = json.loads(Path("joint/manifest.json").read_text())["settings"]
    assert (settings["epochs"], settings["then.method"], settings["then.share"]) == (2, "projected-sgd", 0.5)


def test_the_page_shows_layers_and_the_budget(pruned, joint):
    page = Path("sparse/report.html").read_text()
    assert "Layers before and after" in page
    assert "Widths before and after" not in page
    assert "of systolic array eyeriss" in page
    assert Path("sparse/layers.png").read_bytes().startswith(b"\x89PNG")
    assert "Widths before and after" in Path("joint/report.html").read_text()


def test_inspect_shows_the_layers(pruned):
    value = run("inspect sparse --json").value
    assert (value["weight_method"], value["masked"]) == ("projected-sgd", [])
    assert [layer["name"] for layer in value["layers"]] == ["stem", "inner", "outer", "head"]


def test_fronts_compare_methods_at_equal_energy(pruned, made):
    magnitude = run(f"compress {TRAINED} {ENERGY} --method weight-magnitude --epochs 1 --quiet --out magnitude")
    assert magnitude.code == 0
    front = run("front sparse magnitude --x energy --out front.html --json").value
    assert {point["method"] for point in front["points"]} == {"dense", "projected-sgd", "weight-magnitude"}
    counted = run("front sparse magnitude --x params --out front.html --json").value
    kept = {point["method"]: point["x"] for point in counted["points"]}
    assert kept["projected-sgd"] < kept["dense"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--budget latency=0.5 --method projected-sgd", "cannot keep a budget on latency: zeros leave the shapes"),
        (
            "--budget latency=0.5 --cost systolic:eyeriss --method projected-sgd",
            "cannot keep a budget on latency: zeros leave the shapes",
        ),
        ("--budget energy=0.5 --method projected-sgd", "give --cost systolic:eyeriss"),
        (f"{ENERGY} --method projected-sgd --rounds 3", "rounds is of methods that remove channels"),
        (f"{ENERGY} --method projected-sgd --set projected-sgd.every=0", "every"),
        (f"{ENERGY} --method projected-sgd --set admm.rho=3", "of no part of a job of projected-sgd"),
        (f"{ENERGY} --method projected-sgd --then projected-sgd", "prunes weights already"),
        ("--budget energy=0.01 --cost systolic:eyeriss --method projected-sgd", "with all weights zero 0.349 of dense"),
        ("--budget params=0.01 --method weight-uniform", "with all weights zero"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence_before_training(arguments, words):
    said = run(f"compress {TRAINED} {arguments} --pretrain 1 --out refused")
    assert said.code == 2
    assert said.out == ""
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("refused").exists()
    assert not Path(".refused.work").exists()


def test_help_names_the_methods_and_their_options():
    said = " ".join(run("compress --help").out.split())
    assert all(method in said for method in WEIGHT_METHODS)
    assert re.search(r"projected-sgd: every", said)
    assert re.search(r"then: share, epochs", said)


def test_interrupted_pruning_resumes_to_the_result_of_an_undisturbed_one(monkeypatch):
    line = f"compress {TRAINED} {ENERGY} --method projected-sgd --epochs 2 --json --quiet --seed 3 --out"
    whole = run(line, "whole").value
    report = ProgressLine.__call__

    def press(self, name, done, total, note=""):
        if name == "projected-sgd" and done >= total / 2:
            os.kill(os.getpid(), signal.SIGINT)
        report(self, name, done, total, note)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLine, "__call__", press)
        said = run(line, "parts")
    assert said.code == 130
    assert f"resume with: ecc {line} parts" in said.err
    assert not Path("parts").exists()
    parts = run(line, "parts").value
    for field in ("layers", "accuracy", "budgets"):
        assert parts[field] == whole[field]
    assert not Path(".parts.work").exists()


@pytest.mark.parametrize(
    ("model", "given", "name"),
    [
        ("zoo:lenet5", "mnist", "mnist-32"),
        ("zoo:lenet5", "fashion-mnist", "fashion-mnist"),
        ("zoo:lenet5", "mnist-32", "mnist-32"),
        ("zoo:lenet-300-100", "mnist", "mnist"),
        ("zoo:digits-resnet", "my_data.py:loaders", "my_data.py:loaders"),
    ],
)
def test_data_are_taken_in_the_size_that_a_network_of_the_zoo_takes(model, given, name):
    assert data_name(given, load_model(model)) == name
