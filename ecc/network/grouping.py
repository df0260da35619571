"""Grouping: tied channels → width groups, their slots, and the sides that costs scale with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecc.core.layers import Layer, Side
from ecc.core.widths import Role, Slot, WidthGroup
from ecc.network.axes import Propagation
from ecc.network.channels import Labels
from ecc.network.folding import Fold
from ecc.network.values import owner

__all__ = ["Grouping", "group_channels"]

Ints = NDArray[np.int64]

_DENSE = Side()


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """All (channel, parameter axis, position) triples, sorted by channel and axis; equal lengths.

    ``axis`` numbers the parameter axes in order of first use.
    """

    channel: Ints
    axis: Ints
    position: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Groups and what depends on them.

    Attributes:
        groups: In order of execution.
        layers: In order of execution, names unique.
        sides: Of each parameter's axes.
        units: Channel ids of each group's units, in order.
        sizes: Candidates for attributes that count channels: (module path, dense value, side).
        folds: Scales that a factor on weights can make up for, and the side that they depend on.
        side_of: The side of an axis with given labels.
    """

    groups: tuple[WidthGroup, ...]
    layers: tuple[Layer, ...]
    sides: Mapping[str, tuple[Side, ...]]
    units: Mapping[str, Ints]
    sizes: tuple[tuple[str, int, Side], ...]
    folds: tuple[tuple[Fold, Side], ...]
    side_of: Callable[[Labels | None], Side]


def group_channels(propagation: Propagation) -> Grouping:
    """Collect exchangeable channels into groups.

    Channels are exchangeable if they come from one axis and lie, equally often, along the same parameter axes. Where a
    pair of groups shares positions, these must form all combinations equally often, or the channels are fixed.
    """
    while True:
        builder = _Builder(propagation)
        uneven = builder.uneven()
        if not uneven:
            return builder.grouping()
        for labels in uneven:
            propagation.ledger.channels.fix(
                labels, "its channels are tied in sets of unlike sizes, which no number of them suits"
            )


