"""Ctrl-C, and a request to end (SIGTERM), between two steps rather than in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt", "ignore_requests", "requests_to_end"]


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM only makes the yielded function return True; the second interrupts at once.

    Outside the main thread, and where the program has a handler of its own, nothing is changed.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    with _handled(note, signal.SIGINT, signal.SIGTERM):
        yield lambda: pressed
    if pressed:
        raise KeyboardInterrupt  # pressed after the last step


@contextmanager
def requests_to_end() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    with _handled(signal.default_int_handler, signal.SIGTERM):
        yield


def ignore_requests() -> None:
    """From here on neither Ctrl-C nor SIGTERM ends the process, which is about to end anyway.

    torchrun asks all processes to end as soon as one has, and would cut short what this one has to say.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals) -> Iterator[None]:
    """The handler stands for those signals that are handled as by default."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if main and signal.getsignal(number) in usual}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
