"""Several processes that train together, for tests: forked, with the environment that torchrun gives."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def together(work: Callable[[int], Any], folder: Path, world: int = 2, survivors: int | None = None) -> list[Any]:
    """What ``work(rank)`` returns in each of several processes, launched as torchrun does.

    Args:
        folder: Where what they return is kept in the meantime.
        survivors: How many of them, the first ones, come to their end; all when None.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")

    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.save(work(rank), folder / f"result{rank}")
        if dist.is_initialized():
            dist.destroy_process_group()

    processes = [context.Process(target=run, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    ended = range(world if survivors is None else survivors)
    assert [processes[rank].exitcode for rank in ended] == [0 for _ in ended]
    return [torch.load(folder / f"result{rank}") for rank in ended]
