"""What a command is: a name, its arguments, and a function from them to an outcome."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ecc.cli.progress import ProgressLine

__all__ = ["Command", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command says at its end.

    Attributes:
        value: The JSON object of ``--json``.
        text: The same for people.
        exit_code: 0, or 1 where a promise fell short.
    """

    value: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: As typed.
        example: A command line that works.
        configure: Adds the arguments.
        run: Does the work.
        together: Whether torchrun may start it as several processes that share the work.
        resumes: Whether it keeps what it has finished, so that the same command goes on after an interrupt.
    """

    name: str
    example: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, ProgressLine], Outcome]
    together: bool = False
    resumes: bool = False

    def complete(self, parser: argparse.ArgumentParser) -> None:
        """Give the command's parser its arguments, those that every command has, and its example."""
        parser.epilog = f"example:\n  {self.example}"
        self.configure(parser)
        group = parser.add_argument_group("every command")
        group.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object on stdout")
        group.add_argument("--seed", type=_seed, default=0, metavar="N", help="of every random choice (default 0)")
        group.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _seed(text: str) -> int:
    """A number that every random generator takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)
