r"""Tables: costs as exact sums of functions of few groups each, tabulated over the units that groups may keep.

A cost that is a sum of functions of sets S of groups is, for any anchor a, the sum of its anchored parts

.. math:: c(u) = \sum_{T} g_T(u_T), \qquad g_T = \Bigl(\prod_{i \in T} (1 - A_i)\Bigr)\, c(u_T, a_{-T})

over all subsets T of these sets, A_i putting group i at its anchor (the cut-HDMR of Rabitz and Aliş, 1999). So tables
are made by asking the cost itself, with all other groups at the anchor, and never by knowing what it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.interactions import Interactions

__all__ = ["Tables", "cut_tables"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Scope = tuple[int, ...]

_BATCH = 1 << 14  # width vectors that a cost is asked for at a time
_NOTHING = 1e-13  # of a cost relative to dense, which is what rounding leaves of groups that do not interact


@dataclass(frozen=True, eq=False)
class Tables:
    """Losses and relative costs of the units that groups may keep; groups of one choice are folded into the others.

    Attributes:
        choices: Units that each group may keep, rising, shape (d_i,) each.
        losses: Of those, same shapes.
        singles: What each group adds to the costs by itself, shape (n_constraints, d_i) each.
        joint: What sets of at least two groups add beside that, shape (n_constraints, d_i, d_j, …) each.
        loss: Beside the losses.
        excess: Costs beside the tables, less the limits, shape (n_constraints,).
    """

    choices: tuple[Whole, ...]
    losses: tuple[Floats, ...]
    singles: tuple[Floats, ...]
    joint: Mapping[Scope, Floats]
    loss: float
    excess: Floats

    @property
    def sizes(self) -> tuple[int, ...]:
        """Choices per group."""
        return tuple(len(each) for each in self.choices)

    def units(self, chosen: Whole) -> Tensor:
        """The units of chosen places, shape (n_groups,)."""
        found = [float(each[place]) for each, place in zip(self.choices, chosen.tolist(), strict=True)]
        return torch.tensor(found, dtype=torch.float64)

    def at(self, chosen: Whole) -> tuple[float, Floats]:
        """Loss and costs less their limits, shape (n_constraints,), at chosen places."""
        places = chosen.tolist()
        loss = self.loss + sum(float(each[place]) for each, place in zip(self.losses, places, strict=True))
        excess = self.excess + sum(each[:, place] for each, place in zip(self.singles, places, strict=True))
        for scope, table in self.joint.items():
            excess = excess + table[(slice(None), *(places[group] for group in scope))]
        return loss, excess

    def restricted(self, kept: Sequence[Whole]) -> Tables:
        """The same with fewer choices: the places kept of each group, rising."""
        singles = [table[:, places] for table, places in zip(self.singles, kept, strict=True)]
        excess = self.excess.copy()
        joint: dict[Scope, Floats] = {}
        for scope, whole in self.joint.items():
            table = whole[np.ix_(np.arange(len(whole)), *(kept[group] for group in scope))]
            free = tuple(group for group in scope if len(kept[group]) > 1)
            table = table.reshape(len(whole), *(len(kept[group]) for group in free))
            if not free:
                excess += table
            elif len(free) == 1:
                singles[free[0]] = singles[free[0]] + table
            else:
                joint[free] = joint[free] + table if free in joint else table
        return Tables(
            tuple(each[places] for each, places in zip(self.choices, kept, strict=True)),
            tuple(each[places] for each, places in zip(self.losses, kept, strict=True)),
            tuple(singles),
            joint,
            self.loss,
            excess,
        )


def cut_tables(
    costs: Callable[[Tensor], Tensor], interactions: Interactions, choices: Sequence[Whole], anchor: Whole
) -> tuple[Floats, list[Floats], dict[Scope, Floats]]:
    """Costs at the anchor, what each group adds alone, and what each set of groups adds beside that.

    Args:
        costs: Of units, shape (n, n_groups) → (n, n_costs).
        interactions: Sets of groups, none within another; what other groups add to each other is left out.
        anchor: Place of each group's anchor among its choices.

    Returns:
        Shapes (n_costs,), (n_costs, d_i) per group, and (n_costs, d_i, d_j, …) per set.
    """
    middle = np.array([each[place] for each, place in zip(choices, anchor, strict=True)], dtype=np.float64)
    centre = _ask(costs, middle[None])[0]
    alone = [_cut(costs, middle, (group,), choices) - centre[:, None] for group in range(len(choices))]
    joint: dict[Scope, Floats] = {}
    counted: set[Scope] = set()
    for scope in interactions:
        if len(scope) < 2:
            continue
        table = _cut(costs, middle, scope, choices) - centre.reshape(-1, *(1 for _ in scope))
        for axis, group in enumerate(scope):
            table = table - _along(alone[group], axis, len(scope))
        rest = table.copy()
        for size in range(2, len(scope)):
            for some in combinations(range(len(scope)), size):
                part = tuple(scope[axis] for axis in some)
                if part in counted:
                    rest -= _anchored(table, some, anchor, scope)
                counted.add(part)
        counted.add(scope)
        if float(np.abs(rest).max()) > _NOTHING:
            joint[scope] = rest
    return centre, alone, joint


def _ask(costs: Callable[[Tensor], Tensor], units: Floats) -> Floats:
    with torch.no_grad():
        found = [costs(part).numpy() for part in torch.split(torch.from_numpy(units), _BATCH)]
    return np.concatenate(found).astype(np.float64)


def _cut(costs: Callable[[Tensor], Tensor], middle: Floats, scope: Scope, choices: Sequence[Whole]) -> Floats:
    """The costs over the choices of some groups, all others at the anchor; shape (n_costs, d_i, d_j, …)."""
    shape = tuple(len(choices[group]) for group in scope)
    rows = np.repeat(middle[None], math.prod(shape), axis=0)
    for column, values in zip(scope, np.meshgrid(*(choices[group] for group in scope), indexing="ij"), strict=True):
        rows[:, column] = values.reshape(-1)
    found = _ask(costs, rows)
    return found.T.reshape(found.shape[1], *shape)


def _along(values: Floats, axis: int, axes: int) -> Floats:
    """Vectors, shape (n, d), as tables of that many axes that vary along one: shape (n, 1, …, d, …, 1)."""
    return values.reshape(len(values), *(values.shape[1] if each == axis else 1 for each in range(axes)))


def _anchored(table: Floats, some: tuple[int, ...], anchor: Whole, scope: Scope) -> Floats:
    """The part g_T of cut tables, T being some of their axes; length 1 along the others."""
    part = table
    for axis, group in enumerate(scope):
        there = part.take([int(anchor[group])], axis=axis + 1)
        part = part - there if axis in some else there
    return part
