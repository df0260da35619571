"""What every reader returns: loaders with the loss and the score of their task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.core.problem import Batches, Task

__all__ = ["Data", "TensorBatches", "accuracy", "first_examples", "mean_squared_error", "rank_correlation"]

Transform = Callable[[Tensor], Tensor]


class TensorBatches:
    """Batches of tensors in memory; can be iterated again and again.

    Shuffles with torch's global generator, which the training loop seeds per epoch, so that a resumed run sees the same
    order.

    When it shuffles, a last batch of one example joins the batch before it: batch norm cannot train on a single one.

    Args:
        inputs: Examples along the first axis, in any dtype; ``transform`` makes a batch of them fit the network.
        targets: Shape (examples,).
        shuffle: Draw a new order in every iteration.
        transform: Applied to each batch of inputs; draws, if it does, from torch's global generator.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        shuffle: bool = False,
        transform: Transform | None = None,
    ) -> None:
        if len(inputs) != len(targets) or not len(inputs):
            raise InputError(
                f"TensorBatches needs as many inputs as targets, at least one, got {len(inputs)} and {len(targets)}"
            )
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {batch_size}")
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.shuffle, self.transform = batch_size, shuffle, transform
        self._part = slice(None)

    def shard(self, rank: int, world: int) -> TensorBatches:
        """Batches ``rank``, ``rank + world``, … of every iteration: the part of one of several processes."""
        part = copy.copy(self)
        part._part = slice(rank, None, world)
        return part

    def __len__(self) -> int:
        """Number of batches."""
        return len(range(self._whole)[self._part])

    @property
    def _whole(self) -> int:
        batches, rest = divmod(len(self.inputs), self.batch_size)
        single = rest == 1 and batches > 0 and self.shuffle
        return batches + (rest > 0 and not single)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs)) if self.shuffle else torch.arange(len(self.inputs))
        batches = list(torch.split(order, self.batch_size))
        if len(batches) > self._whole:
            batches[-2:] = [torch.cat(batches[-2:])]
        for index in batches[self._part]:
            inputs = self.inputs[index]
            yield inputs if self.transform is None else self.transform(inputs), self.targets[index]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Loaders of a data set and what its task is.

    The three parts share no example. ``validation`` is for choosing, ``test`` for the figure that is reported.

    Attributes:
        name: For people and file names.
        kind: ``classification`` (targets int64 of shape (batch,)) or ``regression`` (targets float32).
        classes: Number of classes; 1 for regression.
        input_shape: One example, no batch axis.
        train: Training batches.
        validation: Validation batches.
        test: Test batches.
        loss: (outputs, targets) → scalar.
        score: (all outputs, all targets) → figure of merit in [0, 1].
        vocabulary: Token ids are below this; 0 for other inputs.
    """

    name: str
    kind: Literal["classification", "regression"]
    classes: int
    input_shape: tuple[int, ...]
    train: Batches
    validation: Batches
    test: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]
    vocabulary: int = 0

    def task(self) -> Task:
        """What a solver gets: training and validation batches, loss and score."""
        return Task(self.train, self.validation, self.loss, self.score)

    def example(self, batch: int) -> Tensor | tuple[Tensor, ...]:
        """Real inputs of shape (batch, …): the first validation examples, from the start again when there are fewer.

        Raises:
            InputError: If ``batch`` is not positive, or there is no validation example.
        """
        return first_examples(self.validation, batch)


def first_examples(batches: Batches, batch: int) -> Tensor | tuple[Tensor, ...]:
    """The first ``batch`` inputs of a loader, from the start again when it has fewer: shape (batch, …).

    Raises:
        InputError: If ``batch`` is not positive or the loader is empty.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    taken: list[tuple[Tensor, ...]] = []
    several, count = False, 0
    for inputs, targets in batches:
        several = not isinstance(inputs, Tensor)
        taken.append(tuple(inputs) if several else (inputs,))
        count += len(targets)
        if count >= batch:
            break
    if not count:
        raise InputError("the validation data yields no example; give a loader that yields some and can be repeated")
    index = torch.arange(batch) % count
    columns = tuple(torch.cat(column)[index] for column in zip(*taken, strict=True))
    return columns if several else columns[0]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose largest logit is the target's; outputs (n, classes), targets (n,)."""
    return float((outputs.argmax(1) == targets).double().mean())


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of outputs (n,) or (n, 1) against targets of as many elements."""
    return F.mse_loss(outputs.reshape(targets.shape), targets)


def rank_correlation(outputs: Tensor, targets: Tensor) -> float:
    """Spearman's correlation, 0 where it is negative or undefined (constant outputs)."""
    x, y = (part.detach().double().flatten().cpu().numpy() for part in (outputs, targets))
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return max(0.0, float(spearmanr(x, y).statistic))
