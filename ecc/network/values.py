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
        source: The parameter axis (name, axis) that this is, or is computed from if the whole tensor depends on
            parameters alone (a parametrised weight); None for everything else.
        others: More of them where several were flattened into one.
    """

    labels: Labels | None = None
    zero: bool = True
    source: tuple[str, int] | None = None
    others: tuple[tuple[str, int], ...] = ()


PLAIN = Axis()

Axes = list[Axis]


@dataclass(slots=True, eq=False)
class Value:
    """A tensor in the graph.

    Attributes:
        shape: Its sizes at the example inputs.
        axes: One per dimension.
        storage: Number shared by all views of one tensor.
        constant: Whether it depends on no input of the network, as parameters and what is computed from them.
    """

    shape: tuple[int, ...]
    axes: Axes
    storage: int = -1
    constant: bool = False


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
        relatives: Parameter axes that share the role of one because a weight is computed from all of them.
        tentative: Parameter axes whose role comes from computing a weight, and yields to what the weight is used for.
        divisors: Parameter axes that a masked network must not set to zero, because something is divided by them.
        reading: Parameter axes that activations are read with: those summed over beside an axis of an activation.
        reduced: Parameter axes that a weight is computed by a sum over, and where.
        balanced: Parameter axes that a weight is computed by a norm over which other parameters can make up for.
        gates: Rows per hidden unit of the parameter axes that recurrent layers write with.
        names: Of the groups that lie along a parameter axis, where the user gave one.
        renormalise: Whether norms may take their statistics over the channels that stay.
        renormalised: Weights of the norms that do.
        costs: Calls that compute, in order of execution.
        sizes: Candidates for module attributes that hold a number of channels: (module path, value, labels).
        notes: What the user should know.
    """

    channels: Channels = field(default_factory=Channels)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    relatives: dict[tuple[str, int], set[tuple[str, int]]] = field(default_factory=dict)
    tentative: set[tuple[str, int]] = field(default_factory=set)
    divisors: set[tuple[str, int]] = field(default_factory=set)
    reading: set[tuple[str, int]] = field(default_factory=set)
    reduced: dict[tuple[str, int], str] = field(default_factory=dict)
    balanced: set[tuple[str, int]] = field(default_factory=set)
    gates: dict[tuple[str, int], int] = field(default_factory=dict)
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    renormalise: bool = False
    renormalised: dict[str, None] = field(default_factory=dict)
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
        foldable: Whether a factor on weights can make up for what it takes from the channels that go: a scale from
            their number, a norm from their weights.
    """

    name: str
    module: str
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    ledger: Ledger
    batch: int = 1
    foldable: bool = False

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

    @property
    def constant(self) -> bool:
        """Whether all operands depend on no input of the network."""
        return all(value.constant for value in values_in(list(self.arguments.values())))

    def mark(self, axis: Axis, role: str) -> None:
        """Note what a parameter's axis is for; a write wins over a read, and use over the making of a weight."""
        roles, tentative, making = self.ledger.roles, self.ledger.tentative, self.constant
        if role == "read" and not making:
            self.ledger.reading.update((*self.sources(axis), *axis.others))
        for source in self.sources(axis):
            known = source in roles
            if not known or (source in tentative and not making) or (roles[source] == "read" and not making):
                roles[source] = role
                (tentative.add if making else tentative.discard)(source)

    def sources(self, axis: Axis) -> list[tuple[str, int]]:
        """All parameter axes that an axis is computed from, if it is from no others."""
        found = [] if axis.source is None else [axis.source]
        for source in found:
            found += [relative for relative in self.ledger.relatives.get(source, ()) if relative not in found]
        return found

    def relate(self, axes: Sequence[Axis]) -> tuple[str, int] | None:
        """The source of an axis that is computed from these together."""
        if not self.constant:
            return None
        sources = list(dict.fromkeys(axis.source for axis in axes if axis.source is not None))
        if len(sources) > 1:
            self.ledger.relatives.setdefault(sources[0], set()).update(sources[1:])
        return sources[0] if sources else None

    def reduce(self, axis: Axis) -> None:
        """Note a sum over an axis; where it is of parameters alone, it sees weights whether their channels are zero."""
        if axis.labels is not None and self.constant:
            for source in (*self.sources(axis), *axis.others):
                self.ledger.reduced.setdefault(source, self.place)

    def avoid_zero(self, axis: Axis) -> None:
        """Removed positions may not be zero here: a masked network leaves such parameters alone, activations stay."""
        if axis.labels is not None and axis.zero:
            self.ledger.divisors.update(self.sources(axis))
            if axis.source is None:
                self.fix(axis, f"{self.place} is not finite where channels are zero")

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
    return axis if zero or not axis.zero else replace(axis, zero=False)


def take(axis: Axis, positions: np.ndarray[Any, Any]) -> Axis:
    """The axis at some of its positions."""
    return PLAIN if axis.labels is None else Axis(axis.labels[positions], axis.zero, axis.source, axis.others)
