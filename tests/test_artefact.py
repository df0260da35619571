"""The artefact folder: what is saved comes back; what is hostile or half-written does not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import simulated_profile
from torch import nn

from ecc import artefact
from ecc.artefact import Manifest
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.judging import judge
from ecc.energy_models.loading import load_cost as load

HISTORY = pd.DataFrame({"epoch": [0, 1], "loss": [1 / 3, 0.1], "score": [0.5, np.nan]})


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "method": "admm",
        "model": "zoo:digits-resnet",
        "options": {"num_classes": "10"},
        "weights": "trained here",
        "data": "digits",
        "network": "digits-resnet",
        "fingerprint": "0123456789abcdef",
        "input_shapes": ((16, 1, 8, 8),),
        "input_dtypes": ("float32",),
        "dense": {"stem": 8, "grouped": 12, "free": 4},
        "widths": {"stem": 3, "grouped": 8, "free": 4},
        "kept": {"stem": np.array([0, 5, 7]), "grouped": np.array([1, 2])},
        "budgets": (
            BudgetCheck("latency", 1e-3, 2e-3, 9.9e-4, 9.8e-4, 9.7e-4, 9.9e-4, True, 0.999),
            BudgetCheck.unmeasured(
                Budget("energy", 0.5), dense=2.0, predicted=0.9, reason="no energy meter on this device"
            ),
        ),
        "accuracy_dense": 0.98,
        "accuracy": 0.97,
        "nonzero_fraction": 0.4,
        "rounds": 30,
        "seconds": 12.5,
        "seed": 7,
        "device": "A CPU, 2 cores",
        "device_fingerprint": "abc",
        "runtime": "eager",
        "threads": 1,
        "environment": {"torch": "2.6", "config": "two\nlines"},
        "settings": {"rho": 1.0, "form": "paper", "steps": 10, "teacher": True, "clip": None},
    }
    return Manifest(**values | changes)


class Cost:
    """A cost model as far as the folder knows one."""

    metric = "latency"

    def save(self, path: str | Path) -> None:
        Path(path).write_text('{"form": "test"}')


def write(path: Path, state: dict[str, torch.Tensor] | None = None, **changes: Any) -> artefact.Artefact:
    state = {"weight": torch.arange(6.0).reshape(2, 3)} if state is None else state
    return artefact.save(path, manifest(**changes), state, history=HISTORY, costs=[Cost()])  # type: ignore[list-item]


def rewrite(path: Path, change: Any) -> None:
    """Change the manifest's JSON in place."""
    value = json.loads((path / "manifest.json").read_text())
    change(value)
    (path / "manifest.json").write_text(json.dumps(value))


def put(path: Path, name: str, content: bytes) -> None:
    """Change a file and make the manifest agree."""
    (path / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(path, lambda value: value["files"].update({name: record}))


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "out")
    found = artefact.read(tmp_path / "out")
    assert found.to_json() == written.to_json()
    assert found.manifest.budgets == manifest().budgets
    assert found.manifest.settings == manifest().settings
    assert found.manifest.environment == manifest().environment
    assert {name: units.tolist() for name, units in found.manifest.kept.items()} == {
        "stem": [0, 5, 7],
        "grouped": [1, 2],
    }
    assert found.manifest.kept["stem"].dtype == np.int64
    assert found.manifest.created
    pd.testing.assert_frame_equal(found.history(), HISTORY)
    assert found.costs == {"latency": tmp_path / "out" / "cost-latency.json"}
    assert torch.equal(found.state()["weight"], torch.arange(6.0).reshape(2, 3))
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_an_empty_history_comes_back_empty(tmp_path: Path) -> None:
    artefact.save(tmp_path / "out", manifest(), {}, history=pd.DataFrame())
    assert artefact.read(tmp_path / "out").history().empty