class _Builder:
    def __init__(self, propagation: Propagation) -> None:
        self._ledger = propagation.ledger
        self._folds = propagation.folds
        self._channels = propagation.ledger.channels
        self._used = propagation.order
        tensors = [*propagation.order, *(name for name in propagation.parameters if name not in propagation.order)]
        self._axes = [(name, i) for name in tensors for i in range(len(propagation.parameters[name].shape))]
        self._shapes = {name: propagation.parameters[name].shape for name in tensors}
        self._labels = {
            (name, i): axis.labels
            for name in tensors
            for i, axis in enumerate(propagation.parameters[name].axes)
            if axis.labels is not None
        }
        self._entries = self._collect()
        self._ids, self._group_of = self._cluster()
        self._groups, self._number = self._build()
        self._sides: dict[int, Side] = {}
        self._found: dict[int, tuple[Ints, Ints]] = {}
        self._prunable = np.array([group.prunable for group in self._groups] + [False])

    def _collect(self) -> _Entries:
        parts: list[tuple[Ints, Ints, Ints]] = []
        for number, key in enumerate(self._axes):
            if key in self._labels:
                resolved = self._channels.resolve(self._labels[key])
                rows, columns = np.nonzero(resolved)
                parts.append((resolved[rows, columns], np.full(len(rows), number), rows))
        if not parts:
            empty = np.zeros(0, dtype=np.int64)
            return _Entries(empty, empty, empty)
        table = np.stack([np.concatenate(column) for column in zip(*parts, strict=True)], axis=1)
        table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
        distinct = np.ones(len(table), dtype=bool)
        distinct[1:] = (table[1:] != table[:-1]).any(axis=1)
        channel, axis, position = table[distinct].T
        return _Entries(channel, axis, position)

    def _cluster(self) -> tuple[Ints, Ints]:
        """Distinct channels, and for each the number of its set of exchangeable ones."""
        entries = self._entries
        ids, start = np.unique(entries.channel, return_index=True)
        if not len(ids):
            return ids, ids
        # A channel's signature is a random hash of (axis, how often); slots must be even, so a collision of hashes
        # could at worst keep channels dense.
        hashes = np.random.default_rng(0).integers(1, 2**62, size=len(self._axes), dtype=np.int64)
        signature = np.add.reduceat(hashes[entries.axis], start)
        keys = np.stack([self._channels.family(ids), self._channels.fixed(ids), signature], axis=1)
        return ids, np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

    def _build(self) -> tuple[list[WidthGroup], Ints]:
        """Groups in order of execution, and the index into them of each set; −1 for a set that is no group."""
        entries, n_sets = self._entries, int(self._group_of.max(initial=-1)) + 1
        set_of = self._group_of[np.searchsorted(self._ids, entries.channel)]
        order = np.lexsort((entries.position, entries.channel, entries.axis, set_of))
        bounds = np.searchsorted(set_of[order], np.arange(n_sets + 1))
        found: list[tuple[tuple[int, int], int, WidthGroup, Ints]] = []
        unwritten = []
        for number in range(n_sets):
            rows = order[bounds[number] : bounds[number + 1]]
            parts = entries.channel[rows], entries.axis[rows], entries.position[rows]
            roles = {self._ledger.roles.get(self._axes[axis]) for axis in np.unique(parts[1])}
            if "write" not in roles:
                unwritten.append(("read" not in roles, int(parts[1].min()), number, parts))
            elif (built := self._group(*parts, "write")) is not None:
                found.append((built[0], number, *built[1:]))
        # Layers that are in no group so far show why not by one of the sets that nothing writes.
        shown = {layer for _, _, group, _ in found for layer in group.layers}
        for idle, _, number, parts in sorted(unwritten, key=lambda entry: entry[:3]):
            built = self._group(*parts, None if idle else "read")
            if built is not None and shown.isdisjoint(built[1].layers):
                shown.update(built[1].layers)
                found.append((built[0], number, *built[1:]))
        found.sort(key=lambda entry: entry[0])
        index = np.full(n_sets, -1, dtype=np.int64)
        index[[number for _, number, _, _ in found]] = np.arange(len(found))
        names = _names([group for _, _, group, _ in found])
        self._units = {name: units for name, (*_, units) in zip(names, found, strict=True)}
        return [replace(entry[2], name=name) for entry, name in zip(found, names, strict=True)], index

    def _group(
        self, channel: Ints, axis: Ints, position: Ints, lead_role: Role | None
    ) -> tuple[tuple[int, int], WidthGroup, Ints] | None:
        """The group of one set of channels, its place in the order and its units, or None if they differ.

        Args:
            lead_role: Of the axis that the group is named by.
        """
        units = np.unique(channel)
        numbers, starts = np.unique(axis, return_index=True)
        roles = [self._ledger.roles.get(self._axes[number]) for number in numbers]
        first = roles.index(lead_role)
        bounds = [*starts, len(axis)]
        lead = slice(bounds[first], bounds[first + 1])
        # Units are numbered by their first position along the first axis that they are written to.
        seen, earliest = np.unique(channel[lead], return_index=True)
        ranking = seen[np.argsort(position[lead][earliest], kind="stable")]
        rank = np.empty(len(units), dtype=np.int64)
        rank[np.searchsorted(units, ranking)] = np.arange(len(units))
        slots = []
        for i, number in enumerate(numbers):
            part = slice(bounds[i], bounds[i + 1])
            unit = rank[np.searchsorted(units, channel[part])]
            if len(set(np.bincount(unit, minlength=len(units)).tolist())) > 1:
                return None
            table = position[part][np.lexsort((position[part], unit))].reshape(len(units), -1)
            name, dim = self._axes[number]
            role: Role = "read" if roles[i] == "read" else "write"
            slots.append(Slot(name, dim, table, role, (name, dim) not in self._ledger.divisors))
        lead_slot = slots[first]
        step = lead_slot.indices.shape[1] // self._ledger.gates.get((lead_slot.tensor, lead_slot.axis), 1)
        reason = self._channels.reason(int(self._channels.fixed(units[:1])[0]))
        if not reason and len(units) == 1:
            reason = "each of its channels is tied to all others, so they go together, so none can"
        if not reason and lead_role != "write":
            used = any(slot.tensor in self._used for slot in slots)
            reason = "no layer is known to write it" if used else "the forward does not use it"
        layers = tuple(dict.fromkeys(owner(slot.tensor) for slot in slots))
        lead_name = self._ledger.names.get(self._axes[numbers[first]], owner(lead_slot.tensor))
        group = WidthGroup(lead_name, step * len(units), step, not reason, reason, tuple(slots), layers)
        return (int(numbers[first]), int(position[lead].min())), group, ranking

    def _parts(self, labels: Labels) -> tuple[Ints, Ints]:
        """For labels: the groups on each position, sorted, −1 where none; and the channel behind each."""
        if id(labels) not in self._found:
            self._found[id(labels)] = self._find_parts(labels)
        return self._found[id(labels)]

    def _find_parts(self, labels: Labels) -> tuple[Ints, Ints]:
        resolved = self._channels.resolve(labels)
        if not len(self._ids) or not resolved.shape[1]:
            return np.full((len(labels), 1), -1), np.zeros((len(labels), 1), dtype=np.int64)
        place = np.minimum(np.searchsorted(self._ids, resolved), len(self._ids) - 1)
        known = self._ids[place] == resolved
        group = np.where(known, self._number[self._group_of[place]], -1)
        group = np.where(self._prunable[group], group, -1)
        if group.shape[1] == 1:
            return group, np.where(group >= 0, resolved, 0)
        order = np.argsort(-group, axis=1, kind="stable")
        return np.take_along_axis(group, order, axis=1), np.take_along_axis(
            np.where(group >= 0, resolved, 0), order, axis=1
        )

    def uneven(self) -> list[Labels]:
        """Labels on which groups do not combine evenly, so that no product of widths counts what is left."""
        found = []
        whole = {id(labels) for labels in self._labels.values()}
        everything = [*self._labels.values()]
        everything += [labels for _, _, labels in self._ledger.sizes]
        everything += [labels for _, labels in self._folds]
        everything += [
            labels for cost in self._ledger.costs for labels in (cost.reads, cost.writes) if labels is not None
        ]
        for labels in {id(labels): labels for labels in everything}.values():
            group, channel = self._parts(labels)
            if group.shape[1] == 1 and id(labels) in whole:
                continue  # a group's channels lie equally often along each parameter axis
            kinds, which = np.unique(group, axis=0, return_inverse=True)
            for i, kind in enumerate(kinds):
                inside = [int(g) for g in kind if g >= 0]
                if not inside:
                    continue
                rows = channel[which.reshape(-1) == i][:, : len(inside)]
                combinations, counts = np.unique(rows, axis=0, return_counts=True)
                expected = int(np.prod([self._groups[g].units for g in inside]))
                if len(set(inside)) < len(inside) or len(combinations) != expected or counts.min() != counts.max():
                    found.append(rows)
        return found

    def _side(self, labels: Labels | None) -> Side:
        if labels is None:
            return _DENSE
        if id(labels) not in self._sides:
            self._sides[id(labels)] = self._find_side(self._parts(labels)[0])
        return self._sides[id(labels)]

    def _positions(self, labels: Labels | None) -> int:
        """Of an axis on which groups lie; 0 where none does."""
        return len(labels) if labels is not None and self._side(labels).groups else 0

    def _find_side(self, group: Ints) -> Side:
        if not len(group):  # an empty slice
            return _DENSE
        if (group == group[:1]).all():
            return Side(((1.0, tuple(self._groups[g].name for g in group[0] if g >= 0)),))
        kinds, counts = np.unique(group, axis=0, return_counts=True)
        return Side(
            tuple(
                (int(count) / len(group), tuple(self._groups[g].name for g in kind if g >= 0))
                for kind, count in zip(kinds, counts, strict=True)
            )
        )

    def grouping(self) -> Grouping:
        names: set[str] = set()
        layers = tuple(
            Layer(
                _unique(cost.name, names),
                cost.kind,
                self._side(cost.reads),
                self._side(cost.writes),
                cost.macs,
                self._positions(cost.reads),
                self._positions(cost.writes),
            )
            for cost in self._ledger.costs
        )
        sides = {
            name: tuple(self._side(self._labels.get((name, i))) for i in range(len(shape)))
            for name, shape in self._shapes.items()
        }
        sizes = ((module, value, self._side(labels)) for module, value, labels in self._ledger.sizes)
        counted = tuple(dict.fromkeys(size for size in sizes if size[2].groups))
        folds = tuple((fold, self._side(labels)) for fold, labels in self._folds)
        return Grouping(tuple(self._groups), layers, sides, self._units, counted, folds, self._side)


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with @2, @3 … if it is taken; then taken too."""
    free, n = name, 1
    while free in taken:
        n += 1
        free = f"{name}@{n}"
    taken.add(free)
    return free


def _names(groups: Sequence[WidthGroup]) -> list[str]:
    """Unique names; of groups with one first layer the prunable ones come first."""
    taken: set[str] = set()
    order = sorted(range(len(groups)), key=lambda i: not groups[i].prunable)
    names = {i: _unique(groups[i].name, taken) for i in order}
    return [names[i] for i in range(len(groups))]
