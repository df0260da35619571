"""Dispatching: which way of running each layer is the fastest on this device, measured once.

What can be chosen for a layer changes nothing of what it computes but rounding. It is measured alone, in turn with the
layer as it came, on the inputs that it gets in a forward: how many of these are zero is a property of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ecc.api.dispatched import KEPT, Choice, Dispatch, Ratio, weight_shape
from ecc.api.executing import Measure, measured_on
from ecc.api.replacing import with_layers
from ecc.core.errors import InputError
from ecc.core.problem import Progress
from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import tolerance
from ecc.profiler.devices import current_device
from ecc.profiler.pairing import Estimate
from ecc.solvers.evaluation import device_of
from ecc.stages.execution.ways import WAYS

__all__ = ["dispatch"]

_ZERO_INPUTS = 0.25  # share of zeros from which leaving them out may pay
_ZERO_WEIGHTS = 0.5  # products in CSR need far more than that on most devices


def dispatch(
    model: nn.Module,
    inputs: Any,
    *,
    ways: Collection[str] = tuple(WAYS),
    threads: int = 1,
    seconds: float = 1.0,
    seed: int = 0,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> Dispatch:
    """Choose how linear layers, stored or dense, and convolutions of a network are run on its device.

    A way is measured where it may pay: zero inputs are left out from a quarter of them on, weights from half of them
    on, and a rank where it saves multiplications. One is chosen whose whole interval lies below the latency of the
    layer as it came; the one of the least ratio, if several. Layers with which the network gives other outputs, as it
    does more with them than call them, stay. In the end the whole network is measured so, and if that is not faster,
    all layers stay.

    Args:
        model: Is left as it is.
        inputs: The batch that is to be run; real data, as zeros in random inputs are others.
        ways: Those that may be chosen, names of ``ecc.stages.execution.ways.WAYS``.
        threads: Intra-op threads of a CPU while it measures; compiled loops use one.
        seconds: Longest time of each measurement.
        measure: Instead of the device's clock.
    Raises:
        InputError: If there is no such way, the network does not run with the inputs, or has no layer to choose for.
    """
    _check(model, ways, threads, seconds)
    if unknown := sorted(set(ways) - set(WAYS)):
        raise InputError(f"dispatch(ways=...) knows {', '.join(WAYS)}, not {', '.join(unknown)}")
    came = copy_sharing(model, {}).eval()
    device = device_of(came)
    found = measure or measured_on(device, threads, seconds, seed, progress)
    given, empty = _inputs_of_layers(came, inputs)
    if not given and empty:
        raise InputError("the layers get inputs of no elements; give dispatch a batch that is not empty")
    if not given:
        raise InputError("no linear layer or convolution runs in a forward of the network")
    choices: dict[str, Choice] = {}
    layers: dict[str, nn.Module] = {}
    for name, x in given.items():
        choices[name], layer = _tried(came.get_submodule(name), x, [way for way in WAYS if way in ways], found)
        if layer is not None:
            layers[name] = layer
    chosen, left = with_layers(came, layers, inputs)
    for name, why in left.items():
        each = choices[name]
        choices[name] = replace(each, way=KEPT, refused={**each.refused, each.way: why})
    overall = None
    if len(left) < len(layers):
        overall = _ratio(found(came, chosen, inputs))
        if not overall.high < 1:
            choices = {name: replace(each, way=KEPT) for name, each in choices.items()}
    return Dispatch(choices, current_device(str(device)).fingerprint, threads, overall)


def _check(model: object, ways: object, threads: object, seconds: object) -> None:
    """Refuse what would fail later, and less clearly."""
    if not isinstance(model, nn.Module):
        raise InputError(f"dispatch(model=...) must be a network (nn.Module), got {type(model).__name__}")
    if isinstance(ways, str) or not isinstance(ways, Collection) or not ways:
        raise InputError(f"dispatch(ways=...) must be a list of at least one of {', '.join(WAYS)}, got {ways!r}")
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise InputError(f"dispatch(threads=...) must be a whole number of at least 1, got {threads!r}")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"dispatch(seconds=...) must be a number above 0, got {seconds!r}")


def _tried(layer: nn.Module, x: Tensor, ways: Collection[str], measure: Measure) -> tuple[Choice, nn.Module | None]:
    """What is chosen for a layer, and the layer that takes its place."""
    weight = layer.weight.detach()  # type: ignore[operator]
    zero_inputs, zero_weights = (float((each == 0).double().mean()) for each in (x, weight))
    worth = {"sparse inputs": zero_inputs >= _ZERO_INPUTS, "sparse weights": zero_weights >= _ZERO_WEIGHTS}
    tried: dict[str, Ratio] = {}
    refused: dict[str, str] = {}
    best, least, taken = KEPT, 1.0, None
    for way in ways:
        if not worth.get(way, True):
            continue
        try:
            other = WAYS[way](layer).eval()
            gap = difference(run(layer, x), run(other, x))
        except (InputError, RuntimeError) as error:  # builds of torch without such products for the device
            refused[way] = str(error).splitlines()[0]
            continue
        if not gap <= tolerance(layer):
            refused[way] = f"its outputs differ by {gap:.1e}"
            continue
        tried[way] = ratio = _ratio(measure(layer, other, x))
        if ratio.high < 1 and ratio.value < least:
            best, least, taken = way, ratio.value, other
    rows = x.numel() // max(x.shape[-1], 1) if weight.ndim == 2 else len(x)
    shape = weight_shape(layer) or tuple(weight.shape)
    return Choice(best, shape, rows, zero_inputs, zero_weights, tried, refused), taken


def _ratio(found: Estimate) -> Ratio:
    return Ratio(found.ratio, found.low, found.high)


def _inputs_of_layers(model: nn.Module, inputs: Any) -> tuple[dict[str, Tensor], set[str]]:
    """The first input of each layer that can be dispatched, by path, from one forward; and who got an empty one."""
    found: dict[str, Tensor] = {}
    empty: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name not in found and arguments and isinstance(arguments[0], Tensor):
                if arguments[0].numel():
                    found[name] = arguments[0].detach().clone()
                else:
                    empty.add(name)

        return keep

    handles = [
        # Before hooks that mask inputs, which the layer is measured with.
        layer.register_forward_pre_hook(note(name), prepend=True)
        for name, layer in model.named_modules()
        if weight_shape(layer) is not None
    ]
    try:
        with torch.no_grad():
            run(model, inputs)
    except Exception as error:  # whatever a user's forward may raise
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"dispatch(inputs=...) must be what {type(model).__name__} takes; it fails with them ({told[0]})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found, empty
