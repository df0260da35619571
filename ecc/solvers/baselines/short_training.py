"""Short training: a few batches at a time with dropped units held at zero, and a judge on batches set aside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Batches, Task
from ecc.core.widths import Kept
from ecc.solvers.evaluation import device_of, eval_mode, forward, moved
from ecc.solvers.randomness import kept_generators, seed_generators
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import Step

__all__ = ["Few", "Hold", "Judge", "count_batches"]


@dataclass(frozen=True, slots=True, eq=False)
class Few:
    """The first ``count`` batches of a loader, which starts anew as often as that takes."""

    batches: Batches
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        left = self.count
        while left:
            before = left
            for batch in islice(self.batches, left):
                left -= 1
                yield batch
            if left == before:
                return  # the training loop says that there are no batches


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """A hook of ``train`` that zeroes dropped units after every step."""

    sparsity: Sparsity
    kept: Kept

    @property
    def key(self) -> str:
        """What is kept."""
        return str({name: units.tolist() for name, units in self.kept.items()})

    def after_step(self, step: Step) -> bool:
        """Zero; never ends training."""
        self.sparsity.zero(self.kept)
        return False

    def figures(self) -> Mapping[str, float]:
        """None."""
        return {}

    def state(self) -> dict[str, Any]:
        """None: the widths do not change."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Judge:
    """Rates networks on a few training batches, the same ones each time.

    They come from the loader like those that are trained on, so some examples may be among both; all networks gain
    alike by that.

    Args:
        task: Its training batches, loss and score.
        count: Batches that are set aside, in memory.
        seed: Of the loader's shuffling.
        device: Whose generator is seeded too.

    Raises:
        InputError: If there are no batches.
    """

    def __init__(self, task: Task, count: int, seed: int, device: torch.device) -> None:
        with kept_generators(device):
            seed_generators(device, seed)
            self.batches: tuple[tuple[Any, Tensor], ...] = tuple(islice(task.train, count))
        if not self.batches:
            raise InputError("the training data yields no batch; check the data and the batch size")
        self._task = task

    def __call__(self, model: nn.Module) -> tuple[float, float]:
        """Score and minus the loss, in eval mode: of two equal scores the smaller loss is better."""
        device = device_of(model)
        outputs, targets, loss, examples = [], [], 0.0, 0
        with eval_mode(model), torch.no_grad():
            for inputs, wanted in self.batches:
                found, wanted = forward(model, moved(inputs, device)), wanted.to(device)
                loss += float(self._task.loss(found, wanted)) * len(wanted)
                examples += len(wanted)
                outputs.append(found.float().cpu())
                targets.append(wanted.cpu())
        return float(self._task.score(torch.cat(outputs), torch.cat(targets))), -loss / examples


def count_batches(batches: Batches) -> int:
    """Batches per epoch; a loader without a length is run through once."""
    return len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
