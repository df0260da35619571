"""Messages: a bound below a sum of tables of pairs, where too many groups meet for elimination.

Sequential tree-reweighted message passing (Kolmogorov, 2006): messages move what pairs cost to single variables until
the bound, which never falls, stands still. It is the optimum of a linear program, and the least sum itself where pairs
are submodular after some variables are reversed, as products of what layers read and write mostly are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Messages"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Scope = tuple[int, ...]

_SWEEPS = 60
_STILL = 1e-5  # of what the bound has gained since the first sweep: then it stands still


class Messages:
    """Message passing for tables over the same pairs of variables; begins where it stopped the last time.

    Args:
        sizes: Values of each variable.
        scopes: The pairs.
    """

    def __init__(self, sizes: Sequence[int], scopes: Sequence[Scope]) -> None:
        self._sizes = tuple(sizes)
        self._widest = max(sizes)
        near: list[list[int]] = [[] for _ in sizes]
        for first, second in scopes:
            near[first].append(second)
            near[second].append(first)
        self._near = [np.array(sorted(each), dtype=np.int64) for each in near]
        number = {
            (v, int(other)): i
            for i, (v, other) in enumerate((v, o) for v, each in enumerate(near) for o in sorted(each))
        }
        self._out = [np.array([number[v, int(o)] for o in each], dtype=np.int64) for v, each in enumerate(self._near)]
        self._into = [np.array([number[int(o), v] for o in each], dtype=np.int64) for v, each in enumerate(self._near)]
        self._messages = np.zeros((len(number), self._widest))  # towards the second of each ordered pair

    def minimise(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> tuple[float, Whole]:
        """A value that no sum is below, and a place of each variable where the sum is small."""
        tables = self._oriented(joint)
        bound, first = -np.inf, None
        for _ in range(_SWEEPS):
            before = bound
            self._pass(singles, tables, forward=True)
            bound, _ = self._pass(singles, tables, forward=False)
            first = bound if first is None else first
            if bound - before <= _STILL * max(bound - first, 1e-9 * abs(bound)):
                break
        return bound, self._decoded(singles, tables)

    def marginals(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> list[Floats]:
        """For each value of each variable, a value that no sum with it is below."""
        tables = self._oriented(joint)
        self._pass(singles, tables, forward=True)
        before, _ = self._pass(singles, tables, forward=False)
        self._pass(singles, tables, forward=True)
        _, totals = self._pass(singles, tables, forward=False)  # a bound at any moment is at least that of before
        return [before + total for total in totals]

    def _oriented(self, joint: Mapping[Scope, Floats]) -> list[Floats]:
        """Per variable its tables with each neighbour, (n_near, own size, widest), infinite beyond the neighbour's."""
        tables = []
        for variable, near in enumerate(self._near):
            stack = np.full((len(near), self._sizes[variable], self._widest), np.inf)
            for table, other in zip(stack, near.tolist(), strict=True):
                own = joint[variable, other] if variable < other else joint[other, variable].T
                table[:, : own.shape[1]] = own
            tables.append(stack)
        return tables

    def _pass(
        self, singles: Sequence[Floats], tables: Sequence[Floats], *, forward: bool
    ) -> tuple[float, list[Floats]]:
        """Send messages in one direction; the bound, and what each value of a variable adds to it, at least 0."""
        bound = 0.0
        totals: list[Floats] = [np.empty(0)] * len(singles)
        variables = range(len(singles))
        for variable in variables if forward else reversed(variables):
            size, near = self._sizes[variable], self._near[variable]
            incoming = self._messages[self._into[variable], :size]
            total = singles[variable] + incoming.sum(0)
            least = float(total.min())
            total = total - least
            bound += least
            totals[variable] = total
            ahead = near > variable
            chains = max(int(ahead.sum()), int((~ahead).sum()), 1)
            to = np.flatnonzero(ahead if forward else ~ahead)
            if not len(to):
                continue
            sent = (tables[variable][to] + (total / chains - incoming[to])[:, :, None]).min(1)
            lowest = sent.min(1)
            bound += float(lowest.sum())
            sent = sent - lowest[:, None]
            sent[~np.isfinite(sent)] = 0.0
            self._messages[self._out[variable][to]] = sent
        return bound, totals

    def _decoded(self, singles: Sequence[Floats], tables: Sequence[Floats]) -> Whole:
        """Values chosen one after the other, in view of those chosen and of the messages of the others."""
        chosen = np.zeros(len(singles), dtype=np.int64)
        for variable, single in enumerate(singles):
            near = self._near[variable]
            behind = np.flatnonzero(near < variable)
            ahead = np.flatnonzero(near > variable)
            total = single + self._messages[self._into[variable][ahead], : self._sizes[variable]].sum(0)
            if len(behind):
                total = total + tables[variable][behind, :, chosen[near[behind]]].sum(0)
            chosen[variable] = int(np.argmin(total))
        return chosen
