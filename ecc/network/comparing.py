"""Comparing: two networks that should compute the same, and the first operator at which they part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecc.network.capture import run
from ecc.network.nesting import tensors_in
from ecc.network.running import running_paths

__all__ = ["difference", "parting"]

_Key = tuple[str, str, int]  # path of the module, name of the operator, how often it ran there before


def difference(expected: Sequence[Tensor], found: Sequence[Tensor], *, relative: bool = True) -> float:
    """Largest difference of two lists of tensors, relative to the largest expected value of each unless told not to.

    Infinite where shapes, NaN or infinities differ.
    """
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    return max((_gap(a, b, relative) for a, b in zip(expected, found, strict=True)), default=0.0)


def _gap(a: Tensor, b: Tensor, relative: bool) -> float:
    if not a.numel():
        return 0.0
    a, b = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a), a - b).abs().max()
    largest = torch.where(a.isfinite(), a, torch.zeros_like(a)).abs().max()
    if not bool(gap.isfinite()):
        return float("inf")
    if not relative:
        return float(gap)
    return float(gap / largest) if largest > 0 else float(gap > 0)


def parting(masked: nn.Module, small: nn.Module, inputs: Any, limit: float) -> str:
    """The first operator of the slim network that refuses its inputs or gives another result than the masked one.

    Results of unlike shapes are not compared: those that lost channels should have.

    Returns:
        ``mean in head gives another result``; empty where no operator alone is to blame.
    """
    wanted: dict[_Key, list[Tensor]] = {}

    def note(key: _Key, outputs: list[Tensor]) -> str:
        wanted[key] = [tensor.detach().clone() for tensor in outputs]
        return ""

    def compare(key: _Key, outputs: list[Tensor]) -> str:
        expected = wanted.get(key, outputs)
        alike = [tensor.shape for tensor in expected] == [tensor.shape for tensor in outputs]
        return f"{_described(key)} gives another result" if alike and difference(expected, outputs) > limit else ""

    _watched(masked, inputs, note)
    return _watched(small, inputs, compare)


def _described(key: _Key) -> str:
    path, operator, _ = key
    return f"{operator} in {path}" if path else f"{operator} in the network's own forward"


def _watched(module: nn.Module, inputs: Any, see: Callable[[_Key, list[Tensor]], str]) -> str:
    """Run a network and show every operator's outputs, until something is said about one; what was said."""
    watch = _Watch(see)
    try:
        with running_paths(module, watch.path), torch.inference_mode(), watch:
            run(module, inputs)
    except Exception:  # whatever a user's forward may raise
        return watch.said or (f"{_described(watch.running)} refuses its shape" if watch.running else "")
    return watch.said


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows the outputs of each operator, with the module that ran it.

    Attributes:
        path: Modules that are running, outermost first.
        said: The first thing that was said about an operator.
        running: The operator that is running; it failed if it still does when the network does not.
    """

    def __init__(self, see: Callable[[_Key, list[Tensor]], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = [""]
        self.said = ""
        self.running: _Key | None = None
        self._see = see
        self._seen = Counter[tuple[str, str]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        place = (self.path[-1], func._schema.name.removeprefix("aten::").rstrip("_"))
        self.running = (*place, self._seen[place])
        self._seen[place] += 1
        output = func(*args, **(kwargs or {}))
        if not self.said:
            self.said = self._see(self.running, list(tensors_in(output)))
        self.running = None
        return output
