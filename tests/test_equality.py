"""A slim network that is not the masked one is refused, with the group and the operator that are to blame."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from network_cases import CASES, Net, conv, pool
from torch import Tensor, nn

from ecc.core.errors import EccError
from ecc.network import equality
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.network.tracing import trace

IMAGE = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Divides by the number of channels that it gets, which is not what the masked network does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class Strict(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise KeyError("channels")
        out: Tensor = self.fc(x)
        return out


def averaging() -> nn.Module:
    torch.manual_seed(0)
    layers = {"a": conv(3, 8), "b": conv(8, 6), "head": Head(), "fc": nn.Linear(64, 2)}
    return Net(lambda s, x: s.fc(s.head(s.b(s.a(x))).flatten(1)), **layers)


def refusal(model: nn.Module, widths: dict[str, int], inputs: Tensor = IMAGE) -> str:
    graph = _all_prunable(trace(model, inputs, check=False))
    with pytest.raises(EccError) as caught:
        slim(model, graph, widths)
    return str(caught.value)


def _all_prunable(graph: WidthGraph) -> WidthGraph:
    return replace(graph, groups=tuple(replace(group, prunable=True, reason="") for group in graph.groups))


def test_the_group_and_the_operator_that_gives_another_result_are_named() -> None:
    message = refusal(averaging(), {"a": 3, "b": 4})
    found = re.fullmatch(
        r"the slim network differs from the masked one by \d\.\de[+-]\d\d once group 'b' is pruned: "
        r"mean in head gives another result; exclude it",
        message,
    )
    assert found


def test_the_operator_that_refuses_its_shape_is_named() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        out: Tensor = s.tail(s.a(x).view(-1, 8, 64).sum(2))
        return out

    message = refusal(Net(run, a=conv(3, 8), tail=nn.Linear(8, 2)), {"a": 3})
    assert re.fullmatch(
        r"the slim network fails once group 'a' is pruned: view in the network's own forward refuses its shape "
        r"\(shape '\[-1, 8, 64\]' is invalid .*\); exclude it",
        message,
    )


def test_whatever_a_forward_raises_is_one_sentence() -> None:
    model = Net(lambda s, x: s.tail(pool(s.a(x))), a=conv(3, 8), tail=Strict(8))
    message = refusal(model, {"a": 3})
    assert message == "the slim network fails once group 'a' is pruned ('channels'); exclude it"


@pytest.mark.parametrize("name", ["attention-fused", "lstm-two-ways", "weight-norm", "torch-encoder"])
def test_sound_networks_part_nowhere(name: str) -> None:
    model, inputs = CASES[name].build()
    graph = trace(model, inputs)
    kept = {group.name: torch.arange(max(1, group.units // 2)).numpy() for group in graph.prunable}
    assert not equality.parting(*equality._networks(model, graph, kept, inputs, ()), 1e-9)


def batches(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples the networks that are compared get."""
    graph = trace(model, IMAGE, check=False)
    seen: list[int] = []
    compared: Callable[..., float] = equality.zero_then_remove

    def watch(*args: object, **kwargs: object) -> float:
        (inputs,) = args[3]  # type: ignore[misc]
        seen.append(len(inputs))
        return compared(*args, **kwargs)

    monkeypatch.setattr(equality, "zero_then_remove", watch)
    slim(model, graph, {graph.prunable[0].name: 2})
    return seen


def test_two_examples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(nn.Sequential(conv(3, 8), conv(8, 2)), monkeypatch) == [2]


def test_a_network_that_insists_on_its_batch_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(lambda s, x: s.b(s.a(x)).view(6, -1), a=conv(3, 8), b=conv(8, 2))
    assert batches(model, monkeypatch) == [6]
