r"""Sensitivity: how far the outputs move when one group after another is narrowed, measured.

For group g and k units kept, all other groups dense,

.. math:: c_g(k) = \frac{1}{n} \sum_x \lVert f_{g,k}(x) - f(x) \rVert^2 ,

the mean over outputs and examples, which is what distillation from the dense network punishes (ECC). Slopes at the
dense network (``importance``) cannot say that the last units of a group are worth more than the first ones together;
these curves do. Puzzle (Bercovich et al., ICML 2025) scores its blocks in this way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecc.core.errors import InputError
from ecc.core.problem import Batches, Progress
from ecc.core.widths import WidthGroup
from ecc.solvers.evaluation import device_of, forward, moved
from ecc.solvers.limits import Ranking
from ecc.solvers.randomness import kept_generators, seed_generators
from ecc.solvers.sparsity import Sparsity

__all__ = ["measure_curves"]

_EXAMPLES = 512  # outputs of more tell hardly more
_POINTS = 9  # widths of each group that are tried, evenly spaced in the logarithm
_TIE = 1e-9  # of the largest change, per unit: so that among widths that change nothing the wider one is better


def measure_curves(
    model: nn.Module,
    groups: Sequence[WidthGroup],
    batches: Batches,
    ranking: Ranking,
    lowest: Tensor,
    *,
    points: int = _POINTS,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Loss of keeping the first k units of a ranking, per group, for ``allocate``; the model stays as it is.

    Batch norms take the statistics of the batch, so that a narrowed network is judged as it will be once these are
    estimated anew. Widths between those that are tried are interpolated; a narrower group never counts as better.

    Args:
        groups: Of ``model``.
        batches: Training batches; as many as hold 512 examples are looked at.
        ranking: Units of each group, the most important first.
        lowest: Fewest units of each group that may be kept, shape (n_groups,); fewer are not tried.
        points: Widths of each group that are tried.
        seed: Of the loader's shuffling.
        device: Where to compute; where the model is when None.

    Returns:
        One float64 tensor (units + 1,) per group, on the CPU: falling in k, 0 where all are kept.

    Raises:
        InputError: If there are no batches, or outputs are not finite.
    """
    copied = copy.deepcopy(model).to(device_of(model) if device is None else device)
    sparsity = Sparsity(copied, groups)
    dense = torch.tensor([group.units for group in groups], dtype=torch.float64)
    with torch.no_grad(), kept_generators(device_of(copied)):
        examples = _examples(batches, device_of(copied), seed)
        _to_judging(copied, examples)
        wanted = [forward(copied, inputs).float() for inputs, _ in examples]
        curves = []
        for number, group in enumerate(groups):
            tried = _tried(int(lowest[number]), group.units, points)
            change = [0.0]  # of all units
            for units in reversed(tried[:-1]):
                dense[number] = units
                with _restored(sparsity.changed(number)):
                    sparsity.silence(ranking.masks(dense))
                    change.append(_distance(copied, examples, wanted))
            dense[number] = group.units
            curves.append(_curve(tried, np.maximum.accumulate(change)[::-1], group.units))
            if progress is not None:
                progress("sensitivity", number + 1, len(groups))
    return curves


def _tried(lowest: int, units: int, points: int) -> list[int]:
    """Widths from the lowest to all, rising."""
    spread = np.geomspace(max(lowest, 1), units, points)
    return sorted({max(lowest, 1), units, *np.rint(spread).astype(int).tolist()})


def _curve(tried: Sequence[int], change: np.ndarray[Any, np.dtype[np.float64]], units: int) -> Tensor:
    """The change at every width; below the lowest that was tried nothing is known, and it is never asked for."""
    every = np.arange(units + 1)
    values = np.interp(every, tried, change)
    return torch.from_numpy(values + _TIE * values.max() * (units - every))


def _distance(model: nn.Module, examples: Sequence[tuple[Any, int]], wanted: Sequence[Tensor]) -> float:
    """Mean squared difference of the outputs.

    Raises:
        InputError: If it is not finite.
    """
    total, count = 0.0, 0
    for (inputs, _), outputs in zip(examples, wanted, strict=True):
        total += float((forward(model, inputs).float() - outputs).square().sum())
        count += outputs.numel()
    if not np.isfinite(total):
        raise InputError("outputs of the network are not finite on training batches; check the data and the weights")
    return total / max(count, 1)


def _examples(batches: Batches, device: torch.device, seed: int) -> list[tuple[Any, int]]:
    """Inputs of the first batches, and how many examples they hold.

    Raises:
        InputError: If there are none.
    """
    seed_generators(device, seed)
    found: list[tuple[Any, int]] = []
    for inputs, targets in islice(batches, _EXAMPLES):
        found.append((moved(inputs, device), len(targets)))
        if sum(size for _, size in found) >= _EXAMPLES:
            break
    if not found:
        raise InputError("sensitivity needs training batches, and the loader yields none")
    return found


def _to_judging(model: nn.Module, examples: Sequence[tuple[Any, int]]) -> None:
    """Eval mode, but for batch norms where batches have statistics; ``model`` is a copy whose own nobody reads."""
    model.eval()
    if min(size for _, size in examples) < 2:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.train()
            module.momentum = 0.0


@contextmanager
def _restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of tensors back at the end."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, values in zip(tensors, before, strict=True):
            tensor.copy_(values)
