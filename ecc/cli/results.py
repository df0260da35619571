"""inspect: what finished work says."""

from __future__ import annotations

import argparse
import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecc.api.packing import inspect as inspect_artefact
from ecc.api.packing import inspect_packed, is_packed
from ecc.api.sparsity import layers_in
from ecc.artefact import read as read_artefact
from ecc.cli.command import Command, Outcome
from ecc.cli.costs import cost_text, inspect_cost
from ecc.cli.packing import tensors_text
from ecc.cli.progress import ProgressLine
from ecc.cli.stores import add_exports, exports_given, inspect_store, store_text
from ecc.cli.sweep_table import sweep_text
from ecc.cli.tables import table
from ecc.core.errors import InputError
from ecc.sweeps.ledger import PLAN, Ledger

__all__ = ["COMMANDS"]

_HEAD_BYTES = 1 << 12
_LONGEST = 100  # characters of a value in the summary of inspect


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="profile store, cost model, artefact folder, folder of a sweep or weights.ecz"
    )
    add_exports(parser)


def _inspect(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    path = Path(arguments.file)
    if not path.exists():
        raise InputError(
            f"there is no {str(path)!r}; give a profile store, a cost model, an artefact folder or weights.ecz"
        )
    store = _is_database(path)
    if not store and (given := exports_given(arguments)):
        raise InputError(f"--{given[0]} is of a profile store, and {str(path)!r} is none")
    if store:
        value = inspect_store(path, arguments)
        return Outcome(value, store_text(path, value))
    if (path / PLAN).is_file():
        value = Ledger(path.resolve()).told()
        return Outcome(value, sweep_text(value))
    if path.is_dir():
        value = inspect_artefact(path)
        layers = layers_in(read_artefact(path))
        if layers is not None:
            value["layers"] = layers.reset_index().to_dict("records")
        packed = [tensors_text(value)] if value.get("stages") else []
        return Outcome(value, "\n\n".join([_summary(value), *packed]))
    if is_packed(path):
        value = inspect_packed(path)
        return Outcome(value, tensors_text(value))
    _refuse_foreign(path)
    value = inspect_cost(path)
    return Outcome(value, cost_text(value))


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is not even the beginning of what this program writes, without guessing what it should be."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}; choose another file") from error
    if not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"[")):
        problem = "it is no database and not readable JSON" if head else "it is empty"
        raise InputError(
            f"{str(path)!r} is no profile store, cost model or artefact: {problem}; give what `ecc profile`, "
            "`ecc fit`, `ecc compress`, `ecc stage` or `ecc sweep` wrote"
        )


def _summary(value: Mapping[str, Any]) -> str:
    """One line per member: short values as they are, long ones by their size; ``--json`` has all of them."""
    lines = []
    for name, member in value.items():
        text = member if isinstance(member, str) else json.dumps(member, ensure_ascii=False)
        if len(text) > _LONGEST and isinstance(member, Mapping):
            text = f"{len(member)} entries: {', '.join(map(str, member))}"
        elif len(text) > _LONGEST and isinstance(member, list):
            text = f"{len(member)} entries"
        lines.append([name, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"])
    return table(["member", "value"], lines)


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(6) == b"SQLite"


COMMANDS = (
    Command(
        "inspect",
        "ecc inspect resnet20.db --csv rows.csv --html resnet20.html",
        _inspect_arguments,
        _inspect,
    ),
)
