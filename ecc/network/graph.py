"""WidthGraph: which channels of a network are coupled, and what each layer's cost scales with; data and queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.layers import Layer, Side
from ecc.core.widths import WidthGroup, Widths, WidthSpace

__all__ = ["Block", "InputSpec", "Rescale", "SizeAttribute", "TensorAxes", "WidthGraph"]


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
    """A parameter's dense shape and the side of each axis.

    Attributes:
        shape: Dense sizes.
        sides: One per axis; the number of elements left is the product of size × fraction.
    """

    shape: tuple[int, ...]
    sides: tuple[Side, ...]

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
        removable: Whether removal was tried and gives the same outputs as zeros in all of its parameters.
        reason: Why not, in one sentence; empty when removable.
        layers: Names of the layers inside, in order of execution.
        groups: Names of the groups that only it holds.
        macs: Multiply-accumulates of one example that go with it when dense.
        params: Parameters that go with it when dense.
    """

    name: str
    removable: bool
    reason: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    macs: int
    params: int


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
        renormalised: Weights of the norms whose statistics run over prunable channels; empty unless trace was asked to.
        blocks: Residual blocks, the second kind of unit.
    """

    groups: tuple[WidthGroup, ...]
    layers: tuple[Layer, ...]
    parameters: Mapping[str, TensorAxes]
    input_shapes: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()
    sizes: tuple[SizeAttribute, ...] = ()
    rescales: tuple[Rescale, ...] = ()
    renormalised: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()

    def example(self, *, seed: int = 0, device: torch.device | str = "cpu") -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Random inputs like the ones that were traced: a tuple, or a dict if they were keyword arguments."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [spec.draw(generator, torch.device(device)) for spec in self.inputs]
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
            KeyError: If there is none.
        """
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, WidthGroup]:
        return {group.name: group for group in self.groups}

    def relative(self, widths: Widths) -> dict[str, float]:
        """Widths as fractions of dense, per prunable group.

        Raises:
            InputError: If a width is not admissible.
        """
        vector = self.space.vector(widths)
        return dict(zip(self.space.names, (vector / np.array(self.space.dense)).tolist(), strict=True))

    def macs(self, widths: Widths | None = None) -> int:
        """Multiply-accumulates of one example at widths (dense when None)."""
        relative = self.relative(widths or {})
        return round(
            sum(layer.macs * layer.reads.fraction(relative) * layer.writes.fraction(relative) for layer in self.layers)
        )

    def params(self, widths: Widths | None = None) -> int:
        """Parameters at widths (dense when None)."""
        relative = self.relative(widths or {})
        return sum(axes.count(relative) for axes in self.parameters.values())

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
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return (
            f"WidthGraph({len(self.prunable)} prunable of {len(self.groups)} groups, "
            f"{len(self.layers)} layers, {self.macs():,} MACs, {self.params():,} parameters)"
        )
