"""Telling: what one process of a job has found, for the others that run the same job."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecc.core.problem import Solution, Status
from ecc.solvers.distributed import Ranks

__all__ = ["found_by_first"]


def found_by_first(ranks: Ranks, dense: nn.Module, find: Callable[[], Solution]) -> Solution:
    """The solution that ``find`` gives in the first process, in all of them.

    Args:
        dense: The network that the solution's is a copy of.
        find: Runs in the first process alone, so it may go by a clock.

    Raises:
        EccError: As ``find`` raises in the first process, in all of them.
    """
    if ranks.world == 1:
        return find()
    own: list[Solution] = []

    def work() -> dict[str, Any]:
        own.append(find())
        return _told(own[0])

    told = ranks.told(work)
    return own[0] if own else _rebuilt(told, dense)


def _told(solution: Solution) -> dict[str, Any]:
    return {
        "model": dict(solution.model.state_dict()),
        "kept": {name: torch.from_numpy(np.asarray(units)) for name, units in solution.kept.items()},
        "widths": dict(solution.widths),
        "predicted": dict(solution.predicted),
        "status": solution.status.name,
        "removed": list(solution.removed),
        "history": {str(name): column.tolist() for name, column in solution.history.items()},
    }


def _rebuilt(told: Mapping[str, Any], dense: nn.Module) -> Solution:
    model = copy.deepcopy(dense)
    model.load_state_dict(told["model"])
    kept = {name: units.numpy() for name, units in told["kept"].items()}
    history = pd.DataFrame(told["history"])
    return Solution(
        model, kept, told["widths"], told["predicted"], Status[told["status"]], history, tuple(told["removed"])
    )
