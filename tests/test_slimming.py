from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from network_cases import CASES, Net, conv, pool
from torch import Tensor, nn

from ecc.core.errors import EccError, InputError
from ecc.network.equality import zero_then_remove
from ecc.network.masking import mask
from ecc.network.ranking import select
from ecc.network.slimming import slim
from ecc.network.tracing import trace

IMAGE = torch.randn(2, 3, 8, 8)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.Flatten(), nn.Linear(384, 5))


def test_the_largest_units_stay_and_ties_go_to_the_first() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [3, 0], [0, 0], [1, 0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 0, 3, 1]]))
    graph = trace(model, torch.randn(1, 2))
    # Norms over the row and the column of each unit: √2, 3, 3, √2.
    assert [select(model, graph, {"0": width})["0"].tolist() for width in (1, 2, 3)] == [[1], [1, 2], [0, 1, 2]]
    assert select(model, graph, {"0": 4}) == {}


def test_the_norm_of_a_unit_runs_over_all_parameters_that_it_touches() -> None:
    model, inputs = CASES["flatten"].build()
    graph = trace(model, inputs)
    norms = (
        model.c.weight.square().sum((1, 2, 3))
        + model.c.bias.square()
        + model.fc.weight.square().view(12, 8, 64).sum((0, 2))
    )
    expected = sorted(norms.argsort(descending=True)[:3].tolist())
    assert select(model, graph, {"c": 3})["c"].tolist() == expected


def test_mask_zeroes_every_slice_of_the_dropped_units_and_nothing_else() -> None:
    model, before = small(), small()
    graph = trace(model, IMAGE)
    mask(model, graph, {"0": np.array([0, 2, 3, 4, 5, 6, 7])})
    for name, tensor in model.state_dict().items():
        changed = (tensor != before.state_dict()[name]).nonzero()
        axis = 1 if name == "3.weight" else 0
        if name.startswith(("0", "1", "3.weight")) and "num" not in name and "running_mean" not in name:
            rest = "1.bias"  # zero from the start
            assert name == rest or changed[:, axis].unique().tolist() == [1]
            assert tensor.select(axis, 1).abs().sum() == 0
        else:
            assert not len(changed)


