"""The command ``ecc``: finds the command, runs it, and turns errors into one sentence and an exit code.

0 done · 1 done, but a promise fell short · 2 wrong input · 3 this machine cannot do it · 130 interrupted

With ``--json`` there is one object on stdout in each of these cases: of a command that did not end its work, ``error``.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Any, NoReturn

import ecc
from ecc.cli.command import Command, Outcome
from ecc.cli.help import HelpFormatter
from ecc.cli.progress import ProgressLine
from ecc.core.errors import EccError, InputError, Interrupted
from ecc.solvers.interrupts import ignore_requests, requests_to_end
from ecc.solvers.launching import launched, launched_first

__all__ = ["COMMANDS", "main", "whole_parser"]

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("ecc.cli.demo", "The whole story on embedded data, in a few minutes."),
        "doctor": ("ecc.cli.checkup", "Whether ecc can be used here, what is missing, and how to mend it."),
        "devices": ("ecc.cli.measuring", "What can be measured here, and for what cannot, why."),
        "graph": ("ecc.cli.graph", "The width graph: which channels are coupled, as a table and as a map."),
        "profile": ("ecc.cli.measuring", "Measure random widths of a network on a device."),
        "fit": ("ecc.cli.fitting", "Fit a cost model to a profile and judge it on rows it has not seen."),
        "systolic": (
            "ecc.cli.systolic",
            "What a network takes on a systolic array, layer by layer; nothing is measured.",
        ),
        "compress": ("ecc.cli.compression", "Prune a trained network to its budgets and verify them on the device."),
        "verify": ("ecc.cli.compression", "Load an artefact, measure it, and say whether each budget holds."),
        "stage": ("ecc.cli.stage", "Secondary stages: the weights of an artefact, or of any network, in fewer bytes."),
        "sweep": ("ecc.cli.sweep", "Methods × budgets × seeds of one job file, on all cores, and the front of them."),
        "export": ("ecc.cli.export", "The network of an artefact as ONNX, pt2 or a state dict, run and compared."),
        "front": ("ecc.cli.fronts", "Compare finished compressions: page, figure, hypervolume, pairs of methods."),
        "inspect": ("ecc.cli.results", "What is in a profile store, a cost model, an artefact or a sweep."),
        "completion": ("ecc.cli.completion", "Let Tab complete commands, options and names: a script for your shell."),
    }
)
"""Name → module and summary. A module is imported when its command is given, so that ``ecc --help`` loads no torch."""

_EXITS = (
    "begin with:\n"
    "  ecc doctor               whether everything is here\n"
    "  ecc demo                 the whole story in a few minutes\n"
    "  ecc COMMAND --help       what a command takes, with an example\n\n"
    "exit codes: 0 done; 1 done, but a promise fell short; 2 wrong input; 3 this machine cannot do it; 130 interrupted"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A request to end (SIGTERM) is taken as Ctrl-C is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no → or ≤ shows something else for them
    with requests_to_end():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = next((text for text in given if text in COMMANDS), "")
    ending = _Ending(name, as_json="--json" in given)
    progress = ProgressLine(quiet="--quiet" in given or not launched_first())
    _log_to(progress)
    command: Command | None = None
    try:
        command = _command(name)
        parsed = _parser(command).parse_args(given)
        if command is None:
            raise InputError(f"give a command: {', '.join(COMMANDS)}; ecc --help tells what each does")
        if launched() and not command.together:
            raise InputError("this command is for one process; start it without torchrun")
        ending = _Ending(name, as_json=parsed.as_json)
        outcome = command.run(parsed, progress)
        progress.end_line()
        if launched_first():
            _print(outcome, as_json=parsed.as_json)
        return outcome.exit_code
    except (EccError, KeyboardInterrupt) as error:
        progress.end_line()
        return _end(error, command, ending, given)
    except BrokenPipeError:
        _go_on_without_reader()
        return 0


def _go_on_without_reader() -> None:
    """Print to nowhere once whoever read it has gone, which is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(error: EccError | KeyboardInterrupt, command: Command | None, ending: _Ending, given: Sequence[str]) -> int:
    """Say why the command ends before its work is done; returns the exit code.

    Of an interrupted command, what is saved and how to go on; only that it ended, where it saves nothing or did not
    begin.
    """
    if isinstance(error, EccError) and not isinstance(error, Interrupted):
        return ending.say(error.exit_code, str(error))
    if command is None or not command.resumes:
        return ending.say(Interrupted.exit_code, "interrupted")
    again = "the same torchrun command" if launched() else shlex.join(["ecc", *given])
    if isinstance(error, Interrupted):
        return ending.say(Interrupted.exit_code, str(error), error.resume or again)
    return ending.say(Interrupted.exit_code, "interrupted; what was finished is saved", again)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a command says that it ends before its work is done.

    Attributes:
        name: Of the command; empty where none was given.
        as_json: Whether there is an object on stdout, too.
    """

    name: str
    as_json: bool

    def say(self, code: int, message: str, resume: str = "") -> int:
        """Say it, unless another process of this job has; returns the job's exit code."""
        speaks = True
        if launched():
            from ecc.solvers.distributed import first_to_end, has_spoken

            ignore_requests()
            speaks, code = first_to_end(code)
        if speaks:
            print(f"{f'ecc {self.name}'.rstrip()}: {message}", file=sys.stderr)
            if resume:
                print(f"resume with: {resume}", file=sys.stderr)
            if self.as_json:
                error = {"command": self.name, "code": code, "message": message, "resume": resume or None}
                try:
                    _print_json({"error": error})
                except BrokenPipeError:
                    _go_on_without_reader()
            if launched():
                sys.stderr.flush()
                has_spoken()
        return code


class _Parser(argparse.ArgumentParser):
    """Refuses with one sentence, as everything here does; the usage is in ``--help``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help shows what is taken")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of argparse; a command refuses what it has no option for before one that is missing: it may be that."""
        if self._subparsers is None and args is not None:
            self._demand_known(args)
        return super().parse_known_args(args, namespace)

    def _demand_known(self, given: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        for text in given:
            if text == "--":
                return
            name = text.partition("=")[0]
            if name.startswith("--") and not any(each.startswith(name) for each in known):
                close = get_close_matches(name, known, n=1)
                mend = f"did you mean {close[0]}?" if close else f"{self.prog} --help shows what is taken"
                raise InputError(f"there is no option {name}; {mend}")


def _command(name: str) -> Command | None:
    if not name:
        return None
    found: tuple[Command, ...] = import_module(COMMANDS[name][0]).COMMANDS
    return next(command for command in found if command.name == name)


def whole_parser() -> argparse.ArgumentParser:
    """The parser of ``ecc`` with the arguments of every command, whose modules are all imported for it."""
    return _parser(*map(_command, COMMANDS))


def _parser(*given: Command | None) -> argparse.ArgumentParser:
    """The parser of ``ecc``; of the commands, only those given have their arguments."""
    parser = _Parser(
        prog="ecc",
        description="Profile a device once, prune any PyTorch network to an energy or latency budget, and prove on the "
        "device that the budget holds.",
        epilog=_EXITS,
    )
    parser.add_argument("--version", action="version", version=f"ecc {ecc.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (_, summary) in COMMANDS.items():
        own = commands.add_parser(name, help=summary, description=summary)
        for command in given:
            if command is not None and command.name == name:
                command.complete(own)
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
        _print_json(outcome.value)
    elif outcome.text:
        print(outcome.text, flush=True)


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=1, allow_nan=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
