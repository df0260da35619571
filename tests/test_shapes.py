"""Shapes found the short way are those that PyTorch finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecc.network.nesting import tensors_in
from ecc.network.shapes import shaped

CALLS: dict[str, Callable[[], Tensor]] = {
    "batch norm": lambda: nn.BatchNorm2d(6, device="meta").eval()(image()),
    "batch norm of channels last": lambda: nn.BatchNorm2d(6, device="meta").eval()(channels_last()),
    "batch norm without affine": lambda: nn.BatchNorm2d(6, affine=False, device="meta").eval()(image()),
    "layer norm": lambda: nn.LayerNorm(4, device="meta")(image()),
    "layer norm of two axes": lambda: nn.LayerNorm((5, 4), bias=False, device="meta")(image()),
    "layer norm of a view": lambda: nn.LayerNorm(6, device="meta")(image().permute(0, 2, 3, 1)),
    "linear": lambda: nn.Linear(4, 7, device="meta")(image()),
    "linear of one vector": lambda: nn.Linear(4, 7, bias=False, device="meta")(torch.empty(4, device="meta")),
    "relu": lambda: F.relu(channels_last()),
    "relu in place": lambda: F.relu_(image()),
    "gelu": lambda: F.gelu(image(), approximate="tanh"),
    "hardswish": lambda: F.hardswish(image().bfloat16()),
    "silu in place": lambda: F.silu(image(), inplace=True),
    "hardtanh in place": lambda: F.hardtanh(image(), 0, 6, inplace=True),
    "sum of equals": lambda: channels_last() + channels_last(),
    "sum in place": lambda: image().add_(image()[:, :1], alpha=2),
    "product with a number": lambda: image() * 2,
    "quotient by a row": lambda: image() / torch.empty(4, device="meta"),
    "gate": lambda: image() * image()[:, :, :1, :1].contiguous(),
    "concatenation": lambda: torch.cat([image(), image()], -3),
    "concatenation of views": lambda: torch.cat([image()[0, 0].expand(6, -1, -1), image()[0].transpose(0, 0)], 1),
    "product of matrices": lambda: image() @ image().transpose(2, 3),
    "attention": lambda: F.scaled_dot_product_attention(*heads(), scale=0.5),
    "mean": lambda: image().mean((2, 3)),
    "mean of kept axes": lambda: image().mean((-1, 2), keepdim=True),
    "largest": lambda: image().amax(1),
    "pooling to one": lambda: F.adaptive_avg_pool2d(image(), 1),
    "pooling to six": lambda: F.adaptive_avg_pool2d(image(), (3, 2)),
    "expansion": lambda: image()[:, :1].expand(-1, 6, -1, -1),
    "expansion by an axis": lambda: image().expand(7, -1, 6, 5, 4),
    "softmax": lambda: image().softmax(-1),
    "lstm": lambda: recurrent(nn.LSTM, proj_size=3, batch_first=True),
    "gru": lambda: recurrent(nn.GRU, num_layers=2, bidirectional=True),
}


def heads() -> list[Tensor]:
    """Query, key and value of four heads, as views of linear layers give them."""
    return [torch.empty(2, 5, 4, 6, device="meta").transpose(1, 2) for _ in range(3)]


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Any:
    layer = kind(4, 5, device="meta", **options)
    hidden = layer(torch.empty(2, 3, 4, device="meta"))[1]  # as PyTorch makes the first states
    states = tuple(torch.empty_like(state) for state in hidden) if isinstance(hidden, tuple) else hidden
    return layer(torch.empty(2, 3, 4, device="meta"), states)


OF_TWO_CALLS = ("concatenation of views", "lstm", "gru")


def image() -> Tensor:
    return torch.empty(2, 6, 5, 4, device="meta")


def channels_last() -> Tensor:
    return image().to(memory_format=torch.channels_last)


class Compared(TorchDispatchMode):
    """Compares each operator's result with the short way's."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        short = shaped(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if short is not None:
            self.found += 1
            for mine, theirs in zip(tensors_in(short), tensors_in(result), strict=True):
                assert (mine.shape, mine.dtype, mine.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
                assert (mine is args[0]) == (theirs is args[0])
        return result


@pytest.mark.parametrize("name", CALLS)
def test_the_short_way_gives_what_the_operator_gives(name: str) -> None:
    compared = Compared()
    with torch.inference_mode(), compared:
        CALLS[name]()
    assert compared.found == (2 if name in OF_TWO_CALLS else 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.Linear(5, 7, device="meta")(image()),
        lambda: nn.BatchNorm2d(5, device="meta").eval()(image()),
        lambda: nn.LayerNorm(5, device="meta")(image()),
        lambda: image() + torch.empty(3, device="meta"),
        lambda: torch.cat([image(), image()[:, :, :2].contiguous()]),
    ],
)
def test_calls_that_do_not_fit_are_left_to_pytorch(call: Callable[[], Tensor]) -> None:
    compared = Compared()
    with pytest.raises(RuntimeError), torch.inference_mode(), compared:
        call()
    assert compared.found == 0


def test_tensors_with_values_or_of_mixed_types_are_left_to_pytorch() -> None:
    weight = torch.empty(7, 4, device="meta", dtype=torch.float64)
    assert shaped(torch.ops.aten.linear.default, (image(), weight), {}) is None
    assert shaped(torch.ops.aten.relu.default, (torch.ones(3),), {}) is None
    assert shaped(torch.ops.aten.sigmoid.default, (torch.ones(3, dtype=torch.int64, device="meta"),), {}) is None
