"""The command ``ecc``: finds the command, runs it, and turns errors into one sentence and an exit code.

0 done · 1 done, but a promise fell short · 2 wrong input · 3 this machine cannot do it · 130 interrupted
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence

import ecc
from ecc.cli import compression, demo, measuring, results
from ecc.cli.command import Command, Outcome
from ecc.cli.progress import ProgressLine
from ecc.core.errors import EccError, Interrupted

__all__ = ["main"]

COMMANDS: tuple[Command, ...] = (*demo.COMMANDS, *measuring.COMMANDS, *compression.COMMANDS, *results.COMMANDS)

_EXITS = (
    "exit codes: 0 done; 1 done, but a promise fell short; 2 wrong input; 3 this machine cannot do it; 130 interrupted"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    parsed = parser.parse_args(given)
    if parsed.command is None:
        parser.print_help()
        return 2
    command = next(command for command in COMMANDS if command.name == parsed.command)
    progress = ProgressLine(quiet=parsed.quiet)
    _log_to(progress)
    try:
        outcome = command.run(parsed, progress)
        progress.end_line()
        _print(outcome, as_json=parsed.as_json)
        return outcome.exit_code
    except EccError as error:
        progress.end_line()
        print(f"ecc {command.name}: {error}", file=sys.stderr)
        if isinstance(error, Interrupted):
            print(f"resume with: {error.resume or shlex.join(['ecc', *given])}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        progress.end_line()
        print(f"ecc {command.name}: interrupted; what was finished is saved", file=sys.stderr)
        print(f"resume with: {shlex.join(['ecc', *given])}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; that is no error
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecc",
        description="Profile a device once, prune any PyTorch network to an energy or latency budget, and prove on the "
        "device that the budget holds.",
        epilog=_EXITS,
    )
    parser.add_argument("--version", action="version", version=f"ecc {ecc.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _log_to(progress: ProgressLine) -> None:
    """Warnings of the package as lines above the progress."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.say(self.format(record))

    logger = logging.getLogger("ecc")
    logger.handlers = [Lines(logging.WARNING)]


def _print(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.value, indent=1, allow_nan=False))
    elif outcome.text:
        print(outcome.text)
    sys.stdout.flush()
