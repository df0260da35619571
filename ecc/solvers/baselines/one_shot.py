"""What the baselines share: choose widths from one ranking of the trained weights, without training."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import pandas as pd
from torch import Tensor

from ecc.core.problem import Problem, Progress, Solution
from ecc.solvers.evaluation import evaluate
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.sparsity import Sparsity

__all__ = ["one_shot"]


def one_shot(
    problem: Problem,
    name: str,
    rate: Callable[[Sparsity], list[Tensor]],
    choose: Callable[[Ranking, Limits], Tensor],
    progress: Progress | None,
) -> Solution:
    """Rank the units, choose widths and zero the rest in a copy of the network.

    Args:
        rate: Importance of each group's units.
        choose: Units kept per group, within the limits.

    Returns:
        A solution whose history is one row: the score before any fine-tuning, and the costs.

    Raises:
        InputError: If no admissible widths meet a constraint.
    """
    started = time.monotonic()
    limits = Limits(problem)
    model = copy.deepcopy(problem.model)
    ranking = Ranking(rate(Sparsity(model, problem.groups)))
    units = choose(ranking, limits)
    found = solution(problem, model, limits, ranking, units, pd.DataFrame())
    row = {"phase": name, "epoch": 0, "loss": math.nan}
    row |= {"score": evaluate(model, problem.task.validation, problem.task.score)}
    row |= limits.figures(units) | {"seconds": time.monotonic() - started}
    if progress is not None:
        progress(name, 1, 1, f"score {row['score']:.4f} before fine-tuning")
    return Solution(model, found.kept, found.widths, found.predicted, found.status, pd.DataFrame([row]))