def test_every_dtype_and_layout_comes_back(tmp_path: Path) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16]
    kinds += [torch.int32, torch.int64, torch.bool]
    state = {str(kind): torch.arange(4).to(kind) for kind in kinds}
    base = torch.arange(12.0)
    state |= {"scalar": torch.tensor(3.5), "none": torch.zeros(0, 3), "also none": torch.zeros(0, 3)}
    state |= {"view": base[2:5], "overlap": base[4:8], "transposed": base.reshape(3, 4).T}
    write(tmp_path / "out", state)
    found = artefact.read(tmp_path / "out").state()
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 40)
            self.norm = nn.BatchNorm1d(40)
            self.lstm = nn.LSTM(40, 4)
            self.out = nn.Linear(40, 50, bias=False)
            self.out.weight = self.embed.weight

    net = Tied()
    written = write(tmp_path / "out", net.state_dict())
    assert written.aliases == {"out.weight": "embed.weight"}
    assert written.files["weights.safetensors"].bytes < 1.6 * 50 * 40 * 4
    state = artefact.read(tmp_path / "out").state()
    assert state["out.weight"] is state["embed.weight"]
    again = Tied()
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_a_state_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="state 'weight' of the network is not a dense tensor with values"):
        write(tmp_path / "out", {"weight": torch.zeros(2, device="meta")})
    assert os.listdir(tmp_path) == []


def test_an_artefact_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "out", seed=1)
    assert write(tmp_path / "out", seed=2).manifest.seed == 2
    assert artefact.read(tmp_path / "out").manifest.seed == 2

    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt', which is not of its artefact"):
        write(tmp_path / "out", seed=3)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "photo.jpg").write_text("mine")
    with pytest.raises(InputError, match="holds something else than one artefact; choose another folder"):
        write(tmp_path / "home")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is not a folder; choose another place"):
        write(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a folder; choose another place"):
        write(tmp_path / "link")
    assert (tmp_path / "home" / "photo.jpg").read_text() == (tmp_path / "file").read_text() == "mine"
    assert artefact.read(tmp_path / "out").manifest.seed == 2


def test_an_empty_folder_and_missing_parents_are_a_place(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "a" / "b" / "c")
    assert artefact.read(tmp_path / "a" / "b" / "c").manifest.method == "admm"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space is left to write .*out; free some, or choose a folder on another disk"),
        (errno.EROFS, "out cannot be written: its place is read-only; choose another folder"),
        (errno.EIO, "out cannot be written: Input/output error; choose another folder"),
    ],
)
@pytest.mark.parametrize("function", ["fsync", "rename", "mkdir"])
def test_a_failing_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str, function: str
) -> None:
    write(tmp_path / "out", seed=1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if function == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, function, fail)
        with pytest.raises(InputError, match=message):
            write(tmp_path / "out", seed=2)
    assert os.listdir(tmp_path) == ["out"]
    assert artefact.read(tmp_path / "out").manifest.seed == 1


def test_a_failing_last_move_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", seed=1)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith("partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", seed=2)
    assert os.listdir(tmp_path) == ["out"]
    assert artefact.read(tmp_path / "out").manifest.seed == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes in read-only folders")
def test_a_read_only_place_is_refused_before_long_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="its place is read-only"):
        artefact.check_target(tmp_path / "out")
    tmp_path.chmod(0o700)


def test_values_that_cannot_be_read_back_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a value that JSON cannot"):
        write(tmp_path / "out", seconds=float("nan"))
    with pytest.raises(InputError, match="has no plain text 'device'"):
        write(tmp_path / "out", device="\x1b[2J")
    with pytest.raises(InputError, match=r"'\.\./evil' cannot be a file of an artefact"):
        artefact.save(tmp_path / "out", manifest(), {}, history=HISTORY, attachments={"../evil": b""})
    assert os.listdir(tmp_path) == []


