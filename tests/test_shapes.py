"""Shapes found the short way are those that PyTorch finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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
}


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
            assert (short.shape, short.dtype, short.stride()) == (result.shape, result.dtype, result.stride())
            assert (short is args[0]) == (result is args[0])
        return result


@pytest.mark.parametrize("name", CALLS)
def test_the_short_way_gives_what_the_operator_gives(name: str) -> None:
    compared = Compared()
    with torch.inference_mode(), compared:
        CALLS[name]()
    assert compared.found == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.Linear(5, 7, device="meta")(image()),
        lambda: nn.BatchNorm2d(5, device="meta").eval()(image()),
        lambda: nn.LayerNorm(5, device="meta")(image()),
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
