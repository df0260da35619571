"""WidthGraph: which channels of a network are coupled, and what each layer's cost scales with; data and queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.calls import OperatorCall, calls_without
from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.core.markup import card
from ecc.core.memory import Activation, Peak, activations_without
from ecc.core.widths import WidthGroup, Widths, WidthSpace
from ecc.network.directions import Direction
from ecc.network.nesting import map_tensors

__all__ = ["Block", "InputSpec", "Rescale", "SizeAttribute", "TensorAxes", "WidthGraph", "holder"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What an example input looked like, so that another can be drawn.

    Attributes:
        shape: Sizes, batch axis included.
        dtype: Name as in torch: ``float32``, ``int64`` …
        low: Smallest value seen.
        high: Largest value seen.
        keyword: Name of the argument; empty for a positional one.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    keyword: str = ""

    @classmethod
    def of(cls, tensor: Tensor, keyword: str = "") -> InputSpec:
        """The description of a tensor; of one without values (on the meta device) its range is taken as [0, 1]."""
        low, high = 0.0, 1.0
        if tensor.numel() and not tensor.is_meta and not tensor.is_complex():
            low, high = float(tensor.min()), float(tensor.max())
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), low, high, keyword)

    def draw(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """A random tensor of this description, uniform in its range."""
        dtype = getattr(torch, self.dtype)
        unit = torch.rand(self.shape, generator=generator, dtype=torch.float64)
        if dtype.is_floating_point or dtype.is_complex:
            low, high = (self.low, self.high) if self.low < self.high else (self.low - 1, self.high + 1)
            return (low + unit * (high - low)).to(device, dtype)
        return (self.low + unit * (self.high + 1 - self.low)).floor().clamp(max=self.high).to(device, dtype)


@dataclass(frozen=True, slots=True)
class TensorAxes:
    """The dense shape of a parameter or a buffer and the side of each axis.

    Attributes:
        shape: Dense sizes.
        sides: One per axis; the number of elements left is the product of size × fraction.
        itemsize: Bytes of an element.
    """

    shape: tuple[int, ...]
    sides: tuple[Side, ...]
    itemsize: int = 4

    def count(self, relative: Mapping[str, float]) -> int:
        """Elements left at relative widths."""
        return round(
            float(np.prod([size * side.fraction(relative) for size, side in zip(self.shape, self.sides, strict=True)]))
        )


@dataclass(frozen=True, slots=True)
class SizeAttribute:
    """An attribute of a module that counts channels, heads or groups, and has to follow the widths.

    Attributes:
        module: Path of the module.
        attribute: Its name.
        dense: Its value when dense.
        side: The axis that it counts.
    """

    module: str
    attribute: str
    dense: int
    side: Side


@dataclass(frozen=True, slots=True, eq=False)
class Rescale:
    """A factor on some positions of a tensor that makes up for a scale which the forward takes from a width.

    Attributes:
        tensor: Name of the parameter.
        axis: Along which the positions count.
        positions: Dense positions, shape (k,).
        side: The axis whose size the forward scales by.
        power: The slim values are the dense ones times (kept fraction of ``side``) ** power.
    """

    tensor: str
    axis: int
    positions: NDArray[np.int64]
    side: Side
    power: float


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block that may be removed whole: without its branch it gives back what it gets.

    Attributes:
        name: Path of the module.
        removable: Whether the network without it gives the outputs of one in which all of its parameters are zero.
        reason: Why not, in one sentence; empty when removable.
        layers: Names of the layers inside, in order of execution.
        groups: Names of the groups that only it holds.
        macs: Multiply-accumulates of one example that go with it when dense.
        params: Parameters that go with it when dense.
        single: Whether it is called with one positional argument and no other, so that ``nn.Identity`` can replace it.
        through: Numbers of the activations that hold what it gets and what it gives; −1 where none does.
    """

    name: str
    removable: bool
    reason: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    macs: int
    params: int
    single: bool = True
    through: tuple[int, int] = (-1, -1)