def test_files_can_be_added_and_replaced_but_not_the_weights(tmp_path: Path) -> None:
    first = write(tmp_path / "out")
    artefact.replace_files(first, {"report.html": b"old", "front.png": b"png"})
    second = artefact.replace_files(artefact.read(tmp_path / "out"), {"report.html": b"new"})
    found = artefact.read(tmp_path / "out")
    assert found.to_json() == second.to_json()
    assert (found.content("report.html"), found.content("front.png")) == (b"new", b"png")
    assert torch.equal(found.state()["weight"], first.state()["weight"])
    with pytest.raises(InputError, match=r"weights\.safetensors of an artefact cannot be replaced"):
        artefact.replace_files(found, {"weights.safetensors": b""})
    with pytest.raises(InputError, match=r"has no file 'model\.onnx'; it has cost-latency\.json"):
        found.content("model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"stem": np.array([5, 0, 7]), "grouped": np.array([1, 2])}}, "not distinct, sorted and within"),
        ({"kept": {"stem": np.array([0, 0, 7]), "grouped": np.array([1, 2])}}, "not distinct, sorted and within"),
        ({"kept": {"stem": np.array([0, 5, 8]), "grouped": np.array([1, 2])}}, "not distinct, sorted and within"),
        ({"kept": {"stem": np.array([-1, 5, 7]), "grouped": np.array([1, 2])}}, "not distinct, sorted and within"),
        ({"kept": {"stem": np.array([], int), "grouped": np.array([1, 2])}}, "keeps 0 units of group 'stem'"),
        ({"kept": {"stem": np.array([0, 5, 7])}}, "does not say which units of group 'grouped' are kept"),
        ({"kept": {"tail": np.array([0])}}, "keeps units of 'tail', which is not one of its groups"),
        ({"widths": {"stem": 3}}, "must name the same groups"),
        (
            {"widths": {"stem": 3, "grouped": 7, "free": 4}},
            "keeps 2 units of group 'grouped', but its width is 7 of 12",
        ),
        (
            {"widths": {"stem": 3, "grouped": 24, "free": 4}},
            "keeps 2 units of group 'grouped', but its width is 24 of 12",
        ),
        ({"input_dtypes": ()}, "one dtype per input shape"),
        ({"input_shapes": ((1 << 20, 1 << 20),)}, "is empty or too large"),
        ({"input_shapes": ((1, 0),)}, "is empty or too large"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        manifest(**change)


HOSTILE: dict[str, tuple[Any, str]] = {
    "newer schema": (lambda v: v.update(schema=2), "has schema 2 and this program reads 1; upgrade ecc-compress"),
    "other kind": (lambda v: v.update(kind="store"), "is not that of an artefact"),
    "parent path": (
        lambda v: v["files"].update({"../x": v["files"]["history.csv"]}),
        r"'\.\./x', which is not a plain",
    ),
    "absolute": (lambda v: v["files"].update({"/etc/passwd": v["files"]["history.csv"]}), "not a plain name"),
    "itself": (lambda v: v["files"].update({"manifest.json": v["files"]["history.csv"]}), "not a plain name"),
    "missing": (lambda v: v["files"].update({"gone.png": v["files"]["history.csv"]}), r"gone\.png cannot be read"),
    "unlisted": (lambda v: v["files"].pop("weights.safetensors"), r"does not list weights\.safetensors"),
    "hash": (lambda v: v["files"]["history.csv"].update(sha256="0" * 64), "does not have the SHA-256"),
    "no hash": (lambda v: v["files"]["history.csv"].update(sha256="zz"), "is not 64 hex digits"),
    "size": (lambda v: v["files"]["history.csv"].update(bytes=1 << 50), "bytes instead of 1125899906842624"),
    "negative size": (lambda v: v["files"]["history.csv"].update(bytes=-1), "no whole number 'bytes'"),
    "text for number": (lambda v: v.update(seconds="12"), "has no finite number 'seconds'"),
    "flag for number": (lambda v: v.update(seconds=True), "has no finite number 'seconds'"),
    "beyond floats": (lambda v: v.update(seconds=10**400), "has no finite number 'seconds'"),
    "infinite": (lambda v: v.update(seconds=float("inf")), "Infinity is not a number"),
    "too long": (lambda v: v.update(network="x" * 100_000), "has no plain text 'network' of sensible length"),
    "terminal codes": (lambda v: v.update(device="\x1b[2J"), "has no plain text 'device'"),
    "surrogate": (lambda v: v.update(device="\ud800"), "has no plain text 'device'"),
    "number for text": (lambda v: v.update(method=3), "has no plain text 'method'"),
    "list for object": (lambda v: v.update(widths=[1]), "'widths' is not an object"),
    "object for list": (lambda v: v.update(budgets={}), "has no list 'budgets'"),
    "budget": (lambda v: v["budgets"][0].update(metric="beauty"), "budget metric 'beauty' is unknown"),
    "met": (lambda v: v["budgets"][0].update(met="yes"), "neither true, false nor null"),
    "huge unit": (lambda v: v["kept"].update(stem=[0, 5, 1 << 80]), "no whole number 'stem'"),
    "setting": (lambda v: v["settings"].update(rho=[1]), "has no finite number 'rho'"),
    "shape": (lambda v: v.update(input_shapes=[["a"]]), "has no whole number 'input'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_one_sentence(tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    write(tmp_path / "out")
    rewrite(tmp_path / "out", change)
    with pytest.raises(InputError, match=message) as caught:
        artefact.read(tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"kind": NaN}'])
def test_a_manifest_that_is_no_json_object_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(content)
    with pytest.raises(InputError):
        artefact.read(tmp_path / "out")


def test_a_folder_that_is_no_artefact_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder; give a folder that ecc compress or ecc stage has written"):
        artefact.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        artefact.read(tmp_path)


def test_a_linked_or_special_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    history = tmp_path / "out" / "history.csv"
    history.rename(tmp_path / "elsewhere.csv")
    history.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(InputError, match=r"history\.csv is not a plain file"):
        artefact.read(tmp_path / "out")
    history.unlink()
    os.mkfifo(history)
    with pytest.raises(InputError, match=r"history\.csv is not a plain file"):
        artefact.read(tmp_path / "out")


def test_damaged_weights_are_found_when_read_and_when_loaded(tmp_path: Path) -> None:
    found = write(tmp_path / "out")
    weights = tmp_path / "out" / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\x7f")
    for act in (lambda: artefact.read(tmp_path / "out"), found.state):
        with pytest.raises(InputError, match="does not have the SHA-256"):
            act()
    weights.write_bytes(good[:-4])
    with pytest.raises(InputError, match="the artefact is damaged"):
        artefact.read(tmp_path / "out")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=64), st.integers(0, 200)))
def test_bytes_that_are_no_safetensors_are_one_sentence(tmp_path: Path, damage: bytes | int) -> None:
    out = tmp_path / "out"
    write(out)
    content = (out / "weights.safetensors").read_bytes()
    put(out, "weights.safetensors", damage if isinstance(damage, bytes) else content[: min(damage, len(content) - 1)])
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        artefact.read(out).state()


def test_an_alias_of_nothing_and_a_history_that_is_no_table_are_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "out")
    rewrite(tmp_path / "out", lambda value: value.update(aliases={"tied": "gone"}))
    with pytest.raises(InputError, match="has no tensor 'gone', which 'tied' is tied to"):
        artefact.read(tmp_path / "out").state()
    put(tmp_path / "out", "history.csv", b'a,b\n1,2\n"\xff,3,4,5\n')
    with pytest.raises(InputError, match="is not a readable table"):
        artefact.read(tmp_path / "out").history()


