"""Widths: how many channels of each coupled group are kept.

A *group* is a set of channels, across any number of tensors, that can only go together. It is cut in *units*: the
smallest sets that may go alone (one channel, one channel in each of g convolution groups, one hidden unit of an LSTM in
all its gates …). A *width* counts channels, so legal widths are multiples of the group's ``step``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.core.errors import InputError

__all__ = ["Kept", "Role", "Slot", "WidthGroup", "WidthSpace", "Widths", "demand_widths"]

Widths = Mapping[str, int]
"""Channels kept per group name; a group that is not named keeps its full width."""

Kept = Mapping[str, NDArray[np.int64]]
"""Unit indices kept per group name, sorted, distinct; a group that is not named keeps all of its units."""


def demand_widths(widths: Any) -> None:
    """Refuse what maps no group names to anything.

    Raises:
        InputError: If so.
    """
    if not isinstance(widths, Mapping):
        raise InputError(f'widths must be a dict such as {{"conv1": 8}}, got {type(widths).__name__}')


Role = Literal["write", "read"]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Where the units of a group lie along one axis of one tensor.

    Attributes:
        tensor: Dotted name of the parameter or buffer in the model.
        axis: The axis that gets shorter when units go.
        indices: Positions along the axis, shape (units, k): row u holds the k positions of unit u.
        role: ``write`` where the tensor produces the channels (weight rows, bias, norm scale and shift), so that zeros
            there make the channels zero; ``read`` where it consumes them (weight columns).
        zeroed: Whether a masked network is zero here; false where zeros elsewhere suffice and zeros here would be
            divided by, or would change a norm that the rest depends on (the direction of a weight-normalised layer).
    """

    tensor: str
    axis: int
    indices: NDArray[np.int64]
    role: Role
    zeroed: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class WidthGroup:
    """Channels that can only go together, in units.

    Attributes:
        name: Name of the first layer that writes the group, unique in the graph.
        width: Channels when dense.
        step: Channels per unit; legal widths are step, 2·step … width.
        prunable: Whether widths below dense are admissible.
        reason: Why not, in one sentence; empty when prunable.
        slots: Every tensor axis that the group touches.
        layers: Names of the modules that write or read it, in order of execution.
    """

    name: str
    width: int
    step: int
    prunable: bool
    reason: str
    slots: tuple[Slot, ...]
    layers: tuple[str, ...]

    @property
    def units(self) -> int:
        """Number of units when dense."""
        return self.width // self.step


@dataclass(frozen=True, slots=True)
class WidthSpace:
    """The admissible widths of a network's prunable groups; the order of every width vector.

    Attributes:
        names: Group names, shape (n,).
        dense: Full widths, same order.
        step: Channels per unit, same order.
    """

    names: tuple[str, ...]
    dense: tuple[int, ...]
    step: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.dense) == len(self.step):
            raise InputError("WidthSpace(names, dense, step) must have equal lengths")
        if len(set(self.names)) != len(self.names):
            raise InputError("WidthSpace(names=...) must be distinct")
        for name, dense, step in zip(self.names, self.dense, self.step, strict=True):
            if step < 1 or dense < step or dense % step:
                raise InputError(f"WidthSpace: group {name!r} has width {dense}, not a multiple of its step {step}")

    def __len__(self) -> int:
        return len(self.names)

    def vector(self, widths: Widths) -> NDArray[np.int64]:
        """Widths as a vector in the order of ``names``, checked.

        Raises:
            InputError: If a name is unknown or a width is not admissible.
        """
        demand_widths(widths)
        unknown = [name for name in widths if name not in self.names]
        if unknown:
            known = ", ".join(self.names[:6]) + (" …" if len(self) > 6 else "")
            raise InputError(f"widths name the unknown group {unknown[0]!r}; the prunable groups are {known}")
        values = []
        for name, dense, step in zip(self.names, self.dense, self.step, strict=True):
            values.append(_admissible(name, widths.get(name, dense), dense, step))
        return np.array(values, dtype=np.int64)

    def widths(self, vector: Sequence[int] | NDArray[Any] | torch.Tensor) -> dict[str, int]:
        """A width vector of shape (n,) as a mapping."""
        return {name: round(float(value)) for name, value in zip(self.names, vector, strict=True)}

    def floor(self, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        """The largest admissible widths that do not exceed ``vector`` (channels), at least one unit."""
        step = np.array(self.step)
        units = np.floor(np.asarray(vector, dtype=np.float64) / step + 1e-9)
        return np.asarray(np.clip(units, 1, np.array(self.dense) // step) * step, dtype=np.int64)

    @property
    def smallest(self) -> dict[str, int]:
        """One unit in every group."""
        return dict(zip(self.names, self.step, strict=True))

    @property
    def full(self) -> dict[str, int]:
        """The dense widths."""
        return dict(zip(self.names, self.dense, strict=True))

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse."""
        return {"names": list(self.names), "dense": list(self.dense), "step": list(self.step)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WidthSpace:
        """The inverse of ``to_json``."""
        return cls(
            tuple(str(name) for name in value["names"]),
            tuple(int(width) for width in value["dense"]),
            tuple(int(step) for step in value["step"]),
        )


def _admissible(name: str, width: Any, dense: int, step: int) -> int:
    """A width given as any kind of whole number.

    Raises:
        InputError: If it is none, or not admissible.
    """
    single = isinstance(width, np.generic | np.ndarray | torch.Tensor) and width.ndim == 0
    number = width.item() if single else width
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"width {width!r} of group {name!r} is no number of channels; give a whole number")
    if step <= number <= dense and number % step == 0:  # also refuses NaN and fractions
        return int(number)
    choices = f"{step}, {2 * step} … {dense}" if dense > 2 * step else f"{step} to {dense} by {step}"
    hint = ""
    if 0 < number < 1:
        channels = max(step, int(number * dense) // step * step)
        hint = f"; widths count channels, so write {channels} for {number:.0%} of {dense}"
    raise InputError(f"width {number} of group {name!r} is not admissible; choose from {choices}{hint}")
