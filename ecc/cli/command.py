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
        summary: One line.
        example: A command line that works.
        configure: Adds the arguments.
        run: Does the work.
    """

    name: str
    summary: str
    example: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, ProgressLine], Outcome]

    def add_to(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Register with the parser of ``ecc``."""
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=self.summary,
            epilog=f"example: {self.example}",
        )
        self.configure(parser)
        group = parser.add_argument_group("every command")
        group.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object on stdout")
        group.add_argument("--seed", type=int, default=0, metavar="N", help="of every random choice (default 0)")
        group.add_argument("--quiet", action="store_true", help="no progress on stderr")
