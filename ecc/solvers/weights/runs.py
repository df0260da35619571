"""What methods that prune weights share: a copy of the network is trained, with a hook that prunes it on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

from torch import nn

from ecc.core.problem import Checkpoint, Progress
from ecc.core.weights import WeightProblem, WeightSolution
from ecc.network.input_masks import masked_inputs
from ecc.solvers.distributed import Ranks, join
from ecc.solvers.evaluation import device_of
from ecc.solvers.hooks import Hook
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.solvers.weights.limits import WeightLimits, weight_solution

__all__ = ["WeightHook", "prune_in_training"]


class WeightHook(Hook, Protocol):
    """What a method does between the steps, and at the very end."""

    def finish(self) -> None:
        """Meet the limits with the weights as they are: a moving average, or after a loader that was shorter."""


def prune_in_training(
    problem: WeightProblem,
    training: TrainConfig,
    name: str,
    min_fraction: float,
    hook_of: Callable[[WeightLimits, nn.Module, Ranks], WeightHook],
    progress: Progress | None,
    checkpoint: Checkpoint | None,
) -> WeightSolution:
    """The solution of a method; the problem's network stays as it is and teaches the copy, whose inputs are masked.

    Args:
        name: Of the method.
        min_fraction: Least fraction of each tensor that is kept, as of ``WeightLimits``.
        hook_of: (constraints, network in training, processes) → what prunes it.

    Raises:
        InputError: If a budget cannot be met, before any training.
        EccError: If training diverges.
        Interrupted: If the user pressed Ctrl-C; the state is saved.
    """
    ranks, device = join(training.device, device_of(problem.model))
    model = copy.deepcopy(problem.model)
    ranks.share(list(model.state_dict().values()))
    model.to(device)
    limits = WeightLimits(problem, model, min_fraction)
    hook = hook_of(limits, model, ranks)
    masks = {name: mask.to(device_of(model)) for name, mask in problem.masks.items()}
    with masked_inputs(model, masks) if masks else nullcontext():
        history = train(
            model,
            problem.task,
            replace(training, seed=problem.seed),
            teacher=problem.taught_by,
            hook=hook,
            stage=name,
            progress=progress,
            checkpoint=checkpoint,
        )
    hook.finish()
    return weight_solution(problem, model, limits, history)
