"""Ranks: the processes that train one network together, as torchrun starts them.

Every process holds the whole network and goes through its part of the batches. What the processes of one step have to
agree upon goes through the host, so that no device waits for it; gradients go through the device.
"""

from __future__ import annotations

import atexit
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from ecc.core.problem import Batches

__all__ = ["Ranks", "Shardable", "join", "launched", "shard"]

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of this run.

    Attributes:
        rank: Of this process, from 0.
        world: Number of processes.
        host: Where tensors of the control messages must be.
    """

    rank: int = 0
    world: int = 1
    host: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, prints and evaluates."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.world == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64, device=self.host)
        dist.all_reduce(message)
        return cast(list[float], message.tolist())

    def first_says(self, *values: float) -> list[float]:
        """The values of the first process."""
        if self.world == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64, device=self.host)
        dist.broadcast(message, 0)
        return cast(list[float], message.tolist())

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors by those of the first process."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def share_bytes(self, payload: bytes) -> bytes:
        """The bytes that the first process holds."""
        (length,) = self.first_says(len(payload))
        if self.world == 1 or not length:
            return payload if self.world == 1 else b""
        message = torch.empty(int(length), dtype=torch.uint8, device=self.host)
        if self.first:
            message.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        dist.broadcast(message, 0)
        return message.cpu().numpy().tobytes()

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Overwrite the tensors by their weighted mean over all processes.

        Args:
            tensors: Of the same shapes everywhere.
            weight: Of this process; those of all processes sum to 1.
        """
        if self.world == 1 or not tensors:
            return
        wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        flat = torch.cat([tensor.reshape(-1).to(wide) for tensor in tensors])
        flat = flat * weight if weight else torch.zeros_like(flat)  # a process without examples adds no NaN
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def launched() -> bool:
    """Whether torchrun, or something like it, has started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHED) and os.environ["WORLD_SIZE"] != "1"


def join(device: str | None, present: torch.device) -> tuple[Ranks, str | None]:
    """The processes of this run and the device of this one.

    Under torchrun the process group is made at the first call, if the program has not made one; without torchrun a
    process is alone.

    Args:
        device: Where to train; None for where the network is. Of several processes each has a CUDA device of its own,
            unless ``device`` has a number.
        present: Where the network is.
    """
    if not dist.is_available() or not (launched() or dist.is_initialized()):
        return Ranks(), device
    if device == "cuda" or (device is None and present.type == "cuda"):
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', dist.get_rank() if dist.is_initialized() else 0))}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    host = "cpu" if "cpu:" in dist.get_backend_config() else f"cuda:{torch.cuda.current_device()}"
    return Ranks(dist.get_rank(), dist.get_world_size(), host), device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


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
