"""Rows of measurements in a CSV file, each with where and when it was made; what is there is not measured again."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch

__all__ = ["MEASUREMENTS", "Records", "environment"]

HERE = Path(__file__).resolve().parent
MEASUREMENTS = HERE / "measurements"
Row = dict[Any, Any]


class Records:
    """A CSV file whose rows are told apart by some columns; a row is on disk once it is measured.

    Args:
        path: Of the file.
        keys: The columns that tell rows apart.
        fresh: Whether to begin anew.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], *, fresh: bool = False) -> None:
        self.path, self.keys = path, keys
        path.parent.mkdir(parents=True, exist_ok=True)
        there = pd.DataFrame() if fresh or not path.exists() else pd.read_csv(path, dtype={"commit": str})
        self.rows: list[Row] = [dict(row) for row in there.to_dict("records")]
        self._known = {tuple(str(row[name]) for name in keys) for row in self.rows}

    def add(self, key: Mapping[str, Any], measure: Callable[[], Row]) -> None:
        """Measure what the key names, unless it is there."""
        if self.holds(key):
            return
        self.rows.append({**key, **measure(), **environment()})
        self._known.add(self._named(key))
        pd.DataFrame(self.rows).to_csv(self.path, index=False)

    def holds(self, key: Mapping[str, Any]) -> bool:
        """Whether what the key names is there."""
        return self._named(key) in self._known

    def _named(self, key: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(key[name]) for name in self.keys)


def environment() -> Row:
    """Where, when and from which sources a row is made."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": found.stdout.strip(),
        "date": date.today().isoformat(),
    }
