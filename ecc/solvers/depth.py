"""Depth: limits over widths and residual blocks together, and the network that is left of both."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Depth, Problem, Progress, Solution, Status
from ecc.core.widths import WidthGroup
from ecc.network.depth import bypassed
from ecc.solvers.evaluation import evaluate
from ecc.solvers.limits import Limits, Ranking, kept_of
from ecc.solvers.sparsity import Sparsity

__all__ = ["DepthLimits", "block_curves", "demand_depth", "one_shot_deep"]

_STAYS, _GOES = 2, 1  # units of a block's group


class DepthLimits(Limits):
    """The limits of a problem, for vectors of units kept per group and, behind them, one number per block.

    Args:
        problem: With the blocks that may go.
        min_fraction: Least fraction of each group's units; all blocks may go.
    """

    def __init__(self, problem: Problem, min_fraction: float = 0.0) -> None:
        super().__init__(_deep(problem, demand_depth(problem)), min_fraction)
        self.lowest[len(problem.space) :] = _GOES


def demand_depth(problem: Problem) -> Depth:
    """The blocks that may go.

    Raises:
        InputError: If the problem has none.
    """
    if problem.depth is None:
        raise InputError("Problem(depth=...) is None, and the method is to remove blocks; give those that may go")
    return problem.depth


def _deep(problem: Problem, depth: Depth) -> Problem:
    """The problem whose groups are those of widths and then those of blocks, which no tensor knows of."""
    more = tuple(WidthGroup(name, _STAYS, 1, True, "", (), ()) for name in depth.space.names[len(problem.space) :])
    return replace(
        problem, groups=(*problem.groups, *more), space=depth.space, constraints=depth.constraints, depth=None
    )


def block_curves(losses: Tensor) -> list[Tensor]:
    """What ``allocate`` takes for blocks of which each loses so much when it goes, shape (n_blocks,)."""
    return [torch.tensor([loss, loss, 0.0], dtype=torch.float64) for loss in losses.tolist()]


def one_shot_deep(
    problem: Problem,
    limits: Limits,
    name: str,
    rate: Callable[[], tuple[list[Tensor], Tensor]],
    choose: Callable[[Ranking, Tensor, Limits], Tensor],
    progress: Progress | None,
) -> Solution:
    """``one_shot`` where blocks may go beside units.

    Args:
        limits: Of kind DepthLimits.
        rate: Importance of each group's units, and of each block; called once the constraints are known to be
            reachable.
        choose: Units kept per group and block, within the limits.

    Raises:
        InputError: If the problem has no blocks that may go.
    """
    started = time.monotonic()
    depth = demand_depth(problem)
    values, blocks = rate()
    ranking = Ranking(values)
    chosen = choose(ranking, blocks, limits)
    units, stays = chosen[: len(problem.space)], chosen[len(problem.space) :] > _GOES
    removed = tuple(block for block, stay in zip(depth.blocks, stays.tolist(), strict=True) if not stay)
    gone = {group for block in removed for group in depth.blocks[block]}
    kept = {group: own for group, own in kept_of(problem, ranking, units).items() if group not in gone}
    step = dict(zip(problem.space.names, problem.space.step, strict=True))
    model = copy.deepcopy(problem.model)
    Sparsity(model, problem.groups).zero(kept)
    short = bypassed(model, dict.fromkeys(removed, False))
    row = {"phase": name, "epoch": 0, "loss": math.nan}
    row |= {"score": evaluate(short, problem.task.validation, problem.task.score)}
    row |= limits.figures(chosen) | {"blocks": len(depth.blocks) - len(removed), "seconds": time.monotonic() - started}
    if progress is not None:
        progress(name, 1, 1, f"score {row['score']:.4f} before fine-tuning, {len(removed)} blocks removed")
    return Solution(
        model,
        kept,
        {group: len(own) * step[group] for group, own in kept.items()},
        dict(zip(limits.names, limits.values(chosen).tolist(), strict=True)),
        Status.MET if bool(limits.met(chosen)) else Status.INFEASIBLE,
        pd.DataFrame([row]),
        removed,
    )
