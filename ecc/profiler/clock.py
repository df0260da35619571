"""Clock: time as meters and gauges see it, so that tests can put simulated time in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "HostClock"]


class Clock(Protocol):
    """Time that passes."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""

    def repeat(self, action: Callable[[], None], period_s: float) -> Callable[[], None]:
        """Call ``action`` every ``period_s`` from then on, beside the caller's work.

        Args:
            action: Must not raise.
        Returns:
            What ends it; when that returns, no call is under way.
        """


class HostClock:
    """The monotonic clock of the host; what is repeated runs in a thread of its own."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def repeat(self, action: Callable[[], None], period_s: float) -> Callable[[], None]:
        """Start a thread; the returned call ends and joins it."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(period_s):
                action()

        thread = threading.Thread(target=run, name="ecc-clock", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        return stop
