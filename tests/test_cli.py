import contextlib
import errno
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cli_toy import PROCESS, run, workplace

from ecc.api.recipe import METHODS, Recipe
from ecc.cli.main import COMMANDS
from ecc.cli.progress import ProgressLine
from ecc.core.errors import Interrupted
from ecc.report.style import quantity

BUDGET = {"metric", "limit", "dense", "predicted", "measured", "met"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained network, its profile of eight examples a run, and its cost model."""
    return workplace(tmp_path_factory.mktemp("cli"))


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("ECC_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


NET = "net.py:small --input 1x1x8x8"
TRAINED = "net.py:small --weights weights.safetensors --data digits"


@pytest.fixture(scope="module")
def profiled(made):
    """JSON of a profile and of its fit."""
    profile = "profile net.py:small --input 32x1x8x8 --samples 14 --step 2 --store net.db --json"
    with contextlib.chdir(made):
        return run(profile).value, run("fit net.db --metric latency -o cost.json --json").value


@pytest.fixture(scope="module")
def halves(made):
    """JSON of three compressions to half of the MACs, one per method."""
    line = f"compress {TRAINED} --budget macs=0.5 --epochs 2 --json --quiet"
    with contextlib.chdir(made):
        return {method: run(line, f"--method {method} --out {method}").value for method in METHODS}


# -- the whole path, and the fields of the interface


def test_devices_names_every_meter_with_its_source_or_its_reason():
    said = run("devices --json")
    assert said.code == 0
    for device in said.value["devices"]:
        assert {"name", "kind", "fingerprint", "meters"} <= set(device)
        assert set(device["meters"]) == {"latency", "energy"}
        for meter in device["meters"].values():
            assert bool(meter["source"]) == meter["available"] != bool(meter["reason"])


def test_graph_counts_what_the_network_has():
    said = run("graph net.py:small --input 1x1x8x8 --json")
    assert said.code == 0
    groups = {group["name"]: group for group in said.value["groups"]}
    assert all({"name", "width", "prunable", "step", "layers"} <= set(group) for group in groups.values())
    assert {name for name, group in groups.items() if group["prunable"]} == {"stem", "inner"}
    assert {"stem", "outer", "norm"} <= set(groups["stem"]["layers"])
    assert said.value["macs"] == 64 * 9 * 16 + 2 * 64 * 9 * 256 + 256 * 10
    assert said.value["params"] == 9 * 16 + 32 + 2 * (9 * 256 + 16) + 2570


def test_graph_says_what_share_of_the_macs_scales_with_a_group_and_which_blocks_may_go():
    value = run("graph net.py:small --input 1x1x8x8 --json").value
    groups = {group["name"]: group for group in value["groups"]}
    assert groups["inner"]["macs_share"] == pytest.approx(2 * 64 * 9 * 256 / value["macs"])
    assert groups["head"]["macs_share"] == 0.0
    assert all({"name", "removable", "reason", "layers", "groups", "macs", "params"} == set(b) for b in value["blocks"])
    text = run("graph net.py:small --inp=1x1x8x8").out  # an option may be cut short
    assert "no: it is an output of the network" in text
    assert any(each.startswith("small: 2 of 3 groups prunable") for each in text.splitlines())


@pytest.mark.parametrize(
    ("option", "prunable"),
    [
        ("--include inner", {"inner"}),
        ("--exclude inner", {"stem"}),
        ("--include type:Linear", set()),
        ("--exclude type:Conv2d", set()),
    ],
)
def test_graph_leaves_the_choice_of_layers_to_the_user(option, prunable):
    groups = run(f"graph {NET} --json", option).value["groups"]
    assert {group["name"] for group in groups if group["prunable"]} == prunable
    profile = run(f"profile {NET} --samples 12 --store new.db", option) if not prunable else None
    assert profile is None or "no prunable group" in profile.err


def test_graph_widths_are_multiples_of_the_users_step():
    groups = run(f"graph {NET} --step 4 --json").value["groups"]
    assert {group["name"]: group["step"] for group in groups if group["prunable"]} == {"stem": 4, "inner": 4}


def test_graph_prunes_under_layer_norms_on_request():
    def stream(*options):
        return run("graph net.py:normed --input 1x8 --json", *options).value["groups"][0]

    assert stream()["reason"].startswith("layer_norm in 1 takes its statistics over these channels")
    assert stream("--renormalise")["prunable"]


def test_graph_counts_at_given_widths(tmp_path):
    macs = 64 * 9 * 16 + 2 * 64 * 9 * 16 * 4 + 256 * 10
    file = tmp_path / "widths.json"
    file.write_text('{"inner": 4}')
    result = tmp_path / "result.json"
    result.write_text('{"method": "admm", "widths": {"inner": 4}}')
    for given in ("inner=4", "inner=4,stem=16", file, result):
        at = run(f"graph {NET} --json --widths", given).value["at"]
        assert at["widths"]["inner"] == 4
        assert at["macs"] == macs
    assert "then left: " in run(f"graph {NET} --widths inner=4").out


def test_graph_counts_bytes_of_memory():
    value = run(f"graph {NET} --json --widths inner=4").value
    norm, head = 4 * 16 * 4 + 8, 2570 * 4  # its statistics and how often it took them; 256 × 10 weights and 10 biases
    plane = 64 * 4  # bytes of a channel
    assert value["memory_weights"] == 4 * (9 * 16 + 2 * (9 * 256 + 16)) + norm + head
    assert value["memory_activations"] == 3 * 16 * plane  # shortcut, branch, and what is made of both
    assert value["memory"] == value["memory_weights"] + value["memory_activations"]
    assert value["at"]["memory_weights"] == 4 * (9 * 16 + 2 * 9 * 64 + 4 + 16) + norm + head
    assert value["at"]["memory"] == value["at"]["memory_weights"] + value["at"]["memory_activations"]
    assert "kB of memory (" in run(f"graph {NET}").out


def test_graph_counts_without_a_block():
    value = run("graph net.py:deep --input 1x1x8x8 --json").value
    (block,) = (block for block in value["blocks"] if block["removable"])
    less = run("graph net.py:deep --input 1x1x8x8 --json --remove", block["name"]).value
    assert less["at"]["macs"] == value["macs"] - block["macs"]
    assert less["at"]["params"] == value["params"] - block["params"]
    assert less["at"]["removed"] == [block["name"]]
    assert less["at"]["memory_weights"] == value["memory_weights"] - 4 * block["params"]
    assert less["at"]["memory_activations"] < value["memory_activations"]


def test_graph_draws_a_page(tmp_path):
    page = tmp_path / "graph.html"
    said = run(f"graph {NET} --widths inner=4 --html {page} --json")
    assert said.value["page"] == str(page)
    html = page.read_text()
    assert "small: width graph" in html
    assert "At the given widths" in html
    assert "At the given widths" not in run(f"graph {NET} --html {page}").out + page.read_text()


def test_options_reach_the_factory():
    groups = run("graph net.py:small width=6 --input 1x1x8x8 --json").value["groups"]
    assert groups[0]["width"] == 6


def test_profile_says_what_was_measured_and_how_well(profiled):
    value, _ = profiled
    assert {"rows", "rows_reused", "dense", "noise", "drift", "seconds", "store"} <= set(value)
    assert (value["rows_reused"], value["store"]) == (0, "net.db")
    assert value["rows"] >= 14
    assert 0 < value["dense"]["latency_s"] < 1
    assert value["dense"]["energy_j"] is None
    assert 0 < value["noise"]["latency"] < 1


def test_second_profile_measures_nothing_again(profiled):
    said = run("profile net.py:small --input 32x1x8x8 --samples 14 --step 2 --store net.db --json --quiet")
    assert said.err == ""
    assert said.value["rows_reused"] == profiled[0]["rows"]


def test_fit_gives_the_error_on_held_out_rows_beside_the_noise(profiled):
    _, value = profiled
    named = {"form", "samples", "holdout", "noise_floor", "interval_coverage", "coefficients", "learning_curve"}
    assert named <= set(value)
    assert set(value["holdout"]) == {"mape", "p95", "worst", "within_10pct"}
    assert all({"samples", "mape"} == set(point) for point in value["learning_curve"])


def test_fit_that_is_worse_than_the_users_error_exits_with_1(profiled):
    said = run("fit net.db --max-error 1e-9 -o other.json")
    assert said.code == 1
    assert "above --max-error" in said.out


@pytest.mark.parametrize("method", METHODS)
def test_compress_meets_its_budget_on_counts(halves, method):
    value = halves[method]
    named = {"method", "budgets", "accuracy_dense", "accuracy", "widths", "nonzero_fraction", "rounds", "seconds"}
    assert {*named, "artefact"} <= set(value)
    (budget,) = value["budgets"]
    assert set(budget) >= BUDGET
    assert budget["met"] is True
    assert 0.3 * budget["dense"] < budget["measured"] <= budget["limit"] == 0.5 * budget["dense"]
    assert value["accuracy_dense"] > 0.8
    assert value["accuracy"] > 0.5
    assert Path(value["report"]).is_file()


def test_verify_judges_counts_anew(halves):
    said = run("verify magnitude --json --quiet")
    assert said.code == 0
    assert set(said.value["budgets"][0]) >= BUDGET
    assert said.value["accuracy"] == halves["magnitude"]["accuracy"]


def test_artefact_is_verified_from_another_folder_and_with_the_model_named_anew(halves, made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for naming in ("", f"--model {made / 'net.py'}:small --data digits"):
        said = run(f"verify {made / 'magnitude'} {naming} --json --quiet")
        assert said.code == 0
        assert said.value["accuracy"] == halves["magnitude"]["accuracy"]


def test_latency_budget_is_measured_and_the_exit_code_is_the_verdict(profiled, monkeypatch):
    monkeypatch.setattr("ecc.api.weight_recipe.Recipe", partial(Recipe, measure_s=2.0, rounds=2))
    line = f"compress {TRAINED} --budget latency=0.8 --cost cost.json --method magnitude --epochs 2 --out fast --json"
    said = run(line)
    (budget,) = said.value["budgets"]
    assert said.code == int(not budget["met"])
    assert budget["met"] == (budget["high"] <= budget["limit"])
    assert 0 < budget["measured"] < budget["dense"]
    front = run("front fast --x latency --out fast.html --json").value
    assert [point["method"] for point in front["points"]] == ["dense", "magnitude"]


def test_budgets_on_memory_counts_and_time_hold_together(profiled, monkeypatch):
    monkeypatch.setattr("ecc.api.weight_recipe.Recipe", partial(Recipe, measure_s=2.0, rounds=2))
    budgets = "--budget memory=0.7 --budget latency=0.95 --budget macs=20kMAC --cost cost.json"
    said = run(f"compress {TRAINED} {budgets} --method magnitude --epochs 2 --out mixed --json")
    memory, latency, macs = said.value["budgets"]
    assert (memory["unit"], memory["met"], macs["met"]) == ("B", True, True)
    assert memory["measured"] == int(memory["measured"]) <= 0.7 * memory["dense"]
    assert said.code == int(not latency["met"])
    again = run("verify mixed --json --quiet").value["budgets"][0]
    assert (again["measured"], again["met"]) == (memory["measured"], True)
    assert " kB ≤ " in run("verify mixed --quiet").out
    assert quantity(memory["measured"], "B") in Path("mixed/report.html").read_text(encoding="utf-8")


def test_several_limits_make_an_artefact_each_and_a_page_of_all(made, tmp_path):
    line = (
        f"compress {TRAINED} --budget macs=0.7,0.5 --budget params=0.9 --epochs 2 --json --quiet --out {tmp_path}/all"
    )
    said = run(line)
    assert said.code == 0
    value = said.value
    assert value["met"] is True
    assert [result["label"] for result in value["results"]] == ["macs-0.70", "macs-0.50"]
    for result, share in zip(value["results"], (0.7, 0.5), strict=True):
        macs, params = result["budgets"]
        assert macs["measured"] <= share * macs["dense"]
        assert params["measured"] <= 0.9 * params["dense"]
        assert run(f"verify {result['artefact']} --json --quiet").value["met"] is True
    assert "macs-0.50" in Path(value["front"]).read_text(encoding="utf-8")
    assert not list(tmp_path.glob(".*"))
    again = run(line)  # what is there is replaced
    assert again.code == 0
    assert again.value["results"][1]["widths"] == value["results"][1]["widths"]
    one, inside = line.replace("macs=0.7,0.5", "macs=0.7"), line.replace(f"{tmp_path}/all", f"{tmp_path}/all/macs-0.70")
    one_sentence(run(one), 2, "holds something else than one artefact", as_json=True)
    one_sentence(run(inside), 2, "cannot hold several artefacts", as_json=True)
    one_sentence(run(f"verify {tmp_path}/all"), 2, f"give one of the artefacts in it, such as {tmp_path}/all/macs-0.50")


def test_settings_reach_the_method_and_the_manifest(tmp_path):
    settings = "--set admm.rho=3 --set train.optimizer=adamw --set tune.clip_norm=1 --set train.step_at=0.4,0.8"
    said = run(f"compress {TRAINED} --budget macs=0.6 --epochs 2 --json --quiet {settings} --out {tmp_path}/set")
    assert said.code == 0
    kept = json.loads((tmp_path / "set" / "manifest.json").read_text())["settings"]
    assert (kept["admm.rho"], kept["train.optimizer"], kept["tune.clip_norm"]) == (3, "adamw", 1)
    assert kept["train.step_at"] == "0.4,0.8"


@pytest.mark.parametrize("axis", ["macs", "params", "memory", "bytes"])
def test_front_compares_what_was_compressed(halves, axis, tmp_path):
    said = run("front", *halves, f"--x {axis} --out {tmp_path / 'front.html'} --json")
    assert said.code == 0
    points = said.value["points"]
    assert all({"method", "x", "accuracy", "seed"} <= set(point) for point in points)
    assert [point["method"] for point in points if point["method"] != "dense"] == list(halves)
    assert set(said.value["hypervolume"]) >= set(halves)
    assert Path(said.value["figure"]).read_bytes().startswith(b"\x89PNG")


def test_inspect_knows_a_store_a_cost_model_and_an_artefact(profiled, halves, tmp_path):
    table = tmp_path / "rows.csv"
    assert run(f"inspect net.db --json --csv {table}").value["kind"] == "profile store"
    assert len(table.read_text().splitlines()) == profiled[0]["rows"] + 1
    assert run("inspect cost.json --json").value["metric"] == "latency"
    artefact = run("inspect admm --json").value
    assert (artefact["kind"], artefact["method"]) == ("ecc-artefact", "admm")


def test_text_for_people_is_on_stdout_and_progress_on_stderr(profiled, halves):
    for line in (
        "devices",
        "graph net.py:small --input 1x1x8x8",
        "fit net.db -o o.json",
        "verify admm",
        "inspect admm",
    ):
        said = run(line, "--quiet")
        assert (said.code, said.err) == (0, "")
        assert said.out.strip()


# -- wrong input: one sentence, exit code 2 or 3, nothing left behind

PROFILE = f"profile {NET} --store new.db --samples 12"
COMPRESS = f"compress {TRAINED} --out new"
WRONG = [
    ("compress net.py:small --buget macs=0.5 --out new", 2, "there is no option --buget; did you mean --budget?"),
    ("graph net.py:small --qqq", 2, "there is no option --qqq; ecc graph --help shows what is taken"),
    ("", 2, "give a command"),
    ("bogus", 2, "invalid choice: 'bogus'"),
    ("graph", 2, "required: MODEL"),
    ("graph zoo:nope", 2, "zoo has no network 'nope'"),
    ("graph net.py:nope", 2, "has no 'nope'"),
    ("graph nofile.py:small", 2, "there is no file"),
    ("graph net.py:fails --input 1x1x8x8", 2, "no such disk"),
    ("graph net.py:text --input 1x1x8x8", 2, "must return an nn.Module"),
    ("graph net.py:needs --input 1x1x8x8", 2, "missing a required argument: 'depth'"),
    ("graph net.py:small", 2, "--input 1x3x32x32"),
    ("graph net.py:small width --input 1x1x8x8", 2, "not KEY=VALUE"),
    ("graph net.py:small --input 1x3x8x8", 2, "does not run on an input of 1×3×8×8"),
    ("graph net.py:small --input 1x1x8x8:int64", 2, "does not run"),
    ("graph net.py:small --input 1x1x8x8:complex", 2, "dtype 'complex' is unknown"),
    ("graph net.py:small --input 1xx8", 2, "sizes joined by x"),
    ("graph net.py:small --input 0x1x8x8", 2, "sizes joined by x"),
    ("graph net.py:small --input 999999999x99999x8x8", 2, "do not fit in memory"),
    ("graph net.py:small --input 99999999999999999999x1x8x8", 2, "do not fit in memory"),
    ("graph net.py:Broken --input 1x1x8x8", 2, "NaN"),
    (f"graph {NET} --include nowhere", 2, "matches no layer"),
    (f"graph {NET} --include type:Conv3d", 2, "matches no layer"),
    (f"graph {NET} --step 0", 2, "at least 1"),
    (f"graph {NET} --widths inner", 2, "neither GROUP=N,… nor a file"),
    (f"graph {NET} --widths inner=x", 2, "'inner=x' is not GROUP=N"),
    (f"graph {NET} --widths inner=4,=3", 2, "'=3' is not GROUP=N"),
    (f"graph {NET} --widths inner=17", 2, "width 17 of group 'inner' is not admissible"),
    (f"graph {NET} --widths other=4", 2, "unknown group 'other'"),
    (f"graph {NET} --widths head=4", 2, "group 'head' stays dense: it is an output"),
    (f"graph {NET} --widths net.py", 2, "not readable JSON"),
    (f"graph {NET} --widths .", 2, "neither GROUP=N,… nor a file"),
    (f"graph {NET} --remove inner", 2, "there is no residual block 'inner'"),
    (f"graph {NET} --html .", 2, "is a folder"),
    (f"graph {NET} --html net.py/new.html", 2, "cannot be written"),
    (f"graph {NET} --html nowhere/new.html", 2, "the folder 'nowhere' does not exist"),
    (f"graph {NET} --weights nofile.pt", 2, "no such file"),
    (f"graph {NET} --weights net.py", 2, "never loads"),
    (f"graph {NET} --seed -1", 2, "whole number from 0"),
    (f"graph {NET} --seed 1e3", 2, "whole number from 0"),
    (f"graph {NET} --seed 99999999999999999999", 2, "whole number from 0"),
    ("profile net.py:Lone --input 1x1x8x8 --store new.db", 2, "no prunable group"),
    ("profile net.py:Broken --input 1x1x8x8 --store new.db", 2, "NaN"),
    (f"{PROFILE} --samples 0", 2, "samples must be at least 1"),
    (f"{PROFILE} --samples -1", 2, "samples must be at least 1"),
    (f"{PROFILE} --batch 0", 2, "--batch must be at least 1"),
    (f"{PROFILE} --batch 99999999999999", 2, "do not fit in memory"),
    (f"{PROFILE} --threads 0", 2, "at least 1"),
    (f"{PROFILE} --threads 99999", 2, "the cores of this machine"),
    (f"{PROFILE} --step 0", 2, "at least 1 channel"),
    (f"{PROFILE} --device cuda", 3, "no CUDA device"),
    (f"{PROFILE} --device tpu", 2, "'tpu' is unknown"),
    (f"{PROFILE} --runtime bogus", 2, "invalid choice: 'bogus'"),
    (f"{PROFILE} --metric latency --metric latency", 2, "each metric once"),
    (f"profile {NET} --store .", 2, "is a folder"),
    (f"profile {NET} --store net.py", 2, "not a profile store"),
    (f"profile {NET} --store net.py/new.db", 2, "cannot be written"),
    ("fit nofile.db -o new.json", 2, "does not exist"),
    ("fit net.py -o new.json", 2, "not a profile store"),
    (f"{COMPRESS} --budget latency=fast", 2, "is not a number"),
    (f"{COMPRESS} --budget latency=0", 2, "positive"),
    (f"{COMPRESS} --budget latency=-1", 2, "positive"),
    (f"{COMPRESS} --budget latency=1.5", 2, "above the dense network"),
    (f"{COMPRESS} --budget macs=1TMAC", 2, "above the dense network"),
    (f"{COMPRESS} --budget latency", 2, "has no limit"),
    (f"{COMPRESS} --budget beauty=0.5", 2, "'beauty' is unknown"),
    (f"{COMPRESS} --budget latency=0.5", 2, "needs a cost model"),
    (f"{COMPRESS} --budget macs=0.001", 2, "admissible"),
    (f"{COMPRESS} --budget macs=0.5 --budget macs=0.4", 2, "several budgets"),
    (f"{COMPRESS} --budget latency=0.5 --cost net.py", 2, "not readable JSON"),
    (f"{COMPRESS} --budget latency=0.5 --cost nofile.json", 2, "cannot be read"),
    ("compress net.py:small --data digitz --budget macs=0.5 --out new", 2, "did you mean digits"),
    ("compress net.py:small --data mnist --budget macs=0.5 --out new", 2, "--data-dir"),
    ("compress net.py:small --data mnist --data-dir nowhere --budget macs=0.5 --out new", 2, "does not exist"),
    ("compress net.py:small --data mnist --data-dir . --budget macs=0.5 --out new", 2, "train-images"),
    ("compress net.py:small --data net.py:small --budget macs=0.5 --out new", 2, "loaders"),
    ("compress net.py:Broken --data digits --budget macs=0.5 --out new", 2, "NaN"),
    ("compress net.py:Lone --data digits --budget macs=0.5 --out new", 2, "no prunable group"),
    ("compress zoo:lenet5 --data digits --budget macs=0.5 --out new", 2, "does not run on an input of 1×1×8×8"),
    ("compress net.py:small --data digits --budget macs=0.5 --out new", 2, "hardly better than chance"),
    ("compress net.py:small --data digits --budget macs=0.5 --out new --pretrain 1 --lr 1e30", 2, "lower the learning"),
    (f"{COMPRESS} --budget macs=0.5 --out net.py", 2, "is not a folder"),
    (f"{COMPRESS} --budget macs=0.5 --out .", 2, "holds something else"),
    (f"{COMPRESS} --budget macs=0.5 --out net.py/new", 2, "cannot be written"),
    (f"{COMPRESS} --budget macs=0.5 --epochs 0", 2, "epochs must be at least 2"),
    (f"{COMPRESS} --budget macs=0.5 --epochs 1", 2, "epochs must be at least 2"),
    (f"{COMPRESS} --budget macs=0.5 --pretrain -1", 2, "--pretrain"),
    (f"{COMPRESS} --budget macs=0.5,0.7", 2, "must fall"),
    (f"{COMPRESS} --budget macs=0.5,0.3 --budget params=0.5,0.4,0.3", 2, "give as many"),
    (f"{COMPRESS} --budget macs=0.5,0.001", 2, "admissible"),
    (f"{COMPRESS} --budget macs=0.5, --epochs 2", 2, "is not a number"),
    (f"{COMPRESS} --budget macs=0.5 --chance 1", 2, "probability from 0.5"),
    (f"{COMPRESS} --budget macs=0.5 --chance 95", 2, "probability from 0.5"),
    (f"{COMPRESS} --budget macs=0.5 --rounds 0", 2, "rounds must be at least 1"),
    (f"{COMPRESS} --budget macs=0.5 --set rho=1", 2, "is not PART.OPTION=VALUE"),
    (f"{COMPRESS} --budget macs=0.5 --set admm.row=1", 2, "did you mean rho"),
    (f"{COMPRESS} --budget macs=0.5 --set admm.rho=high", 2, "must be a number, got 'high'"),
    (f"{COMPRESS} --budget macs=0.5 --set admm.rho=-1", 2, "must be positive"),
    (f"{COMPRESS} --budget macs=0.5 --set admm.rho=1 --set admm.rho=2", 2, "more than once"),
    (f"{COMPRESS} --budget macs=0.5 --set netadapt.decay=1", 2, "the method is admm"),
    (f"{COMPRESS} --budget macs=0.5 --set train.optimizer=adagard", 2, "must be adam"),
    (f"{COMPRESS} --budget macs=0.5 --set train.mixed_precision=3", 2, "must be true or false"),
    (f"{COMPRESS} --budget macs=0.5 --set train.lr=0.1", 2, "give lr (--lr) instead"),
    (f"{COMPRESS} --budget macs=0.5 --method uniform --set solve.lr=0.1", 2, "use tune.OPTION"),
    (f"{COMPRESS} --budget macs=0.5 --lr 0", 2, "lr"),
    (f"{COMPRESS} --budget macs=0.5 --lr nan", 2, "lr"),
    (f"{COMPRESS} --budget macs=0.5 --distill 2", 2, "distill"),
    (f"{COMPRESS} --budget macs=0.5 --batch-size 0", 2, "batch size"),
    (f"{COMPRESS} --budget macs=0.5 --method guess", 2, "invalid choice: 'guess'"),
    (f"{COMPRESS} --budget macs=0.5 --device cuda", 3, "no CUDA device"),
    (f"{COMPRESS} --budget macs=0.5 --device mps", 2, "choose cpu or cuda"),
    ("verify nowhere", 2, "is not a folder"),
    ("verify .", 2, "no manifest.json"),
    ("front nowhere --out new.html", 2, "is not a folder"),
    ("inspect nowhere", 2, "there is no 'nowhere'"),
    ("inspect net.py", 2, "not readable JSON"),
    ("inspect weights.safetensors --csv new.csv", 2, "is none"),
    ("demo --out new --budget 2", 2, "above the dense network"),
    ("demo --out new --budget 0", 2, "positive"),
    ("demo --out new --budget 5ms", 2, "fraction of the dense latency"),
    ("demo --out new --device cuda", 3, "no CUDA device"),
    ("demo --out net.py", 2, "cannot be written"),
]


def one_sentence(said, code, words, *, as_json=False):
    assert said.code == code
    assert bool(said.out) == as_json
    if as_json:
        assert json.loads(said.out)["error"]["message"] in said.err
    lines = [line for line in said.err.splitlines() if not line.startswith("pretrain")]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("ecc")
    assert words in lines[0]
    return lines[0]


@pytest.mark.parametrize(("line", "code", "words"), WRONG)
def test_wrong_input_is_refused_with_one_sentence(made, line, code, words):
    before = sorted(made.rglob("*"))
    one_sentence(run(line), code, words)
    assert [path for path in sorted(made.rglob("*")) if path not in before and "__pycache__" not in path.parts] == []


@pytest.mark.parametrize(
    ("line", "code"),
    [("graph net.py:nothing --input 1x1x8x8", 2), ("demo --out new --device cuda", 3), ("demo --no-such", 2), ("", 2)],
    ids=["input", "machine", "option", "no command"],
)
def test_programs_get_the_error_as_an_object_in_place_of_the_result(line, code):
    said = run(line, "--json")
    error = said.value["error"]
    called = f"ecc {error['command']}".rstrip()
    assert (said.code, error["code"], error["resume"]) == (code, code, None)
    assert error["command"] == line.partition(" ")[0]
    assert said.err == f"{called}: {error['message']}\n"


def test_missing_meter_exits_with_3_and_the_reason(monkeypatch):
    monkeypatch.setattr("ecc.profiler.meters.rapl.packages", list, raising=False)
    energy = run("devices --json").value["devices"][0]["meters"]["energy"]
    if energy["available"]:
        pytest.skip("this machine measures energy")
    one_sentence(run(f"{PROFILE} --metric energy"), 3, energy["reason"])
    assert not Path("new.db").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("profile net.py:small --input 4x1x8x8 --step 2", "input shape 4x1x8x8 instead of 32x1x8x8"),
        ("profile net.py:small width=8 --input 32x1x8x8 --step 2", "network small"),
        ("profile net.py:small --input 32x1x8x8 --step 4", "a step of 4 in group '"),
    ],
)
def test_store_of_something_else_is_refused(profiled, line, words):
    before = Path("net.db").read_bytes()
    one_sentence(run(line, "--store net.db --samples 12"), 2, words)
    assert Path("net.db").read_bytes() == before


def test_store_of_another_device_is_refused(profiled, tmp_path):
    other = tmp_path / "other.db"
    other.write_bytes(Path("net.db").read_bytes())
    with sqlite3.connect(other) as connection:
        (text,) = connection.execute("SELECT provenance FROM runs").fetchone()
        moved = json.dumps(json.loads(text) | {"device": "Abacus", "device_fingerprint": "f" * 16})
        connection.execute("UPDATE runs SET provenance = ?", (moved,))
    connection.close()
    said = run(f"profile net.py:small --input 32x1x8x8 --step 2 --samples 12 --store {other}")
    assert "instead of Abacus" in one_sentence(said, 2, "belongs to another profile")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--budget latency=0.001 --cost cost.json", "admissible"),
        ("--budget latency=50s --cost cost.json", "above the dense network"),
        ("--budget macs=0.5 --cost cost.json", "has no budget"),
        ("--budget latency=0.9 --cost cost.json --cost cost.json", "two cost models"),
    ],
)
def test_cost_model_that_does_not_fit_the_budgets_is_refused(profiled, arguments, words):
    one_sentence(run(COMPRESS, arguments), 2, words)
    assert not Path("new").exists()


def test_cost_model_of_another_network_is_refused(profiled):
    line = "compress net.py:small width=8 --data digits --out new --budget latency=0.9 --cost cost.json"
    one_sentence(run(line), 2, "belongs to another network")


@pytest.mark.parametrize("cut", [0, 1, 100, -10])
def test_damaged_cost_model_is_refused(profiled, cut, tmp_path):
    damaged = tmp_path / "cost.json"
    damaged.write_bytes(Path("cost.json").read_bytes()[:cut])
    for line in (f"{COMPRESS} --budget latency=0.9 --cost {damaged}", f"inspect {damaged}"):
        one_sentence(run(line), 2, "cost model")


def test_damaged_data_is_refused(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00 cut short")
    line = f"compress zoo:lenet5-caffe --data mnist --data-dir {tmp_path} --budget macs=0.5 --out new"
    one_sentence(run(line), 2, "ubyte")


def copied(source, target):
    target.mkdir()
    for file in Path(source).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("name", ["weights.safetensors", "history.csv", "report.html"])
def test_artefact_with_one_flipped_bit_is_refused(halves, name, tmp_path):
    folder = copied("admm", tmp_path / "bad")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    for line in (f"verify {folder}", f"front {folder} --x macs --out new.html"):
        one_sentence(run(line), 2, name)


def test_artefact_whose_network_has_changed_is_refused(halves, tmp_path):
    folder = copied("admm", tmp_path / "moved")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"options": {"width": "8"}}))
    one_sentence(run(f"verify {folder}"), 2, "another network")


def test_front_without_the_axis_is_refused(halves):
    one_sentence(run("front admm --x latency --out new.html"), 2, "no measured latency (measured: macs)")


@pytest.mark.parametrize(
    "line",
    [
        "graph zoo:nothing --html",
        "front nothing --out",
        "fit nothing.db -o",
        "fit nothing.db --html",
        "systolic zoo:nothing --html",
        "profile zoo:nothing --store",
        "inspect nothing.db --html",
        "inspect nothing.db --csv",
        "inspect nothing.db --parquet",
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(line, monkeypatch):
    one_sentence(run(f"{line} not/there/file"), 2, "the folder 'not/there' does not exist; make it, or write file")
    one_sentence(run(f"{line} ."), 2, "is a folder")
    one_sentence(run(f"{line} net.py/file"), 2, "cannot be written: 'net.py' is a file")
    one_sentence(run(f"{line} {'a' * 5000}/file"), 2, "cannot be written")

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)
    one_sentence(run(f"{line} file"), 2, "file cannot be written: Permission denied; choose another place")


def test_front_cannot_be_written_to_a_folder_or_a_full_disk(halves, monkeypatch, tmp_path):
    one_sentence(run("front admm --x macs --out ."), 2, "is a folder")
    one_sentence(run("front admm --x macs --out net.py/new.html"), 2, "cannot be written")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    one_sentence(run(f"front admm --x macs --out {tmp_path / 'new.html'}"), 2, "No space left")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_no_half_artefact_and_the_same_command_goes_on(monkeypatch):
    line = f"compress {TRAINED} --budget params=0.5 --method uniform --epochs 2 --out later --json --quiet"

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        one_sentence(run(line), 2, "no space is left", as_json=True)
    assert not Path("later").exists()
    assert run(line).code == 0
    assert not [path for path in Path().iterdir() if path.name.startswith(".later")]


def elsewhere(path):
    """The cost model as if it had been profiled on a device that is not here."""
    cost = json.loads(Path("cost.json").read_text())
    cost["provenance"] |= {"device": "Abacus", "device_fingerprint": "f" * 16}
    path.write_text(json.dumps(cost))
    return path


def test_budget_on_a_device_that_is_not_here_stays_unmeasured_with_the_reason(profiled, tmp_path):
    line = (
        f"compress {TRAINED} --budget latency=0.8 --method uniform --epochs 2 --out {tmp_path / 'far'} --json --quiet"
    )
    said = run(line, "--cost", elsewhere(tmp_path / "far.json"))
    (budget,) = said.value["budgets"]
    assert (budget["measured"], budget["met"]) == (None, None)
    assert "Abacus" in budget["reason"]
    verified = run(f"verify {tmp_path / 'far'} --json --quiet")
    assert verified.code == 3
    assert verified.value["budgets"][0]["measured"] is None
    assert "Abacus" in verified.value["budgets"][0]["reason"]
    one_sentence(run(f"verify {tmp_path / 'far'} --device cpu --quiet"), 3, "Abacus")


# -- interrupts


def test_interrupted_compression_resumes_to_the_result_of_an_undisturbed_one(monkeypatch):
    line = f"compress {TRAINED} --budget macs=0.4 --epochs 6 --json --quiet --seed 3 --out"
    whole = run(line, "whole").value
    report = ProgressLine.__call__
    for stage in ("admm", "tune"):

        def press(self, name, done, total, note="", stage=stage):
            if name.startswith(stage) and done >= total / 4:
                os.kill(os.getpid(), signal.SIGINT)
            report(self, name, done, total, note)

        with monkeypatch.context() as patch:
            patch.setattr(ProgressLine, "__call__", press)
            said = run(line, "parts")
        assert said.code == 130
        assert f"resume with: ecc {line} parts" in said.err
        assert "Traceback" not in said.err
        assert not Path("parts").exists()
    parts = run(line, "parts").value
    for field in ("widths", "accuracy", "budgets"):
        assert parts[field] == whole[field]
    assert not Path(".parts.work").exists()


def test_interrupted_profile_keeps_its_rows_and_resumes(made):
    line = "profile net.py:small --input 8x1x8x8 --samples 12 --step 4 --store slow.db --seed 5"
    running = subprocess.Popen(
        [*PROCESS, *line.split()], cwd=made, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for_rows(made / "slow.db", 5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert f"resume with: ecc {line}" in err
    assert "Traceback" not in err
    assert run(line, "--json --quiet").value["rows_reused"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted("interrupted; 3 new rows were kept in memory only")])
def test_commands_that_keep_nothing_say_no_more_than_that_they_were_interrupted(error, monkeypatch, tmp_path):
    def press(path):
        raise error

    monkeypatch.setattr("ecc.cli.results.inspect_artefact", press)
    said = run(f"inspect {tmp_path} --json")
    assert (said.code, said.err) == (130, "ecc inspect: interrupted\n")
    assert said.value == {
        "error": {"command": "inspect", "code": 130, "message": "interrupted", "resume": None},
    }


def wait_for_rows(path, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists():
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                if connection.execute("SELECT count(*) FROM rows").fetchone()[0] >= count:
                    return
            except sqlite3.OperationalError:  # not made yet
                pass
            finally:
                connection.close()
        time.sleep(0.02)
    raise TimeoutError(path)


# -- start-up and help


def test_help_loads_no_torch_and_devices_no_matplotlib():
    code = (
        "import sys\nfrom ecc.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'matplotlib', 'jinja2') if name in sys.modules], file=sys.stderr)"
    )
    found = [
        subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True).stderr.strip()
        for word in ("--help", "devices")
    ]
    assert found == ["[]", "['torch']"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = " ".join(run(name, "--help").out.split())
    assert f"example: ecc {name}" in text
    assert all(option in text for option in ("--json", "--seed", "--quiet"))


def test_reader_that_goes_away_is_no_error(made):
    command = shlex.join([*PROCESS, "devices", "--json"])
    shell = ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(shell, cwd=made, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["ecc", "ecc.cli.main"])
def test_the_command_is_a_module_too(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ecc ")