def test_inspect_names_the_manifest_and_the_tensors(tmp_path: Path) -> None:
    write(tmp_path / "out", seed=3)
    found = artefact.inspect(tmp_path / "out")
    assert found["seed"] == 3
    assert found["tensors"] == {"weight": {"dtype": "float32", "shape": [2, 3]}}
    assert json.loads(json.dumps(found)) == found


def test_an_older_reader_ignores_names_it_does_not_know(tmp_path: Path) -> None:
    write(tmp_path / "out")
    rewrite(tmp_path / "out", lambda value: value.update(mood="good"))
    assert replace(artefact.read(tmp_path / "out").manifest, seed=0).method == "admm"


def test_checks_and_cost_models_of_the_package_go_in_and_out(tmp_path: Path) -> None:
    cost = judge(simulated_profile(30), "latency", form="bilinear").cost
    checks = (
        BudgetCheck("latency", 2e-3, 4e-3, None, 1.9e-3, 1.8e-3, float("inf"), False, 0.6),
        BudgetCheck.unmeasured(Budget("energy", 0.5), dense=1.0, predicted=0.4, reason="no meter"),
    )
    artefact.save(tmp_path / "out", manifest(budgets=checks), {}, history=HISTORY, costs=[cost])
    found = artefact.read(tmp_path / "out")
    assert load(found.costs["latency"]).dense == pytest.approx(cost.dense)
    assert [budget.met for budget in found.manifest.budgets] == [False, None]
    assert found.manifest.budgets == checks
    assert [budget.budget.relative for budget in found.manifest.budgets] == [False, True]
