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
from ecc.network.comparing import difference, parting
from ecc.network.copying import copied, copy_sharing
from ecc.network.cutting import cut
from ecc.network.depth import shortened, silence
from ecc.network.graph import WidthGraph
from ecc.network.hooks import unobserved
from ecc.network.masking import mask
from ecc.network.matching import matched_tensors
from ecc.network.nesting import map_tensors, tensors_in
from ecc.network.renormalising import limit_statistics

__all__ = ["demand_equal", "few_inputs", "tolerance", "zero_then_remove"]

_EXAMPLES = 2  # enough to tell wrong channels, and a batch norm in training mode would not take one


def zero_then_remove(
    model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any, *, remove: Collection[str] = ()
) -> float:
    """Largest difference between masked and slim outputs, relative to the largest masked output; inf if NaN differ.

    Networks in half precision are compared in float32.

    Args:
        remove: Residual blocks whose parameters are zero in the masked network, and that the slim one does not have.
    """
    masked, small, given = _networks(model, graph, kept, inputs, remove)
    return difference(run(masked, given), run(small, given))


def _networks(
    model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any, remove: Collection[str]
) -> tuple[nn.Module, nn.Module, Any]:
    """The masked and the slim network in eval mode, and inputs for both."""
    left = graph.without(remove, kept)
    tensors = list(matched_tensors(model, graph).values())
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        halves = {id(tensor): copied(tensor, tensor.detach().clone()) for tensor in tensors}
        model, inputs = copy_sharing(model, halves).float(), map_tensors(_to_float, inputs)
        tensors = list(matched_tensors(model, graph).values())
    masked = copy_sharing(model, {id(tensor): copied(tensor, tensor.detach().clone()) for tensor in tensors}).eval()
    mask(masked, left, kept)
    limit_statistics(masked, graph, kept)
    silence(masked, graph, remove)
    return masked, cut(shortened(model, graph, remove), left, kept).eval(), inputs


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


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
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())) or not graph.inputs:
        return
    with unobserved(model, graph.example(device=device)) as quiet:
        _demand_equal(quiet, graph, kept, remove, device)


def _demand_equal(
    model: nn.Module, graph: WidthGraph, kept: Kept, remove: Collection[str], device: torch.device
) -> None:
    inputs, limit = few_inputs(model, graph, device), tolerance(model)
    try:
        gap = zero_then_remove(model, graph, kept, inputs, remove=remove)
    except Exception as error:  # whatever a user's forward may raise
        if not _runs(model, inputs):
            raise EccError(
                f"{type(model).__name__} does not run on random inputs like the traced ones ({_first_line(error)}); "
                "slim it with check=False and compare the outputs on inputs of your own"
            ) from error
        cause = _culprit(model, graph, kept, remove, inputs, limit)
        raise EccError(f"the slim network fails once {cause} ({_first_line(error)}); exclude it") from error
    if not gap <= limit:
        cause = _culprit(model, graph, kept, remove, inputs, limit)
        raise EccError(f"the slim network differs from the masked one by {gap:.1e} once {cause}; exclude it")


def _runs(model: nn.Module, inputs: Any) -> bool:
    try:
        run(copy_sharing(model, {id(parameter): parameter for parameter in model.parameters()}).eval(), inputs)
    except Exception:  # whatever a user's forward may raise
        return False
    return True


def few_inputs(model: nn.Module, graph: WidthGraph, device: torch.device) -> Any:
    """Random inputs: two examples where the network runs on so few, else as many as were traced."""
    few, all_of_them = graph.example(device=device, batch=_EXAMPLES), graph.example(device=device)
    shapes = [[tensor.shape for tensor in tensors_in(inputs)] for inputs in (few, all_of_them)]
    if shapes[0] == shapes[1]:
        return all_of_them
    return few if _runs(model, few) else all_of_them


def _culprit(
    model: nn.Module, graph: WidthGraph, kept: Kept, remove: Collection[str], inputs: Any, limit: float
) -> str:
    """What is done to the first group or block that makes a difference alone, else to the last; and the operator."""
    causes: list[tuple[str, Kept, list[str]]] = [
        *((f"group {name!r} is pruned", {name: units}, []) for name, units in kept.items()),
        *((f"block {name!r} is removed", {}, [name]) for name in remove),
    ]
    cause, units, blocks = next(
        (cause for cause in causes if not _equal(model, graph, cause[1], cause[2], inputs, limit)), causes[-1]
    )
    operator = parting(*_networks(model, graph, units, inputs, blocks), limit)
    return f"{cause}: {operator}" if operator else cause


def _equal(model: nn.Module, graph: WidthGraph, kept: Kept, remove: list[str], inputs: Any, limit: float) -> bool:
    try:
        return zero_then_remove(model, graph, kept, inputs, remove=remove) <= limit
    except Exception:  # whatever a user's forward may raise
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
