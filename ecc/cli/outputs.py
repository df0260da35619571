"""Options that name a file which a command writes at its end, and where its state is kept until then."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecc.core.errors import InputError
from ecc.report.files import FileKind, demand_target

__all__ = ["add_output", "work_folder"]


class _OutputFile(argparse.Action):
    """Refuses at once a file that could not be written in the end, or that would be lost, before any work is done."""

    def __init__(self, *args: Any, kind: FileKind, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kind = kind

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the path as it was typed.

        Raises:
            InputError: If it cannot be written, holds something else, or is what another option writes.
        """
        path = demand_target(str(values), self._kind).resolve()
        others: dict[str, tuple[str, Path]] = getattr(namespace, "outputs", {})
        for dest, (option, other) in others.items():
            if dest != self.dest and other == path:
                raise InputError(f"{option} and {option_string} write the same file {values}; give each its own")
        namespace.outputs = others | {self.dest: (str(option_string), path)}
        setattr(namespace, self.dest, values)


def add_output(
    parser: argparse.ArgumentParser, *names: str, kind: FileKind, metavar: str, help: str, required: bool = False
) -> None:
    """Add an option that names a file of that kind to write; it is checked as soon as it is read.

    Args:
        names: As typed, such as ``--html``.
        kind: What will be written; only its like is replaced.
    """
    parser.add_argument(*names, action=_OutputFile, kind=kind, metavar=metavar, help=help, required=required)


def work_folder(target: Path) -> Path:
    """Where the state of a job is kept, beside the artefact that it will write; refused at once where it cannot be.

    Raises:
        InputError: If the place is not writable.
    """
    work = target.with_name(f".{target.name}.work")
    try:
        if not work.exists():
            work.mkdir(parents=True)
            work.rmdir()  # a job that is refused leaves nothing behind
    except OSError as error:
        raise InputError(f"--out {str(target)!r} cannot be written: {error.strerror}; choose another folder") from error
    return work
