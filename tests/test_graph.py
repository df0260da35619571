from __future__ import annotations

import numpy as np
import pytest
import torch
from network_cases import CASES, dense_concat, residual_option_a
from torch import nn

from ecc.core.errors import InputError
from ecc.core.layers import Side
from ecc.network.graph import InputSpec, TensorAxes
from ecc.network.tracing import trace

IMAGE = torch.randn(1, 3, 8, 8)


def test_counts_follow_the_widths_exactly() -> None:
    graph = trace(dense_concat(), IMAGE)
    c1, c2, c3 = 5, 2, 3
    convolutions = (3 * c1 + c1 * c2 + (c1 + c2) * c3) * 9 * 64
    assert graph.macs({"c1": c1, "c2": c2, "c3": c3}) == convolutions + 3 * (c1 + c2 + c3)
    weights = (3 * c1 + c1 * c2 + (c1 + c2) * c3) * 9 + c1 + c2 + c3 + 2 * (c1 + c2) + 3 * (c1 + c2 + c3) + 3
    assert graph.params({"c1": c1, "c2": c2, "c3": c3}) == weights


def test_a_concatenated_axis_is_a_weighted_sum_of_its_parts() -> None:
    graph = trace(dense_concat(), IMAGE)
    head = next(layer for layer in graph.layers if layer.name == "head")
    assert {names: share for share, names in head.reads.parts} == {
        ("c1",): 8 / 18,
        ("c2",): 6 / 18,
        ("c3",): 4 / 18,
    }
    assert head.writes == Side()


def test_padded_channels_stay_and_the_rest_follows() -> None:
    graph = trace(residual_option_a(), IMAGE)
    assert graph.group("c2").reason == "pad appends a fixed number of channels here"
    assert graph.group("c2").width == 8
    head = next(layer for layer in graph.layers if layer.name == "head")
    assert sorted(head.reads.parts) == [(0.5, ()), (0.5, ("c0",))]


def test_the_space_holds_the_prunable_groups_in_order() -> None:
    graph = trace(CASES["grouped"].build()[0].float(), IMAGE)
    assert (graph.space.names, graph.space.dense, graph.space.step) == (("0", "1"), (8, 12), (2, 2))
    assert graph.relative({"0": 4}) == {"0": 0.5, "1": 1.0}
    with pytest.raises(InputError, match="width 3 of group '0' is not admissible"):
        graph.macs({"0": 3})


def test_the_table_and_json_name_every_group() -> None:
    graph = trace(residual_option_a(), IMAGE)
    table, value = graph.table(), graph.to_json()
    assert table["name"].tolist() == [group["name"] for group in value["groups"]] == ["c0", "c1", "c2", "head"]
    assert value["groups"][0] == {
        "name": "c0",
        "width": 8,
        "prunable": True,
        "step": 1,
        "layers": ["c0", "c1", "c2", "head"],
        "reason": "",
    }
    assert (value["macs"], value["params"]) == (graph.macs(), graph.params())
    assert repr(graph).startswith("WidthGraph(2 prunable of 4 groups, 4 layers, ")


def test_the_fingerprint_is_of_the_architecture() -> None:
    first, second = trace(residual_option_a(), IMAGE), trace(residual_option_a(), torch.randn(4, 3, 8, 8))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != trace(dense_concat(), IMAGE).fingerprint


def test_an_unknown_group_is_refused_with_those_like_it() -> None:
    with pytest.raises(InputError, match="there is no group 'c9'; the groups are c1, "):
        trace(dense_concat(), IMAGE).group("c9")


def test_elements_are_counted_as_a_product_of_sides() -> None:
    axes = TensorAxes((8, 18, 3, 3), (Side(((1.0, ("a",)),)), Side(((8 / 18, ("b",)), (10 / 18, ()))), Side(), Side()))
    assert axes.count({"a": 0.25, "b": 0.5}) == 2 * 14 * 9
    assert TensorAxes((), ()).count({}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_drawn_inputs_look_like_the_example(dtype: torch.dtype) -> None:
    example = torch.tensor([[2.0, 5.0], [3.0, 7.0]]).to(dtype)
    spec = InputSpec.of(example)
    drawn = spec.draw(torch.Generator().manual_seed(0), torch.device("cpu"))
    assert (drawn.shape, drawn.dtype) == (example.shape, dtype)
    assert drawn.min() >= example.min()
    assert drawn.max() <= example.max()


def test_examples_are_the_same_for_the_same_seed() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)

        def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.table(ids) * scale

    graph = trace(Pair(), {"ids": torch.tensor([[0, 6, 3]]), "scale": torch.ones(1, 3, 1)})
    first, second, third = (graph.example(seed=seed) for seed in (1, 1, 2))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert isinstance(third, dict)
    assert list(first) == ["ids", "scale"]
    assert torch.equal(first["scale"], second["scale"])
    assert not torch.equal(first["scale"], third["scale"])
    assert int(first["ids"].max()) < 7


def test_slots_hold_each_position_once() -> None:
    model, inputs = CASES["attention-fused"].build()
    graph = trace(model, inputs)
    for group in graph.groups:
        for slot in group.slots:
            assert slot.indices.shape[0] == group.units
            assert len(np.unique(slot.indices)) == slot.indices.size
            assert slot.indices.max() < dict(model.named_parameters())[slot.tensor].shape[slot.axis]
