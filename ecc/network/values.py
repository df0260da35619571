"""What flows along the graph while labels are propagated: values with labelled axes, and one call of an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ecc.network.channels import Channels, Labels

__all__ = ["PLAIN", "Axes", "Axis", "Call", "Cost", "Ledger", "Value", "computed", "owner", "take", "values_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a value.

    Attributes:
        labels: Channel labels, shape (size, k); None where no position can ever be removed.
        zero: Whether a position is exactly zero once the slices of its channels are zero in all parameters.
        source: The parameter axis (name, axis) that this still is; None for everything computed.
    """

    labels: Labels | None = None
    zero: bool = True
    source: tuple[str, int] | None = None


PLAIN = Axis()

Axes = list[Axis]


@dataclass(slots=True, eq=False)
class Value:
    """A tensor in the graph.

    Attributes:
        shape: Its sizes at the example inputs.
        axes: One per dimension.
        storage: Number shared by all views of one tensor.
    """

    shape: tuple[int, ...]
    axes: Axes
    storage: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """What one call computes, before labels are resolved to groups; see ``core.layers.Layer``."""

    name: str
    kind: str
    macs: int
    reads: Labels | None
    writes: Labels | None


@dataclass(slots=True, eq=False)
class Ledger:
    """What propagation finds out besides ties.

    Attributes:
        channels: All labels.
        roles: ``write`` or ``read`` of each parameter axis that an operator produced or consumed channels with.
        gates: Rows per hidden unit of the parameter axes that recurrent layers write with.
        costs: Calls that compute, in order of execution.
        sizes: Candidates for module attributes that hold a number of channels: (module path, value, labels).
        notes: What the user should know.
    """

    channels: Channels = field(default_factory=Channels)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    gates: dict[tuple[str, int], int] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    sizes: list[tuple[str, int, Labels]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """One call of an operator.

    Attributes:
        name: Operator without namespace ``aten`` and without the underscore of its in-place form.
        module: Path of the module whose forward makes the call; empty at the top.
        arguments: By the names of the operator's schema, defaults filled in, tensors as ``Value``.
        shapes: Sizes of each output.
        ledger: Where ties and costs go.
        batch: Examples in the batch.
    """

    name: str
    module: str
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    ledger: Ledger
    batch: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the first output."""
        return self.shapes[0]

    @property
    def place(self) -> str:
        """The operator and where it stands, for reasons."""
        return f"{self.name} in {self.module}" if self.module else self.name

    def get(self, *names: str) -> Any:
        """The first argument that the schema has under one of these names, else None."""
        for name in names:
            if name in self.arguments:
                return self.arguments[name]
        return None

    def value(self, *names: str) -> Value:
        """A tensor argument by name, or the first of all arguments.

        Raises:
            KeyError: If there is none.
        """
        found = self.get(*names) if names else next(values_in(list(self.arguments.values())), None)
        if not isinstance(found, Value):
            raise KeyError(names)
        return found

    def dimension(self, dim: int, ndim: int | None = None) -> int:
        """A dimension counted from the front."""
        return dim % (len(self.value().shape) if ndim is None else ndim)

    def tie(self, a: Axis, b: Axis) -> None:
        """Positions of the two axes, of one size, go together."""
        channels, reason = self.ledger.channels, f"{self.place} ties it to an axis of fixed size"
        if a.labels is not None and b.labels is not None:
            channels.tie(a.labels, b.labels, reason)
        elif a.labels is not None:
            channels.fix(a.labels, reason)
        elif b.labels is not None:
            channels.fix(b.labels, reason)

    def fix(self, axis: Axis, reason: str = "") -> None:
        """No position of the axis may be removed."""
        if axis.labels is not None:
            self.ledger.channels.fix(axis.labels, reason or f"{self.place} works across the channels")

    def mark(self, axis: Axis, role: str) -> None:
        """Note what a parameter's axis is for; a write wins over a read."""
        if axis.source is not None and self.ledger.roles.get(axis.source) != "write":
            self.ledger.roles[axis.source] = role

    def charge(self, kind: str, name: str, macs: float, reads: Labels | None, writes: Labels | None) -> None:
        """Note what the call computes; macs of the whole batch."""
        self.ledger.costs.append(Cost(name, kind, round(macs / self.batch), reads, writes))

    def owner(self, *values: Value | None) -> str:
        """Path of the module that owns the first parameter among the values, else the caller's."""
        for value in values:
            for axis in value.axes if value is not None else []:
                if axis.source is not None:
                    return owner(axis.source[0])
        return f"{self.module}.{self.name}" if self.module else self.name


def owner(tensor: str) -> str:
    """The layer that a parameter belongs to: its module's path, or its own name at the top."""
    path = tensor.split(".parametrizations.")[0] if ".parametrizations." in tensor else tensor.rpartition(".")[0]
    return path or tensor


def values_in(arguments: Any) -> Iterator[Value]:
    """All tensors in nested lists of arguments."""
    if isinstance(arguments, Value):
        yield arguments
    elif isinstance(arguments, list | tuple):
        for argument in arguments:
            yield from values_in(argument)


def computed(axis: Axis, *, zero: bool = True) -> Axis:
    """The axis after an operator that leaves its positions in place and, if ``zero``, zeros at zero."""
    return replace(axis, zero=axis.zero and zero, source=None)


def take(axis: Axis, positions: np.ndarray[Any, Any]) -> Axis:
    """The axis at some of its positions."""
    return PLAIN if axis.labels is None else Axis(axis.labels[positions], axis.zero)
