"""Samples: the rows of a profile that a cost model is fitted to, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecc.core.calls import OperatorCall
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.layers import Layer
from ecc.core.operators import COLUMNS
from ecc.core.table import RANDOM, ProfileTable, Provenance
from ecc.core.widths import WidthSpace

__all__ = ["FEWEST", "Samples"]

FEWEST = 10
"""Rows below which nothing is fitted: too few to hold any out."""

_ONE_ORIGIN = tuple(each.name for each in fields(Provenance))
_Z95 = 1.959963984540054
_LEAST, _MOST = 1e-6, 1e3  # of a ratio to dense: one channel per layer of a huge network; kernels that suit no width


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Widths and the paired ratios measured at them.

    Attributes:
        metric: ``latency`` or ``energy``.
        provenance: What was measured.
        space: The order of the width columns.
        layers: The network's layers.
        reference: The dense network's value in SI units: (value, low, high), 95 % interval.
        widths: Channels, shape (n_rows, n_groups).
        ratio: Metric relative to the dense network, shape (n_rows,), positive.
        noise: Standard deviation of the logarithm of each ratio, shape (n_rows,).
        random: Whether each row was drawn at random, so that it stands for all widths, shape (n_rows,).
        numbers: Of the rows in the profile, shape (n_rows,).
        calls: The operators that the network runs; empty where they were not recorded.
    """

    metric: str
    provenance: Provenance
    space: WidthSpace
    layers: tuple[Layer, ...]
    reference: tuple[float, float, float]
    widths: NDArray[np.float64]
    ratio: NDArray[np.float64]
    noise: NDArray[np.float64]
    random: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    calls: tuple[OperatorCall, ...] = ()

    @classmethod
    def of(cls, table: ProfileTable, metric: str) -> Samples:
        """The rows of a table that have one metric.

        Raises:
            InputError: If the metric was not measured, rows are too few, not finite or of several origins, if a width
                or the metric never varies, or if the table holds operators.
        """
        if set(COLUMNS) <= set(table.space.names):
            raise InputError(
                "the profile holds operators, not widths of a network, which is what a cost model is fitted to; "
                "profile a network with `ecc profile MODEL`, and give this one as the operator profile (--operators)"
            )
        if metric not in table.metrics or f"{metric}_ratio" not in table.rows:
            measured = ", ".join(table.metrics) or "nothing"
            raise InputError(
                f"{metric} of {table.provenance.network} was not measured on {table.provenance.device} "
                f"(the profile holds {measured}); profile it where {metric} has a meter"
            )
        widths = np.asarray(table.widths, dtype=np.float64)
        _refuse_misshapen(table, widths)
        numbers = _measured(table.rows, metric)
        if len(numbers) < FEWEST:
            raise InputError(
                f"the profile holds {len(numbers)} rows of {metric}, a fit needs at least {FEWEST}; "
                "profile more samples"
            )
        rows, widths = table.rows.iloc[numbers], widths[numbers]
        _refuse_mixed(rows)
        ratio = _column(rows, f"{metric}_ratio")
        _refuse_broken(metric, ratio, numbers)
        _refuse_outside(table.space, widths, numbers)
        _refuse_constant(table.space, metric, widths, ratio)
        return cls(
            metric=metric,
            provenance=table.provenance,
            space=table.space,
            layers=table.layers,
            reference=_checked_reference(metric, table.reference[metric]),
            widths=widths,
            ratio=ratio,
            noise=np.fmax(_noise(rows, metric), _repeated(widths, ratio)),
            random=_random(rows),
            numbers=numbers,
            calls=table.calls,
        )

    def __len__(self) -> int:
        return len(self.ratio)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Those rows only."""
        return replace(
            self,
            widths=self.widths[rows],
            ratio=self.ratio[rows],
            noise=self.noise[rows],
            random=self.random[rows],
            numbers=self.numbers[rows],
        )


def _measured(rows: pd.DataFrame, metric: str) -> NDArray[np.int64]:
    """Numbers of the rows at which the metric was read; all of them where the table does not say."""
    pairs = _column(rows, f"{metric}_n")
    return np.flatnonzero(~(pairs == 0)).astype(np.int64)


def _refuse_mixed(rows: pd.DataFrame) -> None:
    """Refuse what the rows themselves say is of several origins, as exported profiles that were put together do."""
    for column in map(str, rows):
        if column not in _ONE_ORIGIN and not column.startswith("environment"):
            continue
        found = rows[column].map(str).unique()
        if len(found) > 1:
            values = ", ".join(f"{value:.80}" for value in found[:3])
            raise InputError(f"the profile mixes rows of several origins ({column}: {values}); fit each one alone")


def _refuse_misshapen(table: ProfileTable, widths: NDArray[np.float64]) -> None:
    if widths.shape != (len(table), len(table.space)):
        raise InputError(
            f"the profile has widths of shape {widths.shape} for {len(table)} rows and {len(table.space)} groups; "
            "profile this network again"
        )


def _refuse_broken(metric: str, ratio: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(~(np.isfinite(ratio) & (ratio > 0)))
    if len(bad):
        raise InputError(
            f"{len(bad)} of {len(ratio)} profile rows have no positive {metric} ratio (first: row {numbers[bad[0]]}); "
            "drop them or measure them again"
        )
    impossible = np.flatnonzero((ratio > _MOST) | (ratio < _LEAST))
    if len(impossible):
        raise InputError(
            f"profile row {numbers[impossible[0]]} has a {metric} of {ratio[impossible[0]]:.3g} of dense, "
            "which no network has; drop it or measure it again"
        )


def _refuse_outside(space: WidthSpace, widths: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
    outside = ~((widths >= 1) & (widths <= np.array(space.dense))).all(axis=1)
    if outside.any():
        raise InputError(
            f"profile row {numbers[int(np.argmax(outside))]} has widths outside the network; profile it again"
        )


def _refuse_constant(space: WidthSpace, metric: str, widths: NDArray[np.float64], ratio: NDArray[np.float64]) -> None:
    if not len(space):
        raise InputError("the network has no prunable group, so its cost is constant; there is nothing to fit")
    for column, name in enumerate(space.names):
        if space.dense[column] > space.step[column] and np.ptp(widths[:, column]) == 0:
            raise InputError(
                f"group {name!r} was only measured at width {widths[0, column]:.0f}; profile with widths that vary"
            )
    if np.ptp(ratio) == 0:
        raise InputError(f"all profile rows have the same {metric}; a meter that does not move cannot be fitted")


def _checked_reference(metric: str, reference: tuple[float, float, float]) -> tuple[float, float, float]:
    if len(reference) != 3:
        raise InputError(f"the profile's dense {metric} must be (value, low, high), got {len(reference)} numbers")
    value, low, high = (float(number) for number in reference)
    if not (np.isfinite([value, low, high]).all() and 0 < low <= value <= high):
        raise InputError(
            f"the profile's dense {metric} is {value:g} {METRICS[metric]} with interval [{low:g}, {high:g}]; "
            "measure the dense network again"
        )
    return value, low, high


def _column(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where a row or the table has none."""
    values = pd.to_numeric(rows[name], errors="coerce") if name in rows else np.full(len(rows), np.nan)
    return np.array(values, dtype=np.float64)


