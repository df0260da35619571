"""Ranks: the processes that train one network together, as torchrun starts them.

Every process holds the whole network and goes through its part of the batches. What the processes of one step have to
agree upon goes through the host, so that no device waits for it; gradients go through the device. What the first
process does alone, such as measuring, is told to the others through the store of the process group, on which they can
wait for any time without keeping a core busy.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ecc.core.errors import EccError, InputError, Interrupted, StorageError, UnavailableError
from ecc.solvers.checkpoints import pack, unpack
from ecc.solvers.launching import launched, launched_first

__all__ = ["Ranks", "answered", "first_to_end", "has_spoken", "join", "present_ranks"]

_T = TypeVar("_T")
_ENDED = "ecc/ended"  # key of the store: the first process that ended with an error
_SPOKEN = "ecc/spoken"  # key of the store: it has said why
_LONGEST_POLL_S = 0.1
_LONGEST_SPEECH_S = 5.0
_GONE = re.compile(r"connection|closed by peer|broken pipe|socket|timed? ?out|recv|heartbeat", re.IGNORECASE)
_ERRORS: Mapping[str, type[EccError]] = MappingProxyType(
    {kind.__name__: kind for kind in (InputError, Interrupted, StorageError, UnavailableError)}
)


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
        with answered():
            dist.all_reduce(message)
        return cast(list[float], message.tolist())

    def first_says(self, *values: float) -> list[float]:
        """The values of the first process."""
        if self.world == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64, device=self.host)
        with answered():
            dist.broadcast(message, 0)
        return cast(list[float], message.tolist())

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors by those of the first process."""
        if self.world == 1:
            return
        with answered():
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
        with answered():
            dist.broadcast(message, 0)
        return message.cpu().numpy().tobytes()

    def agree(self, text: str) -> bool:
        """Whether all processes hold the same text; the same answer in all of them."""
        given = text.encode()
        return self.total([float(self.share_bytes(given) != given)]) == [0]

    def told(self, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What ``work`` returns in the first process, which alone does it, however long that takes.

        Args:
            work: Returns what a checkpoint can hold.

        Raises:
            EccError: As ``work`` raises in the first process, in all of them.
            UnavailableError: If a process has ended, or ``work`` raises something else.
        """
        if self.world == 1:
            return dict(work())
        payload = self.once("told", lambda: pack(work()))
        return unpack(self.share_bytes(payload or b""))

    def once(self, name: str, work: Callable[[], _T]) -> _T | None:
        """Do ``work`` in the first process alone; the others wait until it is done, and get None.

        The first process waits for nobody, so that it may be the only one that comes here.

        Args:
            name: Of what is done; the n-th call of one process goes with the n-th call of that name in the others.

        Raises:
            EccError: As of ``told``.
        """
        if self.world == 1:
            return work()
        with answered():
            store = _store()
            key = f"ecc/{name}/{store.add(f'ecc/{name} by {self.rank}', 1)}"
        if not self.first:
            with answered():
                kind, text = json.loads(_when_there(store, key))
            if kind:
                raise _ERRORS.get(kind, UnavailableError)(text)
            return None
        try:
            found = work()
        except BaseException as error:
            store.set(key, json.dumps(_refusal(error)))
            raise
        with answered():
            store.set(key, json.dumps(["", ""]))
        return found

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
        with answered():
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _refusal(error: BaseException) -> list[str]:
    """Kind and text of an error, for the other processes."""
    if isinstance(error, EccError):
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS]
        return [kinds[0] if kinds else UnavailableError.__name__, str(error)]
    if isinstance(error, KeyboardInterrupt):
        return [Interrupted.__name__, "the first process was interrupted; what was finished is saved"]
    return [UnavailableError.__name__, f"the first process failed ({type(error).__name__}: {error})"]


def _store() -> Any:
    """The store of the process group; there is no public way to it."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _when_there(store: Any, key: str) -> bytes:
    """The value of a key, as soon as there is one."""
    pause = 1e-3
    while not store.check([key]):
        if store.check([_ENDED]):
            raise _left()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL_S)
    return cast(bytes, store.get(key))


@contextmanager
def answered() -> Iterator[None]:
    """Within, a process that does not answer any more is told of in a sentence."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, EccError) or not (isinstance(error, dist.DistError) or _GONE.search(str(error))):
            raise
        raise _left() from error


def _left() -> UnavailableError:
    return UnavailableError(
        "another process of this job has ended or is out of reach, so this one ends too; the same call goes on from "
        "the last saved state, where one was kept"
    )


def first_to_end(code: int) -> tuple[bool, int]:
    """To be called by a process that ends with an error.

    Others wait here until the first one ``has_spoken``, because torchrun ends all processes as soon as one has ended.

    Args:
        code: The exit code for that error.

    Returns:
        Whether it is the first process of its job that does, so that it should say why, and the exit code of the first.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return launched_first(), code
    own = f"{dist.get_rank()} {code}"
    try:
        found = _store().compare_set(_ENDED, "", own).decode()
    except RuntimeError:
        return True, code  # whoever held the store has gone without a word
    if found != own:
        _listen()
    return found == own, int(found.split()[1])


def has_spoken() -> None:
    """To be called by the first process that ends, once it has said why."""
    if dist.is_available() and dist.is_initialized():
        with suppress(RuntimeError):
            _store().set(_SPOKEN, "")


def _listen() -> None:
    """Wait until the first process that ended has said why, or is out of reach."""
    until = time.monotonic() + _LONGEST_SPEECH_S
    with suppress(RuntimeError):
        while time.monotonic() < until and not _store().check([_SPOKEN]):
            time.sleep(_LONGEST_POLL_S)


def present_ranks() -> Ranks:
    """The processes of this run as far as they have met; a process is alone until then."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    host = "cpu" if "cpu:" in dist.get_backend_config() else f"cuda:{torch.cuda.current_device()}"
    return Ranks(dist.get_rank(), dist.get_world_size(), host)


def join(device: str | None, present: torch.device) -> tuple[Ranks, str | None]:
    """The processes of this run and the device of this one.

    Under torchrun the process group is made at the first call, if the program has not made one; without torchrun a
    process is alone.

    Args:
        device: Where to train; None for where the network is. Of several processes each has a CUDA device of its own,
            unless ``device`` has a number.
        present: Where the network is.

    Raises:
        InputError: If this process has no CUDA device of its own.
        UnavailableError: If the other processes cannot be reached.
    """
    if not dist.is_available() or not (launched() or dist.is_initialized()):
        return Ranks(), device
    if device == "cuda" or (device is None and present.type == "cuda"):
        device = _own_cuda(int(os.environ.get("LOCAL_RANK", dist.get_rank() if dist.is_initialized() else 0)))
    if not dist.is_initialized():
        with answered():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return present_ranks(), device


def _own_cuda(number: int) -> str:
    """The CUDA device of that number, which becomes this process's own."""
    count = torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"process {number} has no CUDA device of its own, there being {count} here; start no more processes than "
            "that, or train on the CPU"
        )
    device = f"cuda:{number}"
    torch.cuda.set_device(device)
    return device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
