"""What was cut is rebuilt from the dense factory and JSON alone."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import CASES, conv
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.capture import run
from ecc.network.checking import perturbed
from ecc.network.manifest import SlimManifest, rebuild
from ecc.network.slimming import slim
from ecc.network.tracing import trace

IMAGE = torch.randn(2, 3, 8, 8)
NAMES = ["grouped", "attention-fused", "torch-encoder", "lstm-two-ways", "tied-embedding", "residual-option-a"]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(width, width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x)) + x
        return out


class Positions(nn.Module):
    """Adds what no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, 8).view(1, 8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.table
        return out


def small() -> nn.Sequential:
    return nn.Sequential(conv(3, 8), Positions(), Residual(8), Residual(8), nn.Flatten(), nn.Linear(512, 4))


def half(graph: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(rng.choice(group.units, rng.integers(1, group.units + 1), replace=False))
        for group in graph.prunable
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_slim_network_comes_back(name: str) -> None:
    model, inputs = CASES[name].build()
    graph = trace(model, inputs)
    trained, kept = perturbed(model, 1), half(graph)
    manifest = SlimManifest.of(trained, graph, kept)
    expected = slim(trained, graph, kept).eval()
    read = SlimManifest.parse(manifest.to_bytes())
    assert read == manifest
    assert {group: units.tolist() for group, units in read.units().items()} == {
        group: units.tolist() for group, units in kept.items() if len(units) < graph.group(group).units
    }
    before = {key: value.clone() for key, value in model.state_dict().items()}
    again = rebuild(model, read)
    again.load_state_dict(expected.state_dict())
    for a, b in zip(run(expected, inputs), run(again.eval(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_removed_blocks_and_buffers_without_state_come_back() -> None:
    torch.manual_seed(0)
    model = small().eval()
    graph = trace(model, IMAGE)
    kept = {"0": np.array([1, 2, 3, 6])}
    expected = slim(model, graph, kept, remove=["2"])
    manifest = SlimManifest.parse(SlimManifest.of(model, graph, kept, remove=["2"]).to_bytes())
    assert dict(manifest.removed or {}) == {"2": True}
    again = rebuild(small(), manifest)
    again.load_state_dict(expected.state_dict())
    assert [type(part) for part in again] == [type(part) for part in expected]
    assert torch.equal(again.eval()(IMAGE), expected(IMAGE))


def sound() -> dict[str, Any]:
    model = small()
    value: dict[str, Any] = json.loads(
        SlimManifest.of(model, trace(model, IMAGE, check=False), {"0": np.array([1, 2, 6])}).to_bytes()
    )
    return value


def test_positions_are_runs_of_first_and_count() -> None:
    value = sound()
    assert value["kept"] == {"0": [1, 2, 6, 1]}
    assert value["tensors"]["0.weight"] == {"shape": [8, 3, 3, 3], "axes": {"0": [1, 2, 6, 1]}}
    assert value["tensors"]["5.bias"] == {"shape": [4]}
    assert value["tensors"]["5.weight"]["axes"] == {"1": [64, 128, 384, 64]}
    assert (value["schema"], value["sizes"], value["removed"]) == (1, [], [])


CHANGES: dict[str, Any] = {
    "schema": lambda v: v.update(schema=2),
    "no tensors": lambda v: v.pop("tensors"),
    "tensors of another": lambda v: v["tensors"].pop("0.weight"),
    "tensors too many": lambda v: v["tensors"].update({"9.weight": {"shape": [3]}}),
    "shape": lambda v: v["tensors"]["0.weight"].update(shape=[9, 3, 3, 3]),
    "no axis": lambda v: v["tensors"]["0.weight"].update(axes={"7": [0, 1]}),
    "odd axis": lambda v: v["tensors"]["0.weight"].update(axes={"²": [0, 1]}),
    "vast axis": lambda v: v["tensors"]["0.weight"].update(axes={"9" * 4000: [0, 1]}),
    "outside": lambda v: v["tensors"]["0.weight"].update(axes={"0": [6, 3]}),
    "vast run": lambda v: v["tensors"]["0.weight"].update(shape=[1 << 62], axes={"0": [0, 1 << 62]}),
    "empty": lambda v: v["tensors"]["0.weight"].update(axes={"0": []}),
    "empty run": lambda v: v["tensors"]["0.weight"].update(axes={"0": [3, 0]}),
    "half a run": lambda v: v["tensors"]["0.weight"].update(axes={"0": [3]}),
    "unsorted": lambda v: v["tensors"]["0.weight"].update(axes={"0": [4, 1, 2, 1]}),
    "overlapping": lambda v: v["tensors"]["0.weight"].update(axes={"0": [2, 3, 4, 1]}),
    "negative": lambda v: v["tensors"]["0.weight"].update(axes={"0": [-1, 3]}),
    "fraction": lambda v: v["tensors"]["0.weight"].update(axes={"0": [1.5, 3]}),
    "many axes": lambda v: v["tensors"]["0.weight"].update(shape=[1] * 99),
    "vast kept": lambda v: v["kept"].update({"0": [0, 1 << 40]}),
    "sizes of methods": lambda v: v.update(sizes=[{"module": "0", "attribute": "forward", "value": 1}]),
    "sizes of flags": lambda v: v.update(sizes=[{"module": "0", "attribute": "training", "value": 1}]),
    "sizes that grow": lambda v: v.update(sizes=[{"module": "0", "attribute": "in_channels", "value": 9}]),
    "sizes of nobody": lambda v: v.update(sizes=[{"module": "x", "attribute": "in_channels", "value": 1}]),
    "sizes": lambda v: v.update(sizes=[3]),
    "removed": lambda v: v.update(removed=[{"block": "x", "identity": True}]),
    "all removed": lambda v: v.update(removed=[{"block": "", "identity": True}]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_hostile_manifest_is_refused_with_one_sentence(change: Any) -> None:
    value = sound()
    change(value)
    with pytest.raises(InputError) as caught:
        rebuild(small(), SlimManifest.parse(json.dumps(value).encode()))
    assert "\n" not in str(caught.value)


UNSOUND: dict[str, tuple[Any, str]] = {
    "a layer removed": (
        lambda v: v.update(removed=[{"block": "0", "identity": True}]),
        "removes 0 .*, which is no res",
    ),
    "a norm removed": (
        lambda v: v.update(removed=[{"block": "2.norm", "identity": False}]),
        "removes 2.norm .*, which",
    ),
    "no weights removed": (lambda v: v.update(removed=[{"block": "1", "identity": True}]), "removes 1 .*, which is no"),
    "another call": (lambda v: v.update(removed=[{"block": "2", "identity": False}]), "called once with several arg"),
    "rows of a weight": (lambda v: v["tensors"]["0.weight"].update(axes={"0": [0, 2]}), "cannot be: bias has .* in 0"),
    "rows of a norm": (lambda v: v["tensors"]["2.norm.weight"].update(axes={"0": [0, 2]}), "bias has shape .3,. where"),
    "a bias": (lambda v: v["tensors"]["5.bias"].update(axes={"0": [0, 2]}), r"bias has shape \(2,\) where the others"),
    "a tensor of its own": (lambda v: v["tensors"]["1.table"].update(axes={"1": [0, 2]}), "does not run: "),
    "outputs": (lambda v: cut_outputs(v), r"gives outputs of \[\(2, 2\)\], the dense one of \[\(2, 4\)\]"),
    "sizes that tensors tell": (
        lambda v: v.update(sizes=[{"module": "0", "attribute": "in_channels", "value": 1}]),
        "gives 0 .Conv2d. the size 'in_channels', which its tensors tell",
    ),
    "kept without tensors": (lambda v: [cut.pop("axes", None) for cut in v["tensors"].values()], "groups without ten"),
    "tensors without kept": (lambda v: v.update(kept={}), "cuts groups without tensors or tensors without groups"),
    "an unknown member": (lambda v: v.update(extra=1), "has the unknown member 'extra'"),
    "a vast input": (lambda v: v["inputs"][0].update(shape=[1 << 30, 3, 8, 8]), "'inputs' is of no sensible size"),
    "an input of no dtype": (lambda v: v["inputs"][0].update(dtype="nn"), "'inputs' is of no sensible size or dtype"),
}


def cut_outputs(value: dict[str, Any]) -> None:
    value["tensors"]["5.weight"]["axes"].update({"0": [0, 2]})
    value["tensors"]["5.bias"].update(axes={"0": [0, 2]})


@pytest.mark.parametrize(("change", "message"), UNSOUND.values(), ids=list(UNSOUND))
def test_what_a_network_of_the_right_shapes_cannot_be_is_refused(change: Any, message: str) -> None:
    value = sound()
    change(value)
    with pytest.raises(InputError, match=message):
        rebuild(small(), SlimManifest.parse(json.dumps(value).encode()))


def test_without_inputs_modules_still_have_to_fit_together() -> None:
    value = sound()
    value["inputs"] = []
    value["tensors"]["5.bias"].update(axes={"0": [0, 2]})
    with pytest.raises(InputError, match=r"bias has shape \(2,\) where the others make it \(4,\) in 5 \(Linear\)"):
        rebuild(small(), SlimManifest.parse(json.dumps(value).encode()))


def test_units_and_ranks_are_the_same_with_and_without_removed_blocks() -> None:
    torch.manual_seed(0)
    model = small().eval()
    graph = trace(model, IMAGE)
    with torch.no_grad():
        model[2].conv.weight[0] *= 100  # in the block: strong there, weak elsewhere
    manifests = [SlimManifest.of(model, graph, {"0": 3}, remove=names) for names in ([], ["2"])]
    assert manifests[0].kept == manifests[1].kept
    small_one = slim(model, graph, {"0": 3}, remove=["2"])
    assert torch.equal(small_one[0].weight, slim(model, graph, manifests[0].units(), remove=["2"])[0].weight)


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda v: (
            st.lists(v)
            | st.dictionaries(
                st.sampled_from(["schema", "kept", "tensors", "sizes", "removed", "shape", "axes", "0"]), v
            )
        ),
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(InputError):
        SlimManifest.parse(json.dumps(value).encode())


def test_the_manifest_of_another_network_is_refused() -> None:
    text = json.dumps(sound()).encode()
    with pytest.raises(
        InputError, match=r"belongs to another network: tensor '0.weight' has shape \(6, 3, 3, 3\) here"
    ):
        rebuild(nn.Sequential(conv(3, 6)), SlimManifest.parse(text))
    with pytest.raises(InputError, match="the file 'x' is not readable JSON"):
        SlimManifest.parse(text[:-1], "the file 'x'")
