"""Allocate: curves of losses and limits in, widths out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.solvers.allocation.branching import Search
from ecc.solvers.allocation.moving import Mover
from ecc.solvers.allocation.plan import Plan
from ecc.solvers.allocation.reaching import demand_reachable
from ecc.solvers.limits import Limits

__all__ = ["Allocation", "allocate", "demand_curves"]

Floats = NDArray[np.float64]

_MOST = 1 << 30  # nodes
_NODES = 200  # of one look at widths that are not all choices
_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Widths that meet all limits, and how far from the best they can be.

    Attributes:
        units: Kept per group, float64, shape (n_groups,).
        loss: Sum of the curves there.
        bound: No admissible widths lose less; None where that is not known.
        gap: (loss − bound) / (loss − what is lost without limits), 0 when optimal; None where there is no bound.
        reason: Why there is no bound; empty when there is one.
        nodes: Subproblems looked at.
    """

    units: Tensor
    loss: float
    bound: float | None
    gap: float | None
    reason: str
    nodes: int


def allocate(
    curves: Sequence[Tensor],
    limits: Limits,
    *,
    start: Tensor | None = None,
    seconds: float = 5.0,
    gap: float = 1e-3,
    nodes: int | None = None,
    plan: Plan | None = None,
) -> Allocation:
    """The widths of least summed loss that meet all limits.

    Args:
        curves: Loss of keeping k units, k = 0 … all, shape (units + 1,) per group; the groups' losses add up.
        start: Units to begin at, where some that are good are known; shape (n_groups,).
        seconds: When to stop looking for better widths and bounds.
        gap: When to stop because the widths are good enough.
        nodes: When to stop whatever the clock says; with infinite seconds the answer does not depend on the machine.
        plan: ``Plan.of(limits)``, where there is one of the same costs already: its tables take most of the time.

    Raises:
        InputError: If curves do not fit the groups or no widths meet the limits.
    """
    demand_curves(curves, limits)
    if not seconds > 0 or not gap >= 0:
        raise InputError(f"allocate(seconds={seconds}, gap={gap}) must be positive and not negative")
    losses = [curve.detach().to("cpu", torch.float64).numpy() for curve in curves]
    return _Job(losses, limits, plan or Plan.of(limits), time.monotonic() + seconds, gap, nodes or _MOST).run(start)


class _Job:
    """One allocation; arguments as of ``allocate``."""

    def __init__(
        self, curves: list[Floats], limits: Limits, plan: Plan, deadline: float, gap: float, nodes: int
    ) -> None:
        self._curves, self._limits, self._deadline, self._gap = curves, limits, deadline, gap
        self._plan, self._most = plan, nodes
        self._mover = Mover(curves, limits, deadline)
        self._units: Tensor | None = None
        self._loss = np.inf
        self._nodes = 0

    def run(self, start: Tensor | None) -> Allocation:
        """Exact where tables hold all widths, otherwise closer and closer looks at the best widths known."""
        for units in (start, self._limits.dense):
            if units is not None and bool(self._limits.met(units)):
                self._take(units.to(torch.float64))
        if self._plan.unknown:
            self._start()
            self._look_again()
        elif self._plan.whole:
            return self._exact()
        else:
            self._look_closer()
        if self._units is None:
            demand_reachable(self._limits)
            raise InputError("no admissible widths that meet all limits were found in time; give looser limits")
        return Allocation(self._units, self._loss, None, None, self._reason, self._nodes)

    @property
    def _reason(self) -> str:
        if self._plan.unknown:
            return f"the cost of {self._plan.unknown[0]} is no sum of functions of few groups, so no bound is known"
        return (
            f"groups are too wide to look at all widths; the best of those {max(self._plan.stride)} units apart were "
            "refined, so no bound is known"
        )

    def _take(self, units: Tensor) -> bool:
        loss = self._mover.loss(units)
        if loss < self._loss:
            self._units, self._loss = units.clone(), loss
            return True
        return False

    def _exact(self) -> Allocation:
        search = self._search(self._limits.dense, 0)
        ended = search.run(self._mover.best, self._most)
        if search.units is None:
            demand_reachable(self._limits)
            what = "there are no admissible widths that meet" if ended else "no admissible widths were found to meet"
            raise InputError(f"{what} all limits together; give looser ones")
        beyond = search.loss - search.floor
        rest = max(search.loss - search.bound, 0.0)
        gap = 0.0 if rest <= 1e-9 * max(beyond, 1e-300) or beyond <= 0 else rest / beyond
        return Allocation(search.units, search.loss, search.loss - rest, gap, "", search.nodes)

    def _search(self, anchor: Tensor, closer: int) -> Search:
        choices = self._plan.choices(anchor, closer)
        tables = self._plan.tables(self._curves, choices, anchor, self._limits.limits)
        search = Search(tables, self._limits.met, self._gap, self._deadline)
        if self._units is not None:
            search.offer(self._units, self._loss)
        return search

    def _look_closer(self) -> None:
        """Halve the strides around the best widths, until all units there were looked at and nothing is better."""
        closer, last = 0, int(max(self._plan.stride)).bit_length() - 1
        while True:
            search = self._search(self._limits.dense if self._units is None else self._units, closer)
            search.run(self._mover.best, min(_NODES, self._most))
            self._nodes += search.nodes
            better = search.units is not None and search.loss < self._loss and self._take(search.units)
            if self._units is None or time.monotonic() > self._deadline or (closer == last and not better):
                return
            closer = min(closer + 1, last)

    def _start(self) -> None:
        """Any widths that meet all limits."""
        if self._units is None:
            for units in (self._limits.dense, self._limits.lowest):
                found = self._mover.best(units)
                if found is not None:
                    self._take(found[0])
                    return

    def _look_again(self) -> None:
        """Tables around the best widths, until the widths that are best by these are no better."""
        for _ in range(_ROUNDS):
            if self._units is None or time.monotonic() > self._deadline:
                return
            search = self._search(self._units, 0)
            search.run(self._mover.best, 1)
            self._nodes += search.nodes
            if search.units is None or search.loss >= self._loss or not self._take(search.units):
                return


def demand_curves(curves: Sequence[Tensor], limits: Limits) -> None:
    """Refuse curves that are not of these groups.

    Raises:
        InputError: If there is not one per group, with a finite loss for each number of units.
    """
    sizes = [int(units) + 1 for units in limits.dense.tolist()]
    if [tuple(curve.shape) for curve in curves] != [(size,) for size in sizes]:
        raise InputError(
            f"allocate(curves=...) must be one loss for each number of units of {len(sizes)} groups, from none to all"
        )
    if not all(bool(curve.isfinite().all()) for curve in curves):
        raise InputError("allocate(curves=...) must be finite; a loss is NaN or infinite")
