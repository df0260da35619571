"""Sparse execution: layers that a device runs faster in CSR than dense, each found by measuring.

Dense kernels are so much better than sparse ones that this pays for large layers alone of which little is
left. Whatever was not measured faster stays dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.api.replacing import with_layers
from ecc.core.errors import InputError
from ecc.core.problem import Progress
from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import tolerance
from ecc.network.sparse_layers import sparse_layer
from ecc.profiler.meters import meter_for
from ecc.profiler.pairing import Estimate
from ecc.profiler.protocol import compare
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.window import Window
from ecc.solvers.evaluation import device_of

__all__ = ["Measure", "SparseExecution", "measured_on", "sparse_execution"]

Measure = Callable[[nn.Module, nn.Module, Any], Estimate]
"""(dense, sparse, inputs of a forward) → the latter's latency relative to the former's."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseExecution:
    """A network in which some layers are run in CSR.

    Attributes:
        model: In eval mode; the dense network itself, copied, where nothing paid.
        layers: A row per layer with zeros, index ``name``: ``nonzeros``, ``size``, ``ratio`` of its latency in CSR to
            dense with the 95 % interval ``low`` to ``high``, ``chosen``, and ``reason`` where it could not be run so.
        overall: The whole network beside the dense one; None where no layer was chosen.
    """

    model: nn.Module
    layers: pd.DataFrame
    overall: Estimate | None

    @property
    def pays(self) -> bool:
        """Whether the network was measured faster as a whole."""
        return self.overall is not None and self.overall.high < 1

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        whole = self.overall
        rows = self.layers.astype(object).where(self.layers.notna(), None).reset_index().to_dict("records")
        return {
            "layers": rows,
            "pays": self.pays,
            "ratio": None if whole is None else whole.ratio,
            "ratio_low": None if whole is None else whole.low,
            "ratio_high": None if whole is None or math.isinf(whole.high) else whole.high,
        }

    def __str__(self) -> str:
        chosen = int(self.layers["chosen"].sum()) if len(self.layers) else 0
        if self.overall is None:
            return f"no layer of {len(self.layers)} with zeros is faster in CSR here; all stay dense"
        whole = f"{self.overall.ratio:.3f} of the dense latency [{self.overall.low:.3f}, {self.overall.high:.3f}]"
        said = "" if self.pays else "; that is not faster, so all stay dense"
        return f"{chosen} of {len(self.layers)} layers with zeros in CSR: {whole}{said}"


def sparse_execution(
    model: nn.Module,
    inputs: Any,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    seed: int = 0,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> SparseExecution:
    """Run layers by their weights that are not zero, where that is measured to be faster on the device of the network.

    Each layer is measured alone, in turn with its dense form, on the inputs that it gets in a forward; then the whole
    network, if any was faster. Outputs are compared before anything is measured, and of the whole network again: layers
    with which it gives others stay dense.

    Args:
        model: Is left as it is.
        inputs: The batch that is to be run.
        threads: Intra-op threads of a CPU while it measures.
        seconds: Longest time of each measurement.
        measure: Instead of the device's clock.
    Raises:
        InputError: If no layer has a weight that is zero.
    """
    dense = copy_sharing(model, {}).eval()
    found = measure or measured_on(device_of(dense), threads, seconds, seed, progress)
    given = _inputs_of_layers(dense, inputs)
    if not given:
        raise InputError("no linear layer or convolution of the network has weights that are zero")
    rows: list[dict[str, Any]] = []
    chosen: dict[str, nn.Module] = {}
    for name, x in given.items():
        layer = dense.get_submodule(name)
        row, sparse = _tried(name, layer, x, found)
        rows.append(row)
        if sparse is not None:
            chosen[name] = sparse
    table = pd.DataFrame(rows).set_index("name")
    if not chosen:
        return SparseExecution(dense, table, None)
    whole, left = with_layers(dense, chosen, inputs)
    for name, why in left.items():
        table.loc[name, ["chosen", "reason"]] = False, why
    if len(left) == len(chosen):
        return SparseExecution(dense, table, None)
    result = SparseExecution(whole, table, found(dense, whole, inputs))
    return result if result.pays else SparseExecution(dense, table, result.overall)


def _tried(name: str, layer: nn.Module, x: Tensor, measure: Measure) -> tuple[dict[str, Any], nn.Module | None]:
    """A row of the table, and the sparse layer if it is faster."""
    weight = layer.get_parameter("weight")
    row: dict[str, Any] = {"name": name, "nonzeros": int(weight.count_nonzero()), "size": weight.numel()}
    try:
        sparse = sparse_layer(layer)
        gap = difference(run(layer, x), run(sparse, x))
    except (InputError, RuntimeError) as error:  # builds of torch without CSR products for the device
        return row | _unmeasured(str(error).splitlines()[0]), None
    if not gap <= tolerance(layer):
        return row | _unmeasured(f"its outputs differ by {gap:.1e}"), None
    found = measure(layer, sparse, x)
    faster = found.high < 1
    row |= {"ratio": found.ratio, "low": found.low, "high": found.high, "chosen": faster, "reason": ""}
    return row, sparse if faster else None


def _unmeasured(reason: str) -> dict[str, Any]:
    return {"ratio": None, "low": None, "high": None, "chosen": False, "reason": reason}


def _inputs_of_layers(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The first input of each linear layer and convolution that has zeros, by path, from one forward."""
    found: dict[str, Tensor] = {}
    handles = []

    def note(name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name not in found and arguments and isinstance(arguments[0], Tensor):
                found[name] = arguments[0].detach().clone()

        return keep

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and bool((layer.weight == 0).any()):
            # Before hooks that mask inputs, which the layer is measured with.
            handles.append(layer.register_forward_pre_hook(note(name), prepend=True))
    try:
        run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def measured_on(device: torch.device, threads: int, seconds: float, seed: int, progress: Progress | None) -> Measure:
    """Latency on a device, in turn, in visits until the ratio is known to 2 % or the time is over, in s."""
    runtime, meter = Eager(str(device)), meter_for("latency", str(device))
    window = Window(
        device_warm_up_s=0.1, blocks=4, pairs=5, burst=10, rel_half_width=0.02, max_s=seconds, threads=threads
    )

    def measure(dense: nn.Module, sparse: nn.Module, inputs: Any) -> Estimate:
        (found,) = compare(
            dense, [sparse], inputs, [meter], window=window, runtime=runtime, seed=seed, progress=progress
        )
        return found.estimates["latency"]

    return measure
