"""Equality: a network in which every slice of the dropped units is zero gives the same outputs as one without them.

That is what zero-then-remove means; ``demand_equal`` checks it on random inputs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import EccError
from ecc.core.widths import Kept
from ecc.network.capture import run
from ecc.network.copying import copied, copy_sharing
from ecc.network.cutting import cut
from ecc.network.depth import shortened, silence
from ecc.network.graph import WidthGraph
from ecc.network.masking import mask
from ecc.network.matching import matched_tensors
from ecc.network.nesting import map_tensors

__all__ = ["demand_equal", "tolerance", "zero_then_remove"]


def zero_then_remove(
    model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any, *, remove: Collection[str] = ()
) -> float:
    """Largest difference between masked and slim outputs, relative to the largest masked output; inf if NaN differ.

    Networks in half precision are compared in float32.

    Args:
        remove: Residual blocks whose parameters are zero in the masked network, and that the slim one does not have.
    """
    left = graph.without(remove, kept)
    tensors = list(matched_tensors(model, graph).values())
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        halves = {id(tensor): copied(tensor, tensor.detach().clone()) for tensor in tensors}
        model, inputs = copy_sharing(model, halves).float(), map_tensors(_to_float, inputs)
        tensors = list(matched_tensors(model, graph).values())
    masked = copy_sharing(model, {id(tensor): copied(tensor, tensor.detach().clone()) for tensor in tensors}).eval()
    mask(masked, left, kept)
    silence(masked, graph, remove)
    small = cut(shortened(model, graph, remove), left, kept).eval()
    expected, found = run(masked, inputs), run(small, inputs)
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    a, b = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a), a - b).abs().max()
    largest = torch.where(a.isfinite(), a, torch.zeros_like(a)).abs().max()
    if not bool(gap.isfinite()):
        return float("inf")
    return float(gap / largest) if largest > 0 else float(gap > 0)


def tolerance(model: nn.Module) -> float:
    """Relative difference that rounding may cause in the model's precision."""
    double = any(tensor.dtype == torch.float64 for tensor in model.parameters())
    return 1e-9 if double else 1e-4


def demand_equal(model: nn.Module, graph: WidthGraph, kept: Kept, remove: Collection[str] = ()) -> None:
    """Refuse a graph whose removal of all but ``kept`` is not what zeros in the dropped slices and blocks do.

    Networks without values, and graphs that know no inputs, pass.

    Raises:
        EccError: If the outputs differ; the message names a group or a block.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if device.type == "meta" or not graph.inputs:
        return
    inputs, limit = graph.example(device=device), tolerance(model)
    try:
        difference = zero_then_remove(model, graph, kept, inputs, remove=remove)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        cause = _culprit(model, graph, kept, remove, inputs, limit)
        raise EccError(f"the slim network fails once {cause} ({_first_line(error)}); exclude it") from error
    if not difference <= limit:
        cause = _culprit(model, graph, kept, remove, inputs, limit)
        raise EccError(f"the slim network differs from the masked one by {difference:.1e} once {cause}; exclude it")


def _culprit(
    model: nn.Module, graph: WidthGraph, kept: Kept, remove: Collection[str], inputs: Any, limit: float
) -> str:
    """What is done to the first group or block that makes a difference alone, else to the last."""
    causes: list[tuple[str, Kept, list[str]]] = [
        *((f"group {name!r} is pruned", {name: units}, []) for name, units in kept.items()),
        *((f"block {name!r} is removed", {}, [name]) for name in remove),
    ]
    for cause, units, blocks in causes:
        try:
            if not zero_then_remove(model, graph, units, inputs, remove=blocks) <= limit:
                return cause
        except (RuntimeError, ValueError, TypeError, IndexError):
            return cause
    return causes[-1][0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
