"""A profile's rows as CSV or Parquet, with what they belong to and the unit of every column."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ecc.core.errors import UnavailableError
from ecc.core.table import ProfileTable

__all__ = ["frame_of", "heading", "to_csv", "to_parquet"]

_UNITS: Mapping[str, str] = {"s": "s", "j": "J", "hz": "Hz", "w": "W", "c": "°C", "bytes": "B"}
_PLAIN: Mapping[str, str] = {"flags": "words", "purpose": "word", "throttled": "words", "runs": "numbers of runs"}


def frame_of(table: ProfileTable) -> pd.DataFrame:
    """One row per configuration: ``width:GROUP`` for each group, then the table's columns, each a plain value.

    Lists per block are left out but for ``runs``, which names the runs that a row was measured in.
    """
    blocks = [str(name) for name in table.rows if str(name).endswith(("block_ratios", "block_runs"))]
    frame = table.rows.drop(columns=blocks)
    for name in frame:
        if frame[name].map(lambda value: isinstance(value, list | tuple)).any():
            frame[name] = frame[name].map(lambda value: " ".join(map(str, value)) if value is not None else value)
    for column, name in enumerate(table.space.names):
        frame.insert(column, f"width:{name}", table.widths[:, column])
    runs = table.rows[[name for name in blocks if name.endswith("block_runs")]]
    frame["runs"] = [
        " ".join(map(str, sorted({run for cell in cells for run in cell if run is not None})))
        for cells in runs.itertuples(index=False)
    ]
    return frame


def heading(table: ProfileTable) -> dict[str, Any]:
    """What the rows belong to: provenance, the reference's long-run value and interval, the columns' units."""
    return {
        "kind": "profile rows",
        "provenance": table.provenance.to_json(),
        "reference": {metric: list(value) for metric, value in table.reference.items()},
        "units": {name: _unit(str(name)) for name in frame_of(table)},
    }


def to_csv(table: ProfileTable) -> bytes:
    """CSV under one comment line, ``# `` and the heading as JSON; read it with ``pandas.read_csv(…, comment="#")``."""
    text = f"# {json.dumps(heading(table))}\n{frame_of(table).to_csv(index=False, lineterminator=chr(10))}"
    return text.encode()


def to_parquet(table: ProfileTable) -> bytes:
    """Parquet; the heading is ``attrs["ecc"]`` of what ``pandas.read_parquet`` returns.

    Raises:
        UnavailableError: If pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            "writing Parquet needs pyarrow, which is not installed; pip install 'ecc-compress[parquet]'"
        ) from error
    frame = frame_of(table)
    frame.attrs["ecc"] = heading(table)
    content = io.BytesIO()
    frame.to_parquet(content, engine="pyarrow", index=False)
    return content.getvalue()


def _unit(column: str) -> str:
    """Of a column, by its name: channels, a ratio (1), a count, or the unit that its last word says."""
    if column.startswith("width:"):
        return "channels"
    if column in _PLAIN:
        return _PLAIN[column]
    if "ratio" in column:
        return "1"
    return _UNITS.get(column.rpartition("_")[2], "count")