@dataclass(frozen=True, eq=False)
class WidthGraph:
    """The coupled channel groups of a network and its layers, for one input shape.

    Attributes:
        groups: All groups, prunable or not, in order of execution.
        layers: All layers that cost something, in order of execution.
        parameters: Shape and sides of every parameter (each shared one once).
        input_shapes: Shapes of the example inputs, batch axis included.
        notes: What was met on the way that the user should know, one sentence each.
        inputs: The example inputs, described well enough to draw others.
        sizes: Attributes of modules, beyond those of PyTorch's own layers, that follow the widths.
        rescales: Factors that slim weights need because the forward scales by a width.
        directions: Weights of unit norm whose factor makes up for what the norm loses.
        renormalised: Weights of the norms whose statistics run over prunable channels; empty unless trace was asked to.
        blocks: Residual blocks, the second kind of unit.
        arguments: The example inputs without values, if they are more than a tuple or a dict of tensors; else None.
        calls: The operators that the forward runs, in order of execution, for the batch that was traced.
        activations: What it keeps in memory meanwhile.
        buffers: Shape and sides of every buffer (each shared one once).
        steps: Path of the module whose forward makes each of the steps that activations count by.
        declared: The groups that the user declared, as ``trace`` takes them.
    """

    groups: tuple[WidthGroup, ...]
    layers: tuple[Layer, ...]
    parameters: Mapping[str, TensorAxes]
    input_shapes: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()
    sizes: tuple[SizeAttribute, ...] = ()
    rescales: tuple[Rescale, ...] = ()
    directions: tuple[Direction, ...] = ()
    renormalised: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    arguments: Any = None
    calls: tuple[OperatorCall, ...] = ()
    activations: tuple[Activation, ...] = ()
    buffers: Mapping[str, TensorAxes] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    declared: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def example(
        self, *, seed: int = 0, device: torch.device | str = "cpu", batch: int | None = None
    ) -> tuple[Any, ...] | dict[str, Any]:
        """Random inputs like the ones that were traced: a tuple, or a dict if they were keyword arguments.

        Args:
            batch: At most so many examples, where all inputs have one and the same number of them; else all.
        """
        generator = torch.Generator().manual_seed(seed)
        specs = self.inputs
        sizes = {spec.shape[:1] for spec in specs}
        if batch is not None and len(sizes) == 1 and () not in sizes:
            specs = tuple(replace(spec, shape=(min(batch, spec.shape[0]), *spec.shape[1:])) for spec in specs)
        drawn = [spec.draw(generator, torch.device(device)) for spec in specs]
        if self.arguments is not None:
            values = iter(drawn)
            filled: tuple[Any, ...] | dict[str, Any] = map_tensors(lambda _: next(values), self.arguments)
            return filled
        if self.inputs and self.inputs[0].keyword:
            return {spec.keyword: tensor for spec, tensor in zip(self.inputs, drawn, strict=True)}
        return tuple(drawn)

    @cached_property
    def prunable(self) -> tuple[WidthGroup, ...]:
        """The groups whose width may change, in the order of ``space``."""
        return tuple(group for group in self.groups if group.prunable)

    @cached_property
    def space(self) -> WidthSpace:
        """Admissible widths of the prunable groups."""
        return WidthSpace(
            tuple(group.name for group in self.prunable),
            tuple(group.width for group in self.prunable),
            tuple(group.step for group in self.prunable),
        )

    def group(self, name: str) -> WidthGroup:
        """The group of that name.

        Raises:
            InputError: If there is none; the message names those that are like it.
        """
        if name not in self._by_name:
            names = list(self._by_name)
            close = get_close_matches(str(name), names, n=3)
            known = f"did you mean {' or '.join(close)}?" if close else f"the groups are {', '.join(names[:6])}"
            raise InputError(f"there is no group {name!r}; {known}" + ("" if close or len(names) <= 6 else " …"))
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, WidthGroup]:
        return {group.name: group for group in self.groups}

    def demand(self, names: Iterable[str]) -> None:
        """Refuse names of groups that stay dense, with the reason; unknown names are left to others.

        Raises:
            InputError: If a group of that name is not prunable.
        """
        for name in names:
            group = self._by_name.get(name)
            if group is not None and not group.prunable:
                raise InputError(f"group {name!r} stays dense: {group.reason}")

    def relative(self, widths: Widths) -> dict[str, float]:
        """Widths as fractions of dense, per prunable group.

        Raises:
            InputError: If a width is not admissible.
        """
        self.demand(widths)
        vector = self.space.vector(widths)
        return dict(zip(self.space.names, (vector / np.array(self.space.dense)).tolist(), strict=True))

    def macs(self, widths: Widths | None = None, *, removed: Collection[str] = ()) -> int:
        """Multiply-accumulates of one example at widths (dense when None), without the removed blocks.

        Raises:
            InputError: If a width or a block is not admissible.
        """
        left = self.without(removed, widths or {})
        relative = left.relative(widths or {})
        return round(
            sum(layer.macs * layer.reads.fraction(relative) * layer.writes.fraction(relative) for layer in left.layers)
        )

    def params(self, widths: Widths | None = None, *, removed: Collection[str] = ()) -> int:
        """Parameters at widths (dense when None), without those of the removed blocks.

        Raises:
            InputError: If a width or a block is not admissible.
        """
        left = self.without(removed, widths or {})
        relative = left.relative(widths or {})
        return sum(axes.count(relative) for axes in left.parameters.values())

    def memory(self, widths: Widths | None = None, *, removed: Collection[str] = ()) -> int:
        """Bytes of weights, buffers and, at the peak, activations, for the batch that was traced.

        Raises:
            InputError: If a width or a block is not admissible.
        """
        return self.memory_weights(widths, removed=removed) + self.memory_activations(widths, removed=removed)

    def memory_weights(self, widths: Widths | None = None, *, removed: Collection[str] = ()) -> int:
        """Bytes of parameters and buffers at widths (dense when None), without those of the removed blocks.

        Raises:
            InputError: If a width or a block is not admissible.
        """
        left = self.without(removed, widths or {})
        relative = left.relative(widths or {})
        held = (*left.parameters.values(), *left.buffers.values())
        return sum(axes.count(relative) * axes.itemsize for axes in held)

    def memory_activations(self, widths: Widths | None = None, *, removed: Collection[str] = ()) -> int:
        """The most bytes that inputs, outputs and what lies between take at a time, for the batch that was traced.

        Each is there from the operator that makes it to the last one that needs it. What operators take for
        themselves while they run is not known here, nor what modules do that cannot be followed inside.

        Raises:
            InputError: If a width or a block is not admissible.
        """
        left = self.without(removed, widths or {})
        relative = left.relative(widths or {})
        sizes = torch.tensor([each.at(relative) for each in left.activations], dtype=torch.int64)
        return int(Peak(left.activations)(sizes))

    def without(self, blocks: Collection[str], widths: Collection[str] = ()) -> WidthGraph:
        """The graph of the network without some residual blocks; groups that only these hold go with them.

        Args:
            blocks: Names of removable blocks.
            widths: Names of groups that have to be left, because widths are given for them.

        Raises:
            InputError: If a block is unknown or not removable, or a group of ``widths`` goes with them.
        """
        if not blocks:
            return self
        gone = {block.name for block in self.removable(blocks)}

        def stays(name: str) -> bool:
            return not holder(name, gone)

        passed = {block.through for block in self.blocks if block.name in gone and -1 not in block.through}
        steps = [not stays(path) for path in self.steps]
        activations, number = activations_without(self.activations, steps, passed)
        groups = []
        for group in self.groups:
            slots = tuple(slot for slot in group.slots if stays(slot.tensor))
            if slots:
                groups.append(replace(group, slots=slots, layers=tuple(filter(stays, group.layers))))
            elif group.name in widths:
                raise InputError(f"group {group.name!r} goes with the removed blocks; give it no width")
        return replace(
            self,
            groups=tuple(groups),
            layers=tuple(layer for layer in self.layers if stays(layer.name)),
            parameters={name: axes for name, axes in self.parameters.items() if stays(name)},
            sizes=tuple(size for size in self.sizes if stays(size.module)),
            rescales=tuple(rescale for rescale in self.rescales if stays(rescale.tensor)),
            directions=tuple(direction for direction in self.directions if stays(direction.scale)),
            renormalised=tuple(filter(stays, self.renormalised)),
            blocks=tuple(_renumbered(block, number) for block in self.blocks if stays(block.name)),
            calls=calls_without(self.calls, lambda path: holder(path, gone)),
            activations=activations,
            buffers={name: axes for name, axes in self.buffers.items() if stays(name)},
            steps=tuple(filter(stays, self.steps)),
        )

    def removable(self, names: Collection[str]) -> list[Block]:
        """The blocks of these names.

        Raises:
            InputError: If one is unknown or cannot be removed.
        """
        if isinstance(names, str):
            raise InputError(f"the blocks to remove must be a list of names, got the text {names!r}")
        blocks = {block.name: block for block in self.blocks}
        for name in names:
            if name not in blocks:
                known = [block.name for block in self.blocks if block.removable]
                choice = ", ".join(known[:6]) + (" …" if len(known) > 6 else "")
                raise InputError(
                    f"there is no residual block {name!r}; "
                    + (f"the removable blocks are {choice}" if known else "the network has no removable ones")
                )
            if not blocks[name].removable:
                raise InputError(f"block {name!r} cannot be removed: {blocks[name].reason}")
        return [blocks[name] for name in dict.fromkeys(names)]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the dense architecture: parameter names and shapes, groups, layers.

        Weights, batch and steps are not in it: the same network cut in blocks is the same network.
        """
        value = {
            "parameters": {name: list(axes.shape) for name, axes in self.parameters.items()},
            "groups": [[group.name, group.width, group.prunable] for group in self.groups],
            "layers": [[layer.name, layer.macs] for layer in self.layers],
        }
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    def table(self) -> pd.DataFrame:
        """One row per group: name, width, step, prunable, layers, reason."""
        return pd.DataFrame(
            [
                {
                    "name": group.name,
                    "width": group.width,
                    "step": group.step,
                    "prunable": group.prunable,
                    "layers": " ".join(group.layers),
                    "reason": group.reason,
                }
                for group in self.groups
            ],
            columns=["name", "width", "step", "prunable", "layers", "reason"],
        )

    def to_json(self) -> dict[str, Any]:
        """Groups, MACs and parameters as the interface of ``ecc graph`` names them."""
        return {
            "groups": [
                {
                    "name": group.name,
                    "width": group.width,
                    "prunable": group.prunable,
                    "step": group.step,
                    "layers": list(group.layers),
                    "reason": group.reason,
                }
                for group in self.groups
            ],
            "macs": self.macs(),
            "params": self.params(),
            "memory": self.memory(),
            "memory_weights": self.memory_weights(),
            "memory_activations": self.memory_activations(),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
            "blocks": [
                {
                    "name": block.name,
                    "removable": block.removable,
                    "reason": block.reason,
                    "layers": list(block.layers),
                    "macs": block.macs,
                    "params": block.params,
                }
                for block in self.blocks
            ],
        }

    def __repr__(self) -> str:
        return (
            f"WidthGraph({len(self.prunable)} prunable of {len(self.groups)} groups, "
            f"{len(self.layers)} layers, {self.macs():,} MACs, {self.params():,} parameters)"
        )

    def _repr_html_(self) -> str:
        rows = [
            [group.name, group.width, group.step, ", ".join(group.layers), "yes" if group.prunable else group.reason]
            for group in self.groups
        ]
        facts = [("notes", "; ".join(self.notes)), ("blocks", ", ".join(block.name for block in self.blocks))]
        return card(repr(self), facts, ["group", "width", "step", "layers", "prunable"], rows)


def _renumbered(block: Block, number: Sequence[int]) -> Block:
    """A block whose activations are numbered anew."""
    first, last = (i if i < 0 else number[i] for i in block.through)
    return replace(block, through=(first, last))


def holder(name: str, paths: Collection[str]) -> str:
    """Which of the modules at ``paths`` holds the layer, module or tensor of that name, or is it; empty if none."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name
