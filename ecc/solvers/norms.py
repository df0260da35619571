"""Batch norms over the batches of several processes together, so that many small batches train as one large one does.

Mean and variance of a step are those of all examples, put together from those of each process (Chan, Golub and LeVeque,
1979), and gradients flow through them into all processes, as in PyTorch's SyncBatchNorm, which runs on GPUs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecc.solvers.distributed import Ranks, answered

__all__ = ["SyncedNorms"]

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # exactly these: others have forwards of their own


class SyncedNorms:
    """The batch norms of a network that several processes train.

    Args:
        model: Stays as it is between steps.
        ranks: The processes; all of them make this call.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and type(each) in _KINDS]
        self._ranks = ranks
        self._groups: dict[tuple[int, ...], Any] = {}

    @contextmanager
    def step(self, counts: Sequence[int]) -> Iterator[float]:
        """Within, batch norms see the examples of all processes; all of them come here, those without examples too.

        Args:
            counts: Examples of each process.

        Yields:
            What to multiply the mean loss of this process with, so that the gradients of all processes add up to that
            of the mean over all examples.
        """
        holders = tuple(rank for rank, count in enumerate(counts) if count)
        group = self._group(holders) if len(holders) > 1 and self._norms else None
        alone = group is None or self._ranks.rank not in holders
        for norm in [] if alone else self._norms:
            norm.forward = partial(_forward, norm, group)  # type: ignore[method-assign]
        try:
            yield counts[self._ranks.rank] / max(sum(counts), 1)
        finally:
            for norm in [] if alone else self._norms:
                del norm.forward

    def _group(self, holders: tuple[int, ...]) -> Any:
        """Those processes; a group of its own, so that one that fails leaves the control messages of others alone."""
        if holders not in self._groups:
            with answered():
                self._groups[holders] = dist.new_group(list(holders))
        return self._groups[holders]


def _forward(norm: _BatchNorm, group: Any, inputs: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, inputs)
    norm._check_input_dim(inputs)  # type: ignore[no-untyped-call]
    outputs: Tensor = _Normalise.apply(inputs, norm.weight, norm.bias, norm, group)  # type: ignore[no-untyped-call]
    return outputs


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) · weight + bias, with the statistics of all processes of a group."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, norm: _BatchNorm, group: Any
    ) -> Tensor:
        """Outputs; running statistics move as those of one process with all examples."""
        wide = inputs if inputs.dtype == torch.float64 else inputs.float()
        count, mean, variance = _statistics(wide, group)
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {inputs.size()}")
        _move(norm, count, mean, variance)
        mean, scale = (_along(each, wide) for each in (mean, (variance + norm.eps).rsqrt()))
        ctx.save_for_backward(inputs, weight, mean, scale)
        ctx.group, ctx.count = group, count
        outputs = (wide - mean) * scale
        outputs = outputs if weight is None else outputs * _along(weight, wide)
        return (outputs if bias is None else outputs + _along(bias, wide)).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients; those of the inputs count what they do to the losses of other processes."""
        inputs, weight, mean, scale = ctx.saved_tensors
        wide = inputs if inputs.dtype == torch.float64 else inputs.float()
        gradient = gradients[0].to(wide.dtype)
        normal = (wide - mean) * scale
        axes = _others(wide)
        own = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])
        sums = own.to(torch.float64, copy=True)
        with answered():
            dist.all_reduce(sums, group=ctx.group)
        level, slope = (_along(each / ctx.count, wide) for each in sums)
        factor = scale if weight is None else scale * _along(weight, wide)
        back = factor * (gradient - level - normal * slope)
        learnt = (None, None) if weight is None else (own[1].to(weight.dtype), own[0].to(weight.dtype))
        return back.to(inputs.dtype), *learnt, None, None


def _statistics(wide: Tensor, group: Any) -> tuple[float, Tensor, Tensor]:
    """Values per channel, their mean and their biased variance over all processes, float64."""
    variance, mean = torch.var_mean(wide, _others(wide), correction=0)
    own = torch.cat([mean.new_tensor([wide.numel() / len(mean)]), mean, variance]).double()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    with answered():
        dist.all_gather(parts, own, group=group)
    table = torch.stack(parts)
    counts, means, variances = table[:, :1], *table[:, 1:].chunk(2, dim=1)
    count = float(counts.sum())
    middle = (counts * means).sum(0) / count
    return count, middle, (counts * (variances + (means - middle).square())).sum(0) / count


@torch.no_grad()
def _move(norm: _BatchNorm, count: float, mean: Tensor, variance: Tensor) -> None:
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    for kept, found in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        kept.lerp_(found.to(kept.dtype), 0.0 if share is None else share)


def _others(tensor: Tensor) -> list[int]:
    return [axis for axis in range(tensor.ndim) if axis != 1]


def _along(values: Tensor, tensor: Tensor) -> Tensor:
    """Per channel, to go with the tensor, in its type."""
    return values.to(tensor.dtype).view(1, -1, *[1] * (tensor.ndim - 2))