def test_slim_leaves_the_model_alone_and_keeps_what_is_not_about_size() -> None:
    model = small().train()
    model[2].eval()
    model[3].weight.requires_grad_(False)
    model[0].extra = {"note": [1, 2]}
    calls: list[torch.Size] = []
    model[3].register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, IMAGE)
    calls.clear()
    result = slim(model, graph, {"0": 5, "3": 2}, check=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [type(module) for module in result] == [type(module) for module in model]
    assert [module.training for module in result] == [True, True, False, True, True, True]
    assert [p.requires_grad for p in result.parameters()] == [p.requires_grad for p in model.parameters()]
    assert result[0].extra == {"note": [1, 2]}
    assert result[0].extra is not model[0].extra
    result(IMAGE)
    assert calls == [torch.Size([2, 2, 8, 8])]
    first, norm, second, head = result[0], result[1], result[3], result[5]
    assert (first.in_channels, first.out_channels, norm.num_features) == (3, 5, 5)
    assert (second.in_channels, second.out_channels) == (5, 2)
    assert (head.in_features, head.out_features) == (128, 5)
    assert not {id(p) for p in result.parameters()} & {id(p) for p in model.parameters()}


def test_full_widths_give_an_independent_equal_copy() -> None:
    model = small().eval()
    graph = trace(model, IMAGE)
    result = slim(model, graph, {})
    assert torch.equal(result(IMAGE), model(IMAGE))
    with torch.no_grad():
        result[0].weight.zero_()
    assert model[0].weight.abs().sum() > 0


def test_slim_keeps_the_chosen_units_in_order() -> None:
    model = small()
    graph = trace(model, IMAGE)
    result = slim(model, graph, {"0": np.array([1, 4, 6])})
    assert torch.equal(result[0].weight, model[0].weight[[1, 4, 6]])
    assert torch.equal(result[3].weight, model[3].weight[:, [1, 4, 6]])


def test_attributes_of_grouped_layers_follow() -> None:
    model, inputs = CASES["grouped"].build()
    graph = trace(model, inputs)
    result = slim(model, graph, {"0": 4, "1": 6})
    assert (result[1].groups, result[1].in_channels, result[1].out_channels) == (2, 4, 6)
    model, inputs = CASES["depthwise-multiplier"].build()
    result = slim(model, trace(model, inputs), {"0": 3})
    assert (result[2].groups, result[2].in_channels, result[2].out_channels) == (3, 3, 6)
    model, inputs = CASES["group-norm"].build()
    result = slim(model, trace(model, inputs), {"0": 6})
    assert (result[1].num_groups, result[1].num_channels) == (2, 6)
    model, inputs = CASES["lstm-projected"].build()
    result = slim(model, trace(model, inputs), {"rnn": 2, "embed": 7})
    assert (result.rnn.input_size, result.rnn.hidden_size, result.rnn.proj_size) == (7, 8, 2)


def test_attributes_that_count_heads_follow() -> None:
    model, inputs = CASES["attention-fused"].build()
    result = slim(model, trace(model, inputs), {"attn.qkv": 30, "attn.qkv@2": 36})
    assert (result.attn.heads, result.attn.head_dim, result.attn.qkv.out_features) == (2, 3, 18)
    assert (model.attn.heads, model.attn.head_dim) == (4, 5)


def test_tied_weights_stay_tied() -> None:
    model, ids = CASES["tied-embedding"].build()
    result = slim(model, trace(model, ids), {"embed": 6})
    assert result.out.weight is result.embed.weight
    assert result.embed.embedding_dim == result.out.in_features == 6


def test_precision_and_memory_format_survive() -> None:
    model = small().to(torch.bfloat16).to(memory_format=torch.channels_last)
    result = slim(model, trace(model, IMAGE.to(torch.bfloat16)), {"0": 4, "3": 4})
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
    assert result[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_old_style_weight_norm_can_be_copied() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(conv(3, 8)), conv(8, 6), conv(6, 2))
    model(IMAGE)
    result = slim(model, trace(model, IMAGE), {"1": 3})
    assert result[1].out_channels == 3


def test_a_wrong_channel_map_is_seen_and_refused() -> None:
    model = small().eval()
    graph = trace(model, IMAGE)
    slots = tuple(
        replace(slot, indices=slot.indices[::-1]) if slot.role == "read" else slot for slot in graph.group("0").slots
    )
    wrong = replace(graph, groups=(replace(graph.group("0"), slots=slots), *graph.groups[1:]))
    kept = {"0": np.array([0, 1, 2])}
    assert zero_then_remove(model, graph, kept, IMAGE) < 1e-6
    assert zero_then_remove(model, wrong, kept, IMAGE) > 1e-2
    with pytest.raises(EccError, match="differs from the masked one by"):
        slim(model, wrong, kept)


def test_slim_refuses_a_network_that_changes_and_names_the_group() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.head(pool(y)) * y.shape[1]

    model = Net(run, c=conv(3, 8), head=nn.Linear(8, 2))
    graph = trace(model, IMAGE, check=False)
    with pytest.raises(
        EccError, match=r"differs .* once group 'c' is pruned: mul in the network's own .*; exclude it$"
    ):
        slim(model, graph, {"c": 4})


def test_slim_refuses_a_network_that_breaks_and_names_the_group() -> None:
    model = Net(lambda s, x: s.head(s.c(x).view(2, 512)), c=conv(3, 8), head=nn.Linear(512, 2))
    graph = trace(model, IMAGE, check=False)
    with pytest.raises(EccError, match=r"^the slim network fails once .* refuses its shape \(shape.*\); exclude it$"):
        slim(model, graph, {"c": 4})


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"9": 3}, r"widths name the unknown group '9'; the prunable groups are 0, 3"),
        ({"0": 0}, r"width 0 of group '0' is not admissible; choose from 1, 2 … 8"),
        ({"0": 9}, r"width 9 of group '0' is not admissible; choose from 1, 2 … 8"),
        ({"5": 3}, r"group '5' stays dense: it is an output of the network"),
        ({"0": np.array([0, 8])}, r"kept units of group '0' must be one or more distinct indices below 8, got \[0 8\]"),
        ({"0": np.array([], dtype=int)}, r"kept units of group '0' must be one or more distinct .*"),
        ({"0": np.array([1, 1])}, r"kept units of group '0' must be one or more distinct .*"),
        ({"0": np.array([0.5])}, r"kept units of group '0' must be one or more distinct .*"),
        ({"7": np.array([1])}, r"kept units name the unknown group '7'; the prunable groups are 0, 3"),
    ],
    ids=str,
)
def test_widths_outside_the_grid_are_refused(widths: dict[str, object], message: str) -> None:
    model = small()
    with pytest.raises(InputError, match=f"^{message}$"):
        slim(model, trace(model, IMAGE), widths)  # type: ignore[arg-type]


def test_a_graph_of_another_network_is_refused() -> None:
    graph = trace(small(), IMAGE)
    other = nn.Sequential(conv(3, 9), nn.BatchNorm2d(9))
    with pytest.raises(InputError, match=r"belongs to another network: parameter '0.weight' has shape \(9, 3, 3, 3\)"):
        slim(other, graph, {"0": 4})
    with pytest.raises(
        InputError, match=r"belongs to another network: parameter '0.weight' is missing; trace this one"
    ):
        mask(nn.ReLU(), graph, {"0": np.array([1])})
