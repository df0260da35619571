"""doctor: whether ecc can be used here, what is missing, and how to mend it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ecc.api.checkup import FOUND, OK, PROBLEM, Check, Checkup, examine
from ecc.cli.command import Command, Outcome
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import Tone, table, toned
from ecc.core.errors import UnavailableError

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets; default: $ECC_DATA")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    progress.begin("looking at this machine")
    found = examine(arguments.data_dir)
    return Outcome(found.to_json(), _text(found), exit_code=0 if found.usable else UnavailableError.exit_code)


def _text(found: Checkup) -> str:
    rows = [[toned(check.state, _tone(check)), check.part, check.name, _said(check)] for check in _gathered(found)]
    problems = [check for check in found.checks if check.state == PROBLEM]
    verdict = (
        f"ecc cannot be used here yet: {'; '.join(f'{check.name}: {check.mend or check.found}' for check in problems)}"
        if problems
        else f"ecc can be used here; {_counted(found)}; next: ecc demo"
    )
    return "\n".join([table(["", "part", "what", "found, and how to mend it"], rows), "", verdict])


def _gathered(found: Checkup) -> list[Check]:
    """The checks, with all data sets that are there as one."""
    there = [check for check in found.checks if check.part == "data" and check.found == FOUND]
    if not there:
        return list(found.checks)
    together = replace(there[0], name="found", found=", ".join(check.name for check in there))
    return [together if check is there[0] else check for check in found.checks if check not in there[1:]]


def _counted(found: Checkup) -> str:
    notes = len(found.checks) - found.count(OK)
    return "nothing is missing" if not notes else f"{notes} note{'s' if notes > 1 else ''}, which not everyone needs"


def _tone(check: Check) -> Tone:
    return "good" if check.state == OK else "bad" if check.state == PROBLEM else "warning"


def _said(check: Check) -> str:
    return f"{check.found}; {check.mend}" if check.mend else check.found


COMMANDS = (Command("doctor", "ecc doctor --data-dir data", _arguments, _run),)