def _random(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows that may be held out: those of corners, sweeps or a fit's own choice say little of other widths."""
    return np.array(rows["purpose"] == RANDOM if "purpose" in rows else [True] * len(rows), dtype=np.bool_)


def _noise(rows: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """Noise of each row's log ratio: from its interval, or from repeated blocks where those show more; NaN if unknown.

    The interval of a row says how well its median is known within its blocks. Rows measured in several blocks also show
    how much blocks differ; that pooled spread applies to every row, by the number of its blocks.
    """
    low, high = _column(rows, f"{metric}_ratio_low"), _column(rows, f"{metric}_ratio_high")
    with np.errstate(invalid="ignore", divide="ignore"):
        within = np.log(high / low) / (2 * _Z95)
    within = np.where(np.isfinite(within) & (within >= 0) & (low > 0), within, np.nan)
    column = f"{metric}_block_ratios" if f"{metric}_block_ratios" in rows else "block_ratios"
    cells = list(rows[column]) if column in rows else [None] * len(rows)
    logs = [_logarithms(cell) for cell in cells]
    freedom = sum(len(block) - 1 for block in logs if len(block) > 1)
    if not freedom:
        return within
    pooled = np.sqrt(sum(float(((block - block.mean()) ** 2).sum()) for block in logs if len(block) > 1) / freedom)
    between = pooled / np.sqrt([max(len(block), 1) for block in logs])
    return np.asarray(np.fmax(within, between), dtype=np.float64)


def _repeated(widths: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread of the logarithm between rows of the same widths, pooled: what each row is noisy by; NaN without any."""
    _, same = np.unique(widths, axis=0, return_inverse=True)
    spread = pd.Series(np.log(ratio)).groupby(same.reshape(-1))
    freedom = len(ratio) - spread.ngroups
    pooled = np.sqrt(((spread.transform("mean") - np.log(ratio)) ** 2).sum() / freedom) if freedom else np.nan
    return np.full(len(ratio), pooled)


def _logarithms(cell: object) -> NDArray[np.float64]:
    """The logarithms of a row's block ratios; empty where the row has none."""
    cells = list(cell) if isinstance(cell, list | tuple | np.ndarray) else []
    try:
        values = np.asarray(cells, dtype=np.float64)
    except (TypeError, ValueError):  # a table of a user's own may hold anything
        values = np.array([], dtype=np.float64)
    return np.asarray(np.log(values[np.isfinite(values) & (values > 0)]), dtype=np.float64)
