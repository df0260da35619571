"""What can go wrong, and the exit code that the command line gives it.

EccError
├── InputError         2    the caller's input is wrong; the message names the input and the mend
│   └── NothingToDo    2    a stage has nothing to change; a chain goes on without it
├── UnavailableError   3    this machine cannot do it
│   ├── StorageError   3    a disk failed, is full, or a file was taken away while it was written
│   └── MeterError     3    a sensor is missing or stopped answering
│       └── MeterReset 3    a counter went back in mid-window; the next window may be sound
└── Interrupted      130    stopped by the user; finished work is saved, ``resume`` says how to go on
"""

from __future__ import annotations

__all__ = [
    "EccError",
    "InputError",
    "Interrupted",
    "MeterError",
    "MeterReset",
    "NothingToDo",
    "StorageError",
    "UnavailableError",
]


class EccError(Exception):
    """Every error that ecc raises on purpose; its text is one sentence for the user."""

    exit_code = 1


class InputError(EccError, ValueError):
    """The caller's input is wrong; the message names it and how to mend it."""

    exit_code = 2


class NothingToDo(InputError):
    """A stage finds nothing that it could change, so that its result is what came in; a chain goes on without it."""


class UnavailableError(EccError, RuntimeError):
    """This machine cannot do what was asked; the message gives the reason."""

    exit_code = 3


class StorageError(UnavailableError):
    """A disk failed, is full, or a file was taken away while it was written; what was written before is kept."""


class MeterError(UnavailableError):
    """A sensor is missing or stopped answering."""


class MeterReset(MeterError):
    """A counter went back in the middle of a window, as when a driver is loaded again; the window can be repeated."""


class Interrupted(EccError):
    """Stopped by the user; what was finished is saved.

    Attributes:
        resume: The command or call that goes on from here; empty when a plain repeat does.
    """

    exit_code = 130

    def __init__(self, message: str, *, resume: str = "") -> None:
        super().__init__(message)
        self.resume = resume
