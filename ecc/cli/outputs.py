"""Options that name a file which a command writes at its end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ecc.report.files import demand_target

__all__ = ["OutputFile"]


class OutputFile(argparse.Action):
    """Refuses at once a file that could not be written in the end, before any work is done."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the path as it was typed.

        Raises:
            InputError: If it cannot be written.
        """
        demand_target(str(values))
        setattr(namespace, self.dest, values)
