"""Correction: the widths of a trained solution moved to limits that have changed a little.

A cost model is wrong by a few per cent, so a solution that was measured has to give up units or may take some back.
What was trained stays: kept units rank above dropped ones, and a unit that comes back has the weights of the dense
network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.problem import Problem, Solution
from ecc.core.widths import WidthGroup
from ecc.solvers.allocation import demand_reachable
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.sparsity import Sparsity

__all__ = ["adjust"]


def adjust(problem: Problem, found: Solution) -> Solution:
    """Shrink or grow a solution to the problem's constraints.

    Args:
        problem: Its model is the dense network; its constraints are the corrected ones.
        found: A solution for other limits of the same costs.
    Raises:
        InputError: If no admissible widths meet a constraint.
    """
    limits = Limits(problem)
    demand_reachable(limits)
    model = copy.deepcopy(found.model)
    kept = [torch.from_numpy(np.asarray(found.kept[group.name], dtype=np.int64)) for group in problem.groups]
    trained = Sparsity(model, problem.groups).energies()
    dense = Sparsity(problem.model, problem.groups).energies()
    ranking = Ranking([_rank(*each) for each in zip(kept, trained, dense, strict=True)])
    units = torch.tensor([len(each) for each in kept], dtype=torch.float64)
    units = ranking.grow(ranking.shrink(units, limits), limits)
    _restore(model, problem.model, problem.groups, kept, ranking.kept(units))
    return solution(problem, model, limits, ranking, units, found.history)


def _rank(kept: Tensor, trained: Tensor, dense: Tensor) -> Tensor:
    """Energies of one group's units: trained ones of those kept, and below all of them the dense ones of the others."""
    trained, dense = trained.detach().double().cpu(), dense.detach().double().cpu()
    values = dense.clone()
    values[kept] = 0
    least, most = float(trained[kept].min()), float(values.max())
    if most > 0:
        values *= min(1.0, 0.999 * least / most)
    values[kept] = trained[kept]
    return values


@torch.no_grad()
def _restore(
    model: nn.Module, dense: nn.Module, groups: Sequence[WidthGroup], before: Sequence[Tensor], after: Sequence[Tensor]
) -> None:
    """Copy the slices of units that come back from the dense network."""
    own, original = _tensors(model), _tensors(dense)
    for group, old, new in zip(groups, before, after, strict=True):
        back = np.setdiff1d(new.numpy(), old.numpy())
        if not len(back):
            continue
        for slot in group.slots:
            target = own[slot.tensor]
            rows = torch.from_numpy(slot.indices[back].reshape(-1)).to(target.device)
            target.index_copy_(slot.axis, rows, original[slot.tensor].to(target).index_select(slot.axis, rows))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return named | dict(model.named_buffers(remove_duplicate=False))
