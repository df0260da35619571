"""Manifest: what was cut from a dense network, as JSON that rebuilds the slim one anywhere.

It names positions, not weights: the dense factory, the manifest and a state dict make the slim network again, without a
trace, a pickle or the width graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.fields import Fields, parse_object
from ecc.core.widths import Kept, Widths, demand_widths
from ecc.network.arguments import demand_graph, demand_model
from ecc.network.copying import copy_sharing
from ecc.network.cutting import Plan, chosen, plan, rebuilt
from ecc.network.depth import replace_blocks
from ecc.network.graph import InputSpec, WidthGraph
from ecc.network.matching import matched_tensors
from ecc.network.ranking import kept_units
from ecc.network.soundness import refuse_misfits, refuse_no_blocks, refuse_other_outputs, refuse_strange_sizes

__all__ = ["SlimManifest", "TensorCut", "rebuild"]

_SCHEMA = 1
_LONGEST = 1 << 24  # positions along one axis that a manifest may speak of; the widest embeddings have fewer rows
_MOST_AXES = 16
_LARGEST_INPUT = 1 << 24  # numbers; a batch of 100 photographs has as many
_MEMBERS = frozenset({"schema", "kept", "tensors", "sizes", "removed", "inputs"})

Runs = tuple[tuple[int, int], ...]
"""Sorted positions as (first, count)."""


@dataclass(frozen=True, slots=True)
class TensorCut:
    """What stays of one parameter or buffer.

    Attributes:
        shape: When dense.
        axes: By axis the positions that stay; axes that are not named stay whole.
    """

    shape: tuple[int, ...]
    axes: Mapping[int, Runs]


@dataclass(frozen=True)
class SlimManifest:
    """A slim network as a description of what was cut.

    Factors that the weights needed (``WidthGraph.rescales``) are not in it: they are in the weights already.

    Attributes:
        kept: Units kept per group; groups that keep all are not named.
        tensors: Every parameter and buffer of the dense network, each shared one once.
        sizes: Module path, attribute and value of what follows the widths beyond PyTorch's own modules.
        removed: Residual blocks that went whole, each with whether ``nn.Identity`` takes its place.
        inputs: What the network was traced on, to run the rebuilt one on; empty where that is no list or dict of
            tensors of sensible size.
    """

    kept: Mapping[str, Runs]
    tensors: Mapping[str, TensorCut]
    sizes: tuple[tuple[str, str, int], ...] = ()
    removed: Mapping[str, bool] | None = None
    inputs: tuple[InputSpec, ...] = ()

    @classmethod
    def of(
        cls, model: nn.Module, graph: WidthGraph, widths: Widths | Kept, *, remove: Collection[str] = ()
    ) -> SlimManifest:
        """The manifest of what ``slim`` makes with these arguments.

        Raises:
            InputError: As ``slim`` does.
        """
        demand_graph(model, graph)
        demand_widths(widths)
        left = graph.without(remove, widths)
        kept = kept_units(model, graph, widths)
        shapes = _shapes(matched_tensors(model, graph))
        planned = plan(left, kept, shapes)
        tensors = {
            name: TensorCut(shape, {i: _runs(stays) for i, stays in planned.axes.get(name, {}).items()})
            for name, shape in shapes.items()
        }
        removed = {block.name: block.single for block in graph.removable(remove)}
        inputs = tuple(InputSpec(spec.shape, spec.dtype, 0.0, 1.0, spec.keyword) for spec in graph.inputs)
        plain = graph.arguments is None and all(map(_is_sensible, inputs))
        runs = {name: _runs(units) for name, units in kept.items()}
        return cls(runs, tensors, planned.sizes, removed, inputs if plain else ())

    def units(self) -> Kept:
        """Kept unit indices per group, as ``slim`` takes them."""
        return {name: _positions(runs) for name, runs in self.kept.items()}

    def to_json(self) -> dict[str, Any]:
        """A JSON value; runs are flat lists first, count, first, count …"""
        tensors: dict[str, Any] = {}
        for name, cut in self.tensors.items():
            axes = {"axes": {str(i): _flat(runs) for i, runs in cut.axes.items()}} if cut.axes else {}
            tensors[name] = {"shape": list(cut.shape), **axes}
        return {
            "schema": _SCHEMA,
            "kept": {name: _flat(runs) for name, runs in self.kept.items()},
            "tensors": tensors,
            "sizes": [{"module": path, "attribute": name, "value": value} for path, name, value in self.sizes],
            "removed": [{"block": name, "identity": single} for name, single in (self.removed or {}).items()],
            "inputs": [
                {"shape": list(spec.shape), "dtype": spec.dtype, "keyword": spec.keyword} for spec in self.inputs
            ],
        }

    def to_bytes(self) -> bytes:
        """UTF-8 JSON; ``parse`` is the inverse."""
        return json.dumps(self.to_json(), separators=(",", ":")).encode()

    @classmethod
    def parse(cls, text: bytes, where: str = "the slim manifest") -> SlimManifest:
        """Read what ``to_bytes`` wrote, or what somebody says it did.

        Args:
            where: What to call it in messages.
        Raises:
            InputError: If it is not a sound manifest.
        """
        if not isinstance(text, bytes):
            raise InputError(f"{where} must be bytes, as Path.read_bytes() gives them, not {type(text).__name__}")
        fields = parse_object(text, where)
        if fields.whole("schema") != _SCHEMA:
            raise InputError(f"{where} has schema {fields.whole('schema')}; this program reads schema {_SCHEMA}")
        strange = set(fields) - _MEMBERS
        if strange:
            raise InputError(f"{where} has the unknown member {min(strange)!r}; it is damaged or from a later program")
        kept, tensors = fields.inner("kept"), fields.inner("tensors")
        sizes = [Fields(item, f"{where}: 'sizes'") for item in fields.items("sizes")]
        removed = [Fields(item, f"{where}: 'removed'") for item in fields.items("removed")]
        inputs = fields.items("inputs") if "inputs" in set(fields) else []
        cuts = {name: _parse_cut(tensors.inner(name), f"{where}: tensor {name!r}") for name in tensors}
        if bool(set(kept)) != any(cut.axes for cut in cuts.values()):
            raise InputError(f"{where} cuts groups without tensors or tensors without groups; write it again")
        return cls(
            {name: _parse_runs(kept, name, _LONGEST, where) for name in kept},
            cuts,
            tuple((size.text("module"), size.text("attribute"), size.whole("value", 1)) for size in sizes),
            {block.text("block"): block.optional_flag("identity") is True for block in removed},
            tuple(_parse_input(item, f"{where}: 'inputs'") for item in inputs),
        )

    def example(self) -> tuple[Tensor, ...] | dict[str, Tensor] | None:
        """The inputs that the network was traced on, without values; None where they are not known."""
        tensors = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta") for spec in self.inputs]
        names = [spec.keyword for spec in self.inputs]
        if any(names):
            return dict(zip(names, tensors, strict=True))
        return tuple(tensors) or None


def rebuild(dense: nn.Module, manifest: SlimManifest) -> nn.Module:
    """The slim network of a dense one with any weights, ready for ``load_state_dict``; its own weights mean nothing.

    Args:
        dense: Of the architecture that the manifest was made for; left as it is.
    Raises:
        InputError: If the manifest belongs to another network, or what it describes cannot be built, does not fit
            together, or does not run where the dense network does (without values, on inputs like the traced ones).
    """
    demand_model(dense)
    found: dict[str, Tensor] = {**dict(dense.named_parameters()), **dict(dense.named_buffers())}
    _refuse_other(found, manifest)
    short = copy_sharing(dense, {id(tensor): tensor for tensor in found.values()})
    _refuse_attributes(short, manifest)
    refuse_strange_sizes(short, manifest.sizes)
    example = manifest.example()
    refuse_no_blocks(dense, manifest.removed or {}, example)
    replace_blocks(short, manifest.removed or {})
    left: dict[str, Tensor] = {**dict(short.named_parameters()), **dict(short.named_buffers())}
    axes = {
        name: {i: _positions(runs) for i, runs in manifest.tensors[name].axes.items()}
        for name in left
        if name in manifest.tensors and manifest.tensors[name].axes
    }
    try:
        # Chosen, because buffers that are not in the state dict have to be right.
        with torch.inference_mode(False):
            small = rebuilt(short, left, Plan(axes, manifest.sizes), take=chosen)
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, AttributeError) as error:
        raise InputError(f"the network that the slim manifest describes cannot be built: {error}") from error
    refuse_misfits(short, small)
    if example is not None:
        refuse_other_outputs(dense, small, example)
    return small


def _refuse_other(found: Mapping[str, Tensor], manifest: SlimManifest) -> None:
    for name in [*found, *manifest.tensors]:
        shape = tuple(found[name].shape) if name in found else None
        wanted = manifest.tensors[name].shape if name in manifest.tensors else None
        if shape != wanted:
            raise InputError(
                f"the slim manifest belongs to another network: tensor {name!r} has shape {shape} here and {wanted} "
                "there (None: there is none); give the dense network that it was made for"
            )


def _refuse_attributes(model: nn.Module, manifest: SlimManifest) -> None:
    """Only whole numbers that are there may change, and only get smaller."""
    modules = dict(model.named_modules())
    for path, attribute, value in manifest.sizes:
        held = vars(modules[path]).get(attribute) if path in modules else None
        if type(held) is not int or not 1 <= value <= held:
            raise InputError(
                f"the slim manifest belongs to another network: {attribute!r} of module {path!r} is {held!r} and "
                f"cannot become {value}; give the dense network that it was made for"
            )
    for block in manifest.removed or {}:
        if not block or block not in modules:
            raise InputError(
                f"the slim manifest belongs to another network: there is no block {block!r} to remove; "
                "give the dense network that it was made for"
            )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _runs(positions: NDArray[np.int64]) -> Runs:
    parts = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return tuple((int(part[0]), len(part)) for part in parts if len(part))


def _positions(runs: Runs) -> NDArray[np.int64]:
    return np.concatenate([np.arange(first, first + count) for first, count in runs])


def _flat(runs: Runs) -> list[int]:
    return [number for run in runs for number in run]


def _is_sensible(spec: InputSpec) -> bool:
    """Whether a network can be run on such an input at little cost, even by a forward that makes others like it."""
    size, dtype = math.prod(spec.shape), getattr(torch, spec.dtype, None)
    return size <= _LARGEST_INPUT and len(spec.shape) <= _MOST_AXES and isinstance(dtype, torch.dtype)


def _parse_input(item: Any, where: str) -> InputSpec:
    fields = Fields(item, where)
    spec = InputSpec(fields.wholes("shape"), fields.text("dtype"), 0.0, 1.0, fields.text("keyword", ""))
    if not _is_sensible(spec):
        raise InputError(f"{where} is of no sensible size or dtype; it is damaged or not from this program")
    return spec


def _parse_cut(fields: Fields, where: str) -> TensorCut:
    shape = fields.wholes("shape")
    if len(shape) > _MOST_AXES:
        raise InputError(f"{where} has {len(shape)} axes; it is damaged or not from this program")
    axes: dict[int, Runs] = {}
    for name in fields.inner("axes") if "axes" in set(fields) else ():
        if not name.isdecimal() or int(name[:3]) >= len(shape):
            raise InputError(f"{where} has no axis {name!r}; it is damaged or not from this program")
        axes[int(name)] = _parse_runs(fields.inner("axes"), name, min(shape[int(name)], _LONGEST), where)
    return TensorCut(shape, axes)


def _parse_runs(fields: Fields, name: str, limit: int, where: str) -> Runs:
    """Runs that are sorted and apart, below ``limit``, at least one."""
    numbers = fields.wholes(name)
    runs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    ends = [0, *(first + count for first, count in runs)]
    sound = all(count and first >= end for (first, count), end in zip(runs, ends, strict=False))
    if not runs or len(numbers) % 2 or not sound or ends[-1] > limit:
        raise InputError(
            f"{where} has no sound positions {name!r} below {limit}; it is damaged or not from this program"
        )
    return runs
