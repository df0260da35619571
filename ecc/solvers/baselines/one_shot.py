"""What the baselines without training share: choose widths from one rating of the trained weights' units."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Problem, Progress, Solution
from ecc.solvers.evaluation import evaluate
from ecc.solvers.limits import Limits, Ranking, solution

__all__ = ["demand_floor", "drop_smallest", "one_shot"]


def one_shot(
    problem: Problem,
    limits: Limits,
    name: str,
    rate: Callable[[], list[Tensor]],
    choose: Callable[[Ranking, Limits], Tensor],
    progress: Progress | None,
) -> Solution:
    """Rate the units, choose widths and zero the rest in a copy of the network.

    Args:
        rate: Importance of each group's units; called once the constraints are known to be reachable.
        choose: Units kept per group, within the limits.

    Returns:
        A solution whose history is one row: the score before any fine-tuning, and the costs.
    """
    started = time.monotonic()
    ranking = Ranking(rate())
    units = choose(ranking, limits)
    model = copy.deepcopy(problem.model)
    found = solution(problem, model, limits, ranking, units, pd.DataFrame())
    row = {"phase": name, "epoch": 0, "loss": math.nan}
    row |= {"score": evaluate(model, problem.task.validation, problem.task.score)}
    row |= limits.figures(units) | {"seconds": time.monotonic() - started}
    if progress is not None:
        progress(name, 1, 1, f"score {row['score']:.4f} before fine-tuning")
    return Solution(model, found.kept, found.widths, found.predicted, found.status, pd.DataFrame([row]))


def demand_floor(method: str, min_fraction: float) -> None:
    """Refuse what is no fraction of a group.

    Raises:
        InputError: If so.
    """
    if not 0 <= min_fraction <= 1:
        raise InputError(f"{method}(min_fraction=...) must be in [0, 1], got {min_fraction!r}")


def drop_smallest(ranking: Ranking, limits: Limits) -> Tensor:
    """Units after the fewest drops, in rising order of importance over all groups, that meet every constraint."""
    groups, positions = _droppable(limits)
    # Rising importance; among equals the later unit of a group goes first, so that each group keeps a prefix.
    values = ranking.sorted[groups, positions]
    order = torch.argsort(values.flip(0), stable=True)
    queue = groups.flip(0)[order]

    def units(drops: int) -> Tensor:
        return limits.dense - torch.bincount(queue[:drops], minlength=len(limits.dense))

    low, high = -1, len(queue)  # the lowest widths are feasible; -1 stands for "not feasible"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if limits.met(units(middle)) else (middle, high)
    return units(high)


def _droppable(limits: Limits) -> tuple[Tensor, Tensor]:
    """(group, position in the ranking) of every unit that may go."""
    pairs = [(g, p) for g, n in enumerate(limits.dense.tolist()) for p in range(int(limits.lowest[g]), int(n))]
    table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return table[:, 0], table[:, 1]
