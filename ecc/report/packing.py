"""Weights before and after secondary stages: what each tensor takes of the file, and as what it is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ecc.api.packing import Packing
from ecc.report.style import COLOURS, INK, TRACK, canvas, plain, quantity, scale

__all__ = ["packing_figure", "stage_rows", "tensor_rows"]

_WIDTH_IN = 9.2
_ROW_IN = 0.34
_MOST_ROWS = 40  # tensors beyond are those that took least


def packing_figure(packing: Packing) -> Figure:
    """Per tensor a bar of its bytes now in front of those that it took without stages, on a logarithmic axis.

    Small ones (biases, norms) are together in one bar, and of many tensors the largest are shown.
    """
    rows = _shown(packing.tensors)
    before, after = (rows[name].to_numpy(dtype=float) for name in ("dense_bytes", "bytes"))
    place = np.arange(len(rows))
    largest = float(max(before.max(), after.max()))
    factor, unit = scale("B", [largest])
    with canvas(_WIDTH_IN, 1.0 + _ROW_IN * len(rows)) as (figure, (ax,)):
        least = 0.5 * float(min(before.min(), after.min())) * factor
        ax.barh(place, before * factor - least, left=least, height=0.74, color=TRACK, label="as floats")
        ax.barh(place, after * factor - least, left=least, height=0.5, color=COLOURS[0], label="stored")
        for y, (nbytes, bits) in enumerate(zip(after, rows["bits"], strict=True)):
            text = f" {quantity(nbytes, 'B')}, {bits:.3g} bits per number"
            ax.text(max(before[y], after[y]) * factor, y, text, va="center", fontsize=8, color=INK)
        ax.set_yticks(place, [plain(str(name), 34, keep="end") for name in rows.index], fontsize=8)
        ax.set_xscale("log")
        ax.set_xlim(least, largest * factor * 12)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel(f"bytes ({unit})")
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.set_ylim(len(rows) - 0.4, -0.6)
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def stage_rows(packing: Packing) -> list[dict[str, Any]]:
    """A row per stage for a table: ``name``, ``options`` (as text), ``bytes``, ``ratio`` to the dense network as
    floats, ``accuracy`` and ``seconds``.
    """
    return [
        {
            "name": stage.name,
            "options": ", ".join(
                f"{name} {value}" for name, value in stage.settings.items() if value not in ("", None)
            ),
            "bytes": stage.bytes,
            "ratio": packing.dense_bytes / stage.bytes if stage.bytes else 0.0,
            "accuracy": stage.accuracy,
            "seconds": stage.seconds,
        }
        for stage in packing.stages
    ]


def tensor_rows(packing: Packing) -> list[dict[str, Any]]:
    """A row per tensor for a table, as of ``tensors_of``, with ``name``."""
    return [{str(key): value for key, value in row.items()} for row in packing.tensors.reset_index().to_dict("records")]


def _shown(tensors: pd.DataFrame) -> pd.DataFrame:
    """The large tensors in order of execution, and one row for all others."""
    chosen = (tensors["form"] != "plain") | (tensors["dense_bytes"] >= 0.02 * tensors["dense_bytes"].sum())
    order = tensors[chosen]["dense_bytes"].to_numpy(dtype=float)
    large = tensors[chosen].iloc[np.sort(np.argsort(-order, kind="stable")[:_MOST_ROWS])]
    others = tensors.drop(index=large.index)
    columns = ["dense_bytes", "bytes", "size"]
    if others.empty:
        return large
    together = pd.DataFrame([others[columns].sum()], index=[f"{len(others)} others, small ones"])
    together["bits"] = 8 * together["bytes"] / together["size"].clip(lower=1)
    return pd.concat([large[[*columns, "bits"]], together])
