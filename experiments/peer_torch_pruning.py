"""Torch-Pruning as a method of a job: its importance and its pruner choose, everything else is as for other methods.

Fang et al.: DepGraph: Towards Any Structural Pruning, CVPR 2023; the package torch-pruning, settings of its README with
one ranking over all layers.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.core.widths import WidthGroup
from ecc.solvers.floors import floored_limits
from ecc.solvers.limits import Limits, Ranking, solution

__all__ = ["TorchPruning"]

_HALVINGS = 12  # of the pruning ratio: to within 1 unit of 4096


@dataclass(frozen=True, slots=True)
class TorchPruning:
    """Channels that Torch-Pruning takes away at the smallest pruning ratio that meets all limits.

    Attributes:
        importance: ``magnitude`` (GroupMagnitudeImportance) or ``taylor`` (GroupTaylorImportance).
        batches: That gradients are taken of.
        min_fraction: Least fraction of every layer's channels, its max_pruning_ratio; the floor of the other methods.
    """

    importance: Literal["magnitude", "taylor"] = "taylor"
    batches: int = 8
    min_fraction: float = 0.1
    name: str = field(default="torch-pruning", init=False)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose channels; no training."""
        started = time.monotonic()
        limits = floored_limits(problem, self.min_fraction)
        least = float((limits.lowest / limits.dense).min())
        slopes = _slopes(problem, self.batches) if self.importance == "taylor" else {}
        feasible, ratio, best = 1.0, 0.5, None
        infeasible = 0.0
        for _ in range(_HALVINGS):
            kept = self._kept(problem, slopes, ratio, least)
            if limits.met(_units(kept)):
                feasible, best = ratio, kept
            else:
                infeasible = ratio
            ratio = (feasible + infeasible) / 2
        if best is None:
            raise InputError("Torch-Pruning leaves more than the budget at every pruning ratio")
        return _solution(problem, limits, best, time.monotonic() - started)

    def _kept(self, problem: Problem, slopes: dict[str, Tensor], ratio: float, least: float) -> list[Tensor]:
        """One bool mask (units,) per group."""
        import torch_pruning as tp

        model = copy.deepcopy(problem.model)
        for name, parameter in model.named_parameters():
            parameter.grad = slopes[name].clone() if name in slopes else None
        kinds = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                model,
                _example(problem),
                importance=kinds[self.importance](),
                global_pruning=True,
                pruning_ratio=ratio,
                max_pruning_ratio=1 - least,
                ignored_layers=_ignored(model, problem.groups),
            )
            pruner.step()
        return _left(problem.groups, pruner.DG.pruning_history())


def _example(problem: Problem) -> Any:
    return next(iter(problem.task.train))[0][:1]


def _slopes(problem: Problem, batches: int) -> dict[str, Tensor]:
    """Gradients of the loss by every parameter, summed over batches."""
    model = copy.deepcopy(problem.model).eval()
    torch.manual_seed(problem.seed)
    for inputs, targets in islice(iter(problem.task.train), batches):
        problem.task.loss(model(inputs), targets).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def _ignored(model: nn.Module, groups: Sequence[WidthGroup]) -> list[nn.Module]:
    """Layers whose outputs are of no group: the classifier."""
    written = {slot.tensor for group in groups for slot in group.slots if slot.axis == 0}
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and f"{name}.weight" not in written
    ]


def _left(groups: Sequence[WidthGroup], history: Sequence[Any]) -> list[Tensor]:
    """What one step of the pruner left, from its history of (layer, whether outputs, channels)."""
    kept = [torch.ones(group.units, dtype=torch.bool) for group in groups]
    places = {
        (slot.tensor, slot.axis): (number, slot.indices) for number, group in enumerate(groups) for slot in group.slots
    }
    for layer, outputs, channels in history:
        number, indices = places[f"{layer}.weight", 0 if outputs else 1]
        gone = np.isin(indices.reshape(len(indices), -1), channels).any(1)
        kept[number] &= ~torch.from_numpy(gone)
    return kept


def _units(kept: Sequence[Tensor]) -> Tensor:
    return torch.tensor([float(mask.sum()) for mask in kept], dtype=torch.float64)


def _solution(problem: Problem, limits: Limits, kept: Sequence[Tensor], seconds: float) -> Solution:
    row = {"phase": "torch-pruning", "epoch": 0, **limits.figures(_units(kept)), "seconds": seconds}
    ranking = Ranking([mask.double() for mask in kept])
    return solution(problem, copy.deepcopy(problem.model), limits, ranking, _units(kept), pd.DataFrame([row]))
