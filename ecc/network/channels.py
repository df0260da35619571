"""Channels: which positions of which axes go together, or may not go at all.

Every position of a tracked axis carries a *label*: a set of channel ids, and the position is removed if any of them is.
Most labels hold one id. Where an axis of h·d positions is reshaped to (h, d), each of its channels is replaced by the
pair {row, column}, so that rows (attention heads) and columns (their size) can go independently. Ids that an operator
ties are merged by union–find. Merging or fixing too much only forbids removals; it never makes an allowed one wrong.

Labels are integer arrays of shape (positions, k); 0 is the id that is never removed and pads rows of fewer than k ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Channels", "Labels"]

Labels = NDArray[np.int64]

_ROUNDS = 8  # of replacement, after which a knot is not untied but fixed


class Channels:
    """Union–find over channel ids, with replacement of a channel by a pair and a reason for each fixed one."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._first = np.zeros(1024, dtype=np.int64)  # the pair that a channel was replaced by; 0 where it was not
        self._second = np.zeros(1024, dtype=np.int64)
        self._family = np.zeros(1024, dtype=np.int64)  # the call of ``fresh`` that made the id
        self._why = np.zeros(1024, dtype=np.int64)  # index into ``_reasons``; 0 while the channel is free
        self._why[0] = 1
        self._reasons = ["", "its size is fixed"]
        self._size = 1
        self._families = 0

    @property
    def size(self) -> int:
        """All ids are below this."""
        return self._size

    def fresh(self, positions: int) -> Labels:
        """New channels, one per position: shape (positions, 1)."""
        start, end = self._size, self._size + positions
        if end > len(self._parent):
            extra = np.zeros(max(positions, len(self._parent)), dtype=np.int64)
            self._parent, self._first, self._second, self._family, self._why = (
                np.concatenate([column, extra])
                for column in (self._parent, self._first, self._second, self._family, self._why)
            )
        ids = np.arange(start, end)
        self._families += 1
        self._parent[start:end] = ids
        self._family[start:end] = self._families
        self._size = end
        return ids[:, None]

    def resolve(self, labels: Labels) -> Labels:
        """Labels in today's representatives, replaced channels opened; fixed channels keep their ids."""
        labels = self._roots(labels)
        while (replaced := self._first[labels] > 0).any():
            first = np.where(replaced, self._first[labels], labels)
            second = np.where(replaced, self._second[labels], 0)
            labels = self._roots(np.stack([first, second], axis=-1).reshape(len(labels), -1))
        used = labels.any(axis=0)
        return labels if used.all() else labels[:, used]

    def family(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """For resolved ids: a number that tells channels of different origin apart."""
        return self._family[ids]

    def fixed(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """For resolved ids: 0 where the channel is free, else the number of its reason."""
        return self._why[ids]

    def movable(self, labels: Labels | None) -> bool:
        """Whether any position with these labels can still be removed."""
        return labels is not None and bool((self._why[self.resolve(labels)] == 0).any())

    def reason(self, number: int) -> str:
        """The sentence of a reason's number."""
        return self._reasons[number]

    def fix(self, labels: Labels, reason: str) -> None:
        """No position with these labels may ever be removed; the first reason given to a channel stays."""
        self._fix(np.unique(self.resolve(labels)), self._number(reason))

    def tie(self, a: Labels, b: Labels, reason: str) -> None:
        """Position i of ``a`` is removed exactly when position i of ``b`` is.

        Args:
            a: Labels of shape (n, k).
            b: Labels of shape (n, m).
            reason: Given to channels that can only meet this by never being removed.
        """
        number = self._number(reason)
        if self._tie_plain(a, b):
            return
        for _ in range(_ROUNDS):
            rows = self._unequal_rows(a, b)
            if not len(rows[0]):
                return
            a, b = rows
            n_a, n_b = (a > 0).sum(1), (b > 0).sum(1)
            bare = (n_a == 0) | (n_b == 0)
            single = (n_a == 1) & (n_b == 1)
            if bare.any():
                self._fix_like(a[bare], b[bare], number)
            if single.any():
                self._union(a[single, 0], b[single, 0])
            if not (bare | single).any() and not self._replace_all(a, b) and not self._union_all(a, b):
                for row_a, row_b in zip(a, b, strict=True):
                    self._tie_row(row_a, row_b, number)
        self._fix(np.unique(self.resolve(a)), number)
        self._fix(np.unique(self.resolve(b)), number)

    def tie_blocks(self, labels: Labels, blocks: int, reason: str) -> None:
        """Equal local positions of ``blocks`` equal runs of an axis go together."""
        size = len(labels) // blocks
        self.tie(labels, np.tile(labels[:size], (blocks, 1)), reason)

    def split(self, labels: Labels, rows: int, columns: int, reason: str) -> tuple[Labels | None, Labels | None]:
        """Labels of the axes (rows, columns) that an axis of rows × columns positions is reshaped to.

        An axis comes back as None when none of its positions can be removed.
        """
        for _ in range(_ROUNDS):
            table = self.resolve(labels)
            table = np.where(self._why[table] > 0, 0, table).reshape(rows, columns, -1)
            by_row = (table == table[:, :1]).all(axis=(0, 1))
            by_column = (table == table[:1]).all(axis=(0, 1)) & ~by_row
            mixed = np.flatnonzero(~by_row & ~by_column)
            if not len(mixed):
                row_labels, column_labels = table[:, 0, by_row], table[0][:, by_column]
                return (
                    row_labels if row_labels.any() else None,
                    column_labels if column_labels.any() else None,
                )
            row, column = self.fresh(rows), self.fresh(columns)
            pair = np.concatenate([np.repeat(row, columns, axis=0), np.tile(column, (rows, 1))], axis=1)
            self.tie(table[:, :, mixed[0]].reshape(-1, 1), pair, reason)
        self.fix(labels, reason)
        return None, None

    @staticmethod
    def merge(axes: Sequence[tuple[int, Labels | None]]) -> Labels | None:
        """Labels of the axis that neighbouring axes, given as (size, labels), are flattened to."""
        columns, before, total = [], 1, int(np.prod([size for size, _ in axes]))
        for size, labels in axes:
            if labels is not None:
                after = total // (before * size)
                columns.append(np.tile(np.repeat(labels, after, axis=0), (before, 1)))
            before *= size
        return np.concatenate(columns, axis=1) if columns else None

    @staticmethod
    def concatenate(parts: Sequence[tuple[int, Labels | None]]) -> Labels | None:
        """Labels of the axis that axes, given as (size, labels), are concatenated to."""
        if all(labels is None for _, labels in parts):
            return None
        width = max(labels.shape[1] for _, labels in parts if labels is not None)
        joined = np.zeros((sum(size for size, _ in parts), width), dtype=np.int64)
        start = 0
        for size, labels in parts:
            if labels is not None:
                joined[start : start + size, : labels.shape[1]] = labels
            start += size
        return joined

    def _roots(self, ids: Labels) -> Labels:
        roots = self._parent[ids]
        while True:
            up = self._parent[roots]
            if (up == roots).all():
                self._parent[ids] = roots
                return roots
            roots = up

    def _number(self, reason: str) -> int:
        if self._reasons[-1] != reason:
            self._reasons.append(reason)
        return len(self._reasons) - 1

    def _fix(self, ids: NDArray[np.int64], number: int) -> None:
        free = ids[self._why[ids] == 0]
        self._why[free] = number

    def _free_rows(self, labels: Labels) -> tuple[Labels, NDArray[np.int64]]:
        """Resolved rows without fixed or repeated ids, ids first, and the reason of what was dropped from each."""
        labels = self.resolve(labels)
        why = self._why[labels]
        free = np.where(why > 0, 0, labels)
        for j in range(1, free.shape[1]):
            free[(free[:, :j] == free[:, j : j + 1]).any(1), j] = 0
        if free.shape[1] > 1:
            free = np.take_along_axis(free, np.argsort(free == 0, axis=1, kind="stable"), axis=1)
        return free, why.max(axis=1, initial=0)

    def _tie_plain(self, a: Labels, b: Labels) -> bool:
        """Merge rows of one id each, fixed or not; whether there were no others."""
        a, b = self.resolve(a), self.resolve(b)
        if a.shape[1] != 1 or b.shape[1] != 1:
            return False
        both = (a[:, 0] > 0) & (b[:, 0] > 0)
        self._union(a[both, 0], b[both, 0])
        return bool(both.all())

    def _unequal_rows(self, a: Labels, b: Labels) -> tuple[Labels, Labels]:
        """The distinct pairs of rows that do not yet hold the same ids; whole rows that are fixed are settled here."""
        (free_a, why_a), (free_b, why_b) = self._free_rows(a), self._free_rows(b)
        for free, why in ((free_a, why_b), (free_b, why_a)):
            other = free_b if free is free_a else free_a
            settled = ~other.any(axis=1) & free.any(axis=1) & (why > 1)  # 1 says no more than the caller's reason
            for number in np.unique(why[settled]):
                self._fix(np.unique(free[settled & (why == number)]), int(number))
        width = max(free_a.shape[1], free_b.shape[1])
        free_a = np.pad(free_a, ((0, 0), (0, width - free_a.shape[1])))
        free_b = np.pad(free_b, ((0, 0), (0, width - free_b.shape[1])))
        unequal = (np.sort(free_a, axis=1) != np.sort(free_b, axis=1)).any(axis=1)
        unequal &= ~((self._why[free_a] > 0).all(axis=1) & (self._why[free_b] > 0).all(axis=1))
        both = np.concatenate([free_a[unequal], free_b[unequal]], axis=1)
        if width > 1:
            both = np.unique(both, axis=0)
        return both[:, :width], both[:, width:]

    def _fix_like(self, a: Labels, b: Labels, number: int) -> None:
        """One of each pair of rows may not be removed, so neither may the other."""
        self._fix(np.unique(np.concatenate([a, b])), number)

    def _union(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        while True:
            a, b = self._roots(a), self._roots(b)
            apart = a != b
            if not apart.any():
                return
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            # An id that is tied to several others is linked to one of them now and meets the rest in the next pass.
            self._parent[high] = low
            bound = np.unique(high[self._why[high] > 0])
            roots = self._roots(bound)
            free = self._why[roots] == 0
            self._why[roots[free]] = self._why[bound[free]]

    def _replace_all(self, a: Labels, b: Labels) -> bool:
        """Replace single channels by the pairs that they face, if that is all there is to do."""
        swapped = (a > 0).sum(1) > 1
        one = np.where(swapped[:, None], b, a)
        pair = np.where(swapped[:, None], a, b)
        if one[:, 1:].any() or pair[:, 2:].any() or np.isin(one[:, 0], pair).any():
            return False
        _, first = np.unique(one[:, 0], return_index=True)  # a channel that faces several pairs meets the rest later
        self._first[one[first, 0]], self._second[one[first, 0]] = pair[first, 0], pair[first, 1]
        return True

    def _union_all(self, a: Labels, b: Labels) -> bool:
        """Merge rows of equally many ids position by position, if no id stands in another position of its partner."""
        crossed = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] > 0)
        crossed[:, np.arange(a.shape[1]), np.arange(a.shape[1])] = False
        if ((a > 0) != (b > 0)).any() or crossed.any():
            return False
        self._union(a[a > 0], b[b > 0])
        return True

    def _tie_row(self, row_a: NDArray[np.int64], row_b: NDArray[np.int64], number: int) -> None:
        ids_a, ids_b = (
            [int(i) for i in dict.fromkeys(self._free_rows(row[None])[0][0]) if i > 0] for row in (row_a, row_b)
        )
        only_a = [i for i in ids_a if i not in ids_b]
        only_b = [i for i in ids_b if i not in ids_a]
        if len(only_a) == len(only_b):
            self._union(np.array(only_a, dtype=np.int64), np.array(only_b, dtype=np.int64))
        elif len(only_a) == 1 and only_b:
            self._replace(only_a[0], only_b)
        elif len(only_b) == 1 and only_a:
            self._replace(only_b[0], only_a)
        else:
            self._fix(np.array(only_a + only_b, dtype=np.int64), number)

    def _replace(self, channel: int, by: list[int]) -> None:
        while len(by) > 2:
            pair = int(self.fresh(1)[0, 0])
            self._first[pair], self._second[pair] = by[-2], by[-1]
            by = [*by[:-2], pair]
        self._first[channel], self._second[channel] = by
