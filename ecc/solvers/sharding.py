"""Shard: the batches of one of several processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, DistributedSampler

from ecc.core.problem import Batches
from ecc.solvers.distributed import Ranks

__all__ = ["Shardable", "shard"]


@runtime_checkable
class Shardable(Protocol):
    """Batches that can be dealt out without making those of the other processes."""

    def shard(self, rank: int, world: int) -> Batches:
        """Batches ``rank``, ``rank + world``, … of every iteration."""


def shard(batches: Batches, ranks: Ranks) -> Batches:
    """Every so many-th batch of a loader: the part of this process.

    All processes must draw the same order, which they do if it comes from the global generators: the training loop
    seeds them alike. A DataLoader with a DistributedSampler is taken as it is; other loaders without a ``shard`` of
    their own are run through in whole.
    """
    if ranks.world == 1:
        return batches
    if isinstance(batches, Shardable):
        return batches.shard(ranks.rank, ranks.world)
    if isinstance(batches, DataLoader):
        if isinstance(batches.sampler, DistributedSampler):
            return _Epochs(batches, batches.sampler)
        if batches.batch_sampler is not None:
            return _resampled(batches, ranks)
    return _Dealt(batches, ranks)


@dataclass(frozen=True, slots=True)
class _Dealt:
    """Every so many-th item of something that can be iterated."""

    whole: Any
    ranks: Ranks

    def __len__(self) -> int:
        return len(range(self.ranks.rank, len(self.whole), self.ranks.world))

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.whole, self.ranks.rank, None, self.ranks.world)


class _Epochs:
    """A loader whose DistributedSampler is told of each new epoch."""

    def __init__(self, loader: DataLoader[Any], sampler: DistributedSampler[Any]) -> None:
        self.loader, self.sampler = loader, sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.sampler.set_epoch(torch.initial_seed() % 2**31)  # another order in each epoch, the same one when resumed
        return iter(self.loader)


def _resampled(loader: DataLoader[Any], ranks: Ranks) -> DataLoader[Any]:
    """The same loader over this process's part of the batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=_Dealt(loader.batch_sampler, ranks),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
