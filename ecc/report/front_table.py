"""The points of fronts as a CSV file that spreadsheets and pandas read alike."""

from __future__ import annotations

import csv
import io

from ecc.fronts import Fronts

__all__ = ["front_csv"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets compute a text that starts so


def front_csv(fronts: Fronts) -> bytes:
    """One row per point, as of ``Fronts.frame``, in UTF-8; what is not known is empty.

    Texts that a spreadsheet would take for formulas start with an apostrophe.
    """
    rows = fronts.rows()
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return buffer.getvalue().encode("utf-8", errors="replace")


def _cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value
