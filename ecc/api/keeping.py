"""save, load and verify: a compression as a folder, the folder as a network again, and the network as a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecc.api.analytic import exact_check, renewed
from ecc.api.compressing import Compression
from ecc.api.packing import code_of, masks_in, with_code
from ecc.api.ruler import Meters, Ruler
from ecc.api.sparsity import LAYERS, with_stored_masks
from ecc.api.weight_verdicts import weight_verdicts
from ecc.artefact import Artefact, Manifest
from ecc.artefact import read as read_artefact
from ecc.artefact import save as save_artefact
from ecc.core.cost import CostModel
from ecc.core.errors import EccError, InputError, UnavailableError
from ecc.core.problem import Progress
from ecc.core.verdict import BudgetCheck, Measured
from ecc.data.loading import load_data
from ecc.energy_models.counting import COUNTED, CountCost
from ecc.energy_models.loading import load_cost
from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import demand_equal, few_inputs, tolerance
from ecc.network.graph import WidthGraph
from ecc.network.manifest import SlimManifest, rebuild
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.solvers.training import evaluate
from ecc.verification import Verification
from ecc.zoo.loading import load_model

__all__ = ["CUT", "Loaded", "load", "save", "verify"]

CUT = "slim.json"
"""File of the slim manifest in an artefact."""

_MEASURE_S = 20.0  # where an artefact does not say how long it was measured

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


@dataclass(frozen=True, eq=False)
class Loaded:
    """An artefact with its network rebuilt.

    Attributes:
        artefact: The folder.
        dense: The dense network with fresh weights: for timing, not for use.
        model: The compact network with its weights, in eval mode.
        graph: Width graph of the dense network.
        inputs: Random inputs of the shapes that were timed.
    """

    artefact: Artefact
    dense: nn.Module
    model: nn.Module
    graph: WidthGraph
    inputs: Any

    @property
    def widths(self) -> Mapping[str, int]:
        """Channels kept per group."""
        return self.artefact.manifest.widths

    @property
    def manifest(self) -> Manifest:
        """What the artefact is."""
        return self.artefact.manifest

    def __repr__(self) -> str:
        """The folder; the networks are ``dense`` and ``model``."""
        return f"Loaded({self.artefact!r})"

    def _repr_html_(self) -> str:
        return self.artefact._repr_html_()

    def costs(self) -> dict[str, CostModel]:
        """The cost models that the budgets were set on, by metric."""
        return {metric: load_cost(path) for metric, path in self.artefact.costs.items()}


def save(
    result: Compression, path: str | Path, manifest: Manifest, *, attachments: Mapping[str, bytes] | None = None
) -> Artefact:
    """Write a compression as an artefact, once it is proved that what is written is the dense network without units.

    Args:
        manifest: From ``ecc.api.describing.manifest_of``.
        attachments: Further files by name.
    Raises:
        InputError: If the folder cannot be written; nothing is then written.
        EccError: If the network fails the zero-then-remove check, or cannot be made again; nothing is then written.
    """
    files = {**(attachments or {}), CUT: _proved(result).to_bytes()}
    if result.sparsity is not None:
        files[LAYERS] = result.sparsity.layers.to_csv().encode()
    measured = [cost for cost in result.costs if cost.metric not in COUNTED]
    state = result.model.state_dict()
    return save_artefact(path, manifest, state, history=result.history, costs=measured, attachments=files)


def _proved(result: Compression) -> SlimManifest:
    """The manifest that makes the compact network again, after that was tried."""
    demand_equal(result.dense, result.graph, result.kept, result.removed)
    cut = SlimManifest.of(result.dense, result.graph, result.kept, remove=result.removed)
    masked = () if result.sparsity is None else tuple(result.sparsity.masks)
    again = with_stored_masks(rebuild(result.dense, cut), result.model.state_dict(), masked)
    try:
        again.load_state_dict(result.model.state_dict())
    except RuntimeError as error:
        detail = str(error).splitlines()[0]
        raise EccError(
            f"the compact network is not the dense one without the units that went ({detail}); "
            "save what compress returned, unchanged"
        ) from error
    device = next((tensor.device for tensor in result.dense.parameters()), torch.device("cpu"))
    if result.graph.inputs and device.type != "meta":
        inputs = few_inputs(result.dense, result.graph, device)
        gap = difference(run(copy_sharing(result.model, {}).eval(), inputs), run(again.eval(), inputs))
        if not gap <= tolerance(result.model):
            raise EccError(
                f"the compact network differs by {gap:.1e} from the one that would be loaded; "
                "save what compress returned, unchanged"
            )
    return cut


def load(path: str | Path, *, model: nn.Module | None = None) -> Loaded:
    """Open an artefact and rebuild its network.

    Args:
        model: The dense network (any weights), for artefacts whose manifest does not say how to make it; left as it is.

    Raises:
        InputError: If the folder is not a sound artefact, or the dense network is another one.
    """
    if Path(path).is_file():
        raise InputError(f"{str(path)!r} is a file and an artefact is a folder; ecc.load_cost reads a cost model")
    artefact = read_artefact(path)
    manifest = artefact.manifest
    if model is None and not manifest.model:
        raise InputError(
            f"artefact {path} was made of a network that was given as an object; "
            "give one with the same architecture: ecc.load(path, model=...)"
        )
    dense = load_model(manifest.model, manifest.options, stored=True).module if model is None else model
    inputs = _example(manifest)
    graph = trace(dense, inputs, groups=manifest.groups, renormalise=manifest.renormalise)
    if not _fits(graph, manifest):
        raise InputError(
            f"artefact {path} was made of another network than {manifest.model or 'the one given'}; "
            "give the model and the options that it was made from"
        )
    if CUT in artefact.files:
        compact = rebuild(dense, SlimManifest.parse(artefact.content(CUT), f"{CUT} of artefact {path}"))
    else:  # written before there were slim manifests
        compact = slim(dense, graph, manifest.kept, remove=manifest.removed, check=False)
    return Loaded(artefact, dense, _with_weights(compact, artefact, inputs), graph, inputs)


def _with_weights(compact: nn.Module, artefact: Artefact, inputs: Any) -> nn.Module:
    """The compact network with the weights and masks of an artefact, in eval mode."""
    masked, where = artefact.manifest.masked, f"artefact {artefact.path}"
    if artefact.packed:
        code = code_of(artefact)
        compact = with_stored_masks(compact, masks_in(code), masked, inputs=inputs, where=where)
        return with_code(compact, code, where=where)
    state = artefact.state()
    compact = with_stored_masks(compact, state, masked, inputs=inputs, where=where)
    try:
        compact.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).splitlines()[0]
        raise InputError(f"the weights of {where} do not fit its network ({detail})") from error
    return compact.eval()


def _fits(graph: WidthGraph, manifest: Manifest) -> bool:
    """Whether an artefact can be of the network that was traced.

    A later version of this program may find more groups in the same network, which changes its fingerprint.
    """
    full = graph.space.full
    known = all(full.get(name) == width for name, width in manifest.dense.items())
    return known and (graph.fingerprint == manifest.fingerprint or len(full) > len(manifest.dense))


def verify(
    loaded: Loaded,
    *,
    device: str | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    meters: Meters = (),
) -> tuple[Verification, str]:
    """Measure an artefact against its dense network and judge its budgets.

    Args:
        device: Where to measure; None for the device that the cost models belong to.
        data: What it is scored on; the data that the artefact names when None.
        data_dir: Folder of that data.
        seconds: Longest time of the measurement; that of the compression when None.
        meters: One or several of your own, for their metrics instead of the device's.
    Returns:
        The verification, and why the accuracy is missing from it (empty when it is not).
    Raises:
        UnavailableError: If ``device`` is not here or is not the one that the budgets are for.
    """
    manifest, costs = loaded.manifest, loaded.costs()
    ruler = Ruler.of(loaded.dense, loaded.inputs, list(costs.values()), meters)
    if device is not None:
        _refuse_other_device(manifest, device)
    measured: dict[str, Measured] = {}
    if seconds is None:
        own = manifest.settings.get("measure_s")
        seconds = float(own) if isinstance(own, int | float) and own > 0 else _MEASURE_S
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds of a measurement must be a number above 0, got {seconds}")
    if isinstance(ruler, Ruler):
        (measured,) = ruler.measure([loaded.model], seconds=seconds, progress=progress, seed=seed)
    reason = ruler if isinstance(ruler, str) else ""
    code = code_of(loaded.artefact) if loaded.artefact.packed else None
    weighed = weight_verdicts(loaded.dense, loaded.model, loaded.graph, loaded.inputs, manifest, costs, code)
    checks = tuple(
        weighed.get(budget.metric)
        or _check(loaded, budget, costs.get(budget.metric), measured.get(budget.metric), reason)
        for budget in manifest.budgets
    )
    accuracy, why = _accuracy(loaded, data or loaded.manifest.data, data_dir)
    return Verification(checks, accuracy), why


def _check(
    loaded: Loaded, old: BudgetCheck, cost: CostModel | None, measured: Measured | None, reason: str
) -> BudgetCheck:
    """One budget of the manifest judged anew."""
    budget = old.budget
    if measured is not None:
        return BudgetCheck.of_measurement(budget, measured, predicted=old.predicted)
    if cost is None and budget.metric in COUNTED:
        cost = CountCost(budget.metric, loaded.graph)
    if cost is not None and cost.exact:
        own = renewed(loaded.graph, cost)
        if (own.source, own.unit) != (old.source, old.shown_in):
            raise InputError(
                f"the budget on {budget.metric} is in {old.shown_in} of {old.source or 'a device'}, and the artefact's "
                f"cost model in {own.unit} of {own.source}; the artefact was changed or damaged"
            )
        removed = loaded.manifest.removed
        return exact_check(budget, own, loaded.graph, loaded.widths, loaded.model, removed)
    return BudgetCheck.unmeasured(
        budget, dense=old.dense, predicted=old.predicted, reason=reason or "its cost model is missing"
    )


def _refuse_other_device(manifest: Manifest, device: str) -> None:
    here = current_device(device)
    if manifest.device_fingerprint and here.fingerprint != manifest.device_fingerprint:
        raise UnavailableError(
            f"the budgets of {manifest.network} are for {manifest.device}, and --device {device} is {here.name}; "
            "profile and compress for that device"
        )


def _accuracy(loaded: Loaded, name: str, data_dir: str | Path | None) -> tuple[float | None, str]:
    """Score on the test part of the named data, or None with the reason."""
    if not name:
        return None, "the artefact does not name its data"
    try:
        data = load_data(name, data_dir=data_dir)
    except EccError as error:
        return None, str(error)
    return evaluate(loaded.model, data.test, data.score), ""


def _example(manifest: Manifest) -> Any:
    """Inputs of the manifest's shapes: normal values, or zeros where whole numbers are wanted."""
    generator = torch.Generator().manual_seed(manifest.seed)
    made = []
    for shape, name in zip(manifest.input_shapes, manifest.input_dtypes, strict=True):
        if name not in _DTYPES:
            raise InputError(f"the artefact has inputs of dtype {name!r}; this program knows {', '.join(_DTYPES)}")
        dtype = _DTYPES[name]
        try:
            floating = dtype.is_floating_point
            made.append(
                torch.randn(shape, generator=generator).to(dtype) if floating else torch.zeros(shape, dtype=dtype)
            )
        except (RuntimeError, TypeError) as error:  # the latter for sizes beyond 64 bits
            raise InputError(f"the artefact's inputs of shape {shape} do not fit in memory") from error
    return made[0] if len(made) == 1 else tuple(made)
