"""The gate of a device: while one job measures on it, no other job trains on it.

Two files per device, locked with the operating system's advisory locks, which end with the process that holds them
however that ends. Whoever trains holds ``training`` together with all others who do, and looks now and then whether
somebody has taken ``turn``; whoever measures takes ``turn``, which makes the others let go of ``training`` between two
of their steps, and then has ``training`` alone. The gate is of all processes of this user on this machine, whichever
sweep they belong to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ecc.profiler.locking import open_lock

try:
    import fcntl
except ImportError:  # elsewhere measurements are alone among measurements only
    fcntl = None  # type: ignore[assignment]

__all__ = ["Gate"]


class Gate:
    """The place of one process at the gates of the devices that it trains on.

    Args:
        folder: Of the locks, the same for all processes on this machine; None where there is none, so that nobody
            waits for anybody.
        devices: Fingerprints of the devices that this process keeps busy while it trains.
    """

    def __init__(self, folder: Path | None, devices: Sequence[str]) -> None:
        self._folder = folder
        self._works = folder is not None and fcntl is not None
        self._training = {device: self._open(device, "training") for device in devices if self._works}
        self._turns = {device: self._open(device, "turn") for device in self._training}
        self._inside = False
        self._measuring = False
        self.waited_s = 0.0
        """Time that this process waited here so far."""

    def _open(self, device: str, what: str) -> int:
        return open_lock((self._folder or Path()) / f"{device}.{what}")

    def enter(self) -> None:
        """Begin to train: waits while somebody measures."""
        self._inside = True
        for device, file in self._training.items():
            self._wait_for(device, file)

    def leave(self) -> None:
        """Train no more."""
        self._inside = False
        for file in self._training.values():
            fcntl.flock(file, fcntl.LOCK_UN)

    def pause(self) -> None:
        """Between two steps of training: step aside while somebody measures; costs microseconds where nobody does."""
        if not self._inside or self._measuring:
            return
        for device, turn in self._turns.items():
            try:
                fcntl.flock(turn, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                training = self._training[device]
                fcntl.flock(training, fcntl.LOCK_UN)
                self._wait_for(device, training)
            else:
                fcntl.flock(turn, fcntl.LOCK_UN)

    def _wait_for(self, device: str, training: int) -> None:
        """Have a share of the training once nobody measures."""
        turn, began = self._turns[device], time.monotonic()
        fcntl.flock(turn, fcntl.LOCK_SH)
        try:
            fcntl.flock(training, fcntl.LOCK_SH)
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)
            self.waited_s += time.monotonic() - began

    @contextmanager
    def alone(self, device: str) -> Iterator[None]:
        """Measure on a device while nobody trains there; this process does not train meanwhile.

        Args:
            device: Its fingerprint; one that this process does not train on may be another one.
        """
        if not self._works or self._measuring:
            yield
            return
        inside, self._measuring = self._inside, True
        self.leave()
        turn, training = self._open(device, "turn"), self._open(device, "training")
        began = time.monotonic()
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(training, fcntl.LOCK_EX)
            self.waited_s += time.monotonic() - began
            yield
        finally:
            for file in (training, turn):
                with suppress(OSError):
                    os.close(file)  # which unlocks
            self._measuring = False
            if inside:
                self.enter()

    def close(self) -> None:
        """Let go of everything."""
        for file in (*self._training.values(), *self._turns.values()):
            os.close(file)
        self._training, self._turns = {}, {}
