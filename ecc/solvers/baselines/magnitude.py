"""Magnitude pruning: the units of smallest weights go, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.baselines.one_shot import one_shot
from ecc.solvers.limits import Limits, Ranking
from ecc.solvers.sparsity import Sparsity

__all__ = ["Magnitude"]


@dataclass(frozen=True, slots=True)
class Magnitude:
    """One ranking of all units of all groups; the smallest are dropped until every constraint holds.

    The rank of a unit is the L2 norm of the weights that read it over the mean of its group, since plain norms compare
    layers by their fan-in and would empty one of them. Every group keeps one unit at least.
    """

    name: str = "magnitude"

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint.
        """
        return one_shot(problem, self.name, _relative_norms, _drop_smallest, progress)


def _relative_norms(sparsity: Sparsity) -> list[Tensor]:
    norms = [energy.sqrt() for energy in sparsity.energies()]
    return [norm / norm.mean().clamp(min=torch.finfo(norm.dtype).tiny) for norm in norms]


def _drop_smallest(ranking: Ranking, limits: Limits) -> Tensor:
    """Units after the fewest drops, in rising order of importance, that meet every constraint."""
    groups, positions = _droppable(limits)
    # Rising importance; among equals the later unit of a group goes first, so that each group keeps a prefix.
    values = ranking.sorted[groups, positions]
    order = torch.argsort(values.flip(0), stable=True)
    queue = groups.flip(0)[order]

    def units(drops: int) -> Tensor:
        return limits.dense - torch.bincount(queue[:drops], minlength=len(limits.dense))

    low, high = -1, len(queue)  # one unit everywhere is feasible, which was checked; -1 stands for "not feasible"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if limits.met(units(middle)) else (middle, high)
    return units(high)


def _droppable(limits: Limits) -> tuple[Tensor, Tensor]:
    """(group, position in the ranking) of every unit that may go."""
    pairs = [(g, p) for g, n in enumerate(limits.dense.tolist()) for p in range(int(limits.lowest[g]), int(n))]
    table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return table[:, 0], table[:, 1]
