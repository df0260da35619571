"""Layers before and after their weights were pruned: what is left of each, and what its energy is spent on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ecc.api.sparsity import Sparsity
from ecc.report.style import COLOURS, INK, MUTED, TRACK, canvas, plain
from ecc.report.systolic import PARTS, amount, energy_axis

__all__ = ["layer_rows", "layers_figure"]

_WIDTH_IN = 9.2
_ROW_IN = 0.4
_MOST_ROWS = 40  # layers beyond are those that take least
_FAINT = 0.35
_WEIGHTS, _INPUTS = COLOURS[6], COLOURS[4]  # not those of the parts of the energy


def layers_figure(sparsity: Sparsity) -> Figure:
    """Per layer the share of its weights that is left and, where it is known, its energy before (faint) and after.

    Of many layers the largest are shown.
    """
    layers = _largest(sparsity)
    columns = 2 if sparsity.unit else 1
    with canvas(_WIDTH_IN, 1.2 + _ROW_IN * len(layers), 1, columns) as (figure, axes):
        place = np.arange(len(layers))
        _kept_bars(axes[0], place, layers, sparsity)
        if sparsity.unit:
            _energy_bars(axes[1], place, layers, sparsity.unit)
            axes[1].set_yticks(place, [""] * len(layers))
            figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=len(PARTS))
        for ax in axes:
            ax.tick_params(axis="y", length=0)
            ax.set_ylim(len(layers) - 0.4, -0.6)
            ax.grid(visible=False, axis="y")
    return figure


def layer_rows(sparsity: Sparsity) -> list[dict[str, Any]]:
    """A row per layer for a table: ``name``, ``size``, ``nonzeros``, ``inputs`` (share kept or None), ``before``,
    ``after`` (energies as text, or None).
    """
    rows = []
    kept = _inputs_kept(sparsity)
    for name, layer in sparsity.layers.iterrows():
        energies = [amount(float(layer[part]), sparsity.unit) if sparsity.unit else None for part in _TOTALS]
        rows.append(
            {
                "name": str(name),
                "size": int(layer["dense_size"]),
                "nonzeros": int(layer["nonzeros"]),
                "inputs": kept.get(str(name)),
                "before": energies[0],
                "after": energies[1],
            }
        )
    return rows


_TOTALS = ("dense_total", "total")


def _largest(sparsity: Sparsity) -> pd.DataFrame:
    """The layers that are shown, in order of execution."""
    layers = sparsity.layers
    by = layers["dense_total" if sparsity.unit else "dense_size"].to_numpy(dtype=float)
    chosen = np.sort(np.argsort(-by, kind="stable")[:_MOST_ROWS])
    return layers.iloc[chosen]


def _inputs_kept(sparsity: Sparsity) -> Mapping[str, float]:
    return {name: float((mask != 0).double().mean()) for name, mask in sparsity.masks.items()}


def _kept_bars(ax: Axes, place: Any, layers: pd.DataFrame, sparsity: Sparsity) -> None:
    """Weights left, and inputs left where these are masked, as shares."""
    weights = (layers["nonzeros"] / layers["dense_size"].clip(lower=1)).to_numpy(dtype=float)
    inputs = _inputs_kept(sparsity)
    height = 0.36 if inputs else 0.74
    ax.barh(place - (0.19 if inputs else 0), 1.0, height=height, color=TRACK)
    ax.barh(place - (0.19 if inputs else 0), weights, height=height, color=_WEIGHTS)
    if inputs:
        shares = np.array([inputs.get(str(name), 1.0) for name in layers.index])
        ax.barh(place + 0.19, 1.0, height=height, color=TRACK)
        ax.barh(place + 0.19, shares, height=height, color=_INPUTS)
    for y, (name, share) in enumerate(zip(layers.index, weights, strict=True)):
        ax.text(1.02, y - (0.19 if inputs else 0), f"{100 * share:.1f} %", va="center", fontsize=8, color=INK)
        if str(name) in inputs:
            text = f"{100 * inputs[str(name)]:.1f} % of the inputs"
            ax.text(1.02, y + 0.19, text, va="center", fontsize=7, color=MUTED)
    ax.set_yticks(place, [plain(str(name), 30, keep="end") for name in layers.index], fontsize=8)
    ax.set_xlim(0, 1.45 if inputs else 1.22)
    ax.set_xticks([0, 0.5, 1.0])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("weights kept, of dense")


def _energy_bars(ax: Axes, place: Any, layers: pd.DataFrame, unit: str) -> None:
    """Two stacked bars per layer: before, faint, above after."""
    largest = float(layers["dense_total"].max())
    factor, axis = energy_axis(largest, unit)
    for prefix, shift, alpha in (("dense_", -0.19, _FAINT), ("", 0.19, 1.0)):
        left = np.zeros(len(layers))
        for colour, (part, label) in zip(COLOURS, PARTS.items(), strict=False):
            values = layers[f"{prefix}{part}"].to_numpy(dtype=float) * factor
            ax.barh(
                place + shift,
                values,
                left=left,
                height=0.36,
                color=colour,
                alpha=alpha,
                edgecolor="white",
                linewidth=0.5,
                label=f"_{label}" if prefix else label,  # those that begin so are in no legend
            )
            left = left + values
    for y, (before, after) in enumerate(zip(layers["dense_total"], layers["total"], strict=True)):
        change = f" {100 * (float(after) / float(before) - 1):+.0f} %" if before else ""
        ax.text(factor * float(after), y + 0.19, change, va="center", fontsize=8, color=INK)
    ax.set_xlim(0, 1.05 * factor * largest or 1.0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel(f"{axis}, dense (faint) and now")
