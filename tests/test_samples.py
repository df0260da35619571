"""Rows are checked once before anything is fitted to them: where they are from, what they claim, how noisy they are."""

from dataclasses import replace

import numpy as np
import pytest
from oracles import simulated_profile

from ecc.core.errors import InputError
from ecc.energy_models.judging import judge
from ecc.energy_models.samples import Samples

TABLE = simulated_profile(40)
ROWS = len(TABLE)


def with_columns(**columns):
    return replace(TABLE, rows=TABLE.rows.assign(**columns))


def two(first, second):
    return [first] * (ROWS - 1) + [second]


@pytest.mark.parametrize(
    "columns",
    [
        {"device": two("a", "b")},
        {"network": two("a", "b")},
        {"input_shape": two("1x3x8x8", "8x3x8x8")},
        {"input_shape": two((1, 3, 8, 8), (8, 3, 8, 8))},
        {"environment:torch": two("2.6", "2.11")},
        {"environment": two({"torch": "2.6"}, {"torch": "2.11"})},
        {"threads": two(1, 2)},
        {"device": two("a", None)},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_rows_that_say_they_are_of_several_origins_are_refused(columns):
    name = next(iter(columns))
    with pytest.raises(InputError, match=f"mixes rows of several origins \\({name}: "):
        Samples.of(with_columns(**columns), "latency")


def test_rows_of_one_origin_may_say_so():
    same = {
        "device": ["a"] * ROWS,
        "input_shape": [(1, 3)] * ROWS,
        "environment:torch": ["2"] * ROWS,
        "run": range(ROWS),
    }
    assert len(Samples.of(with_columns(**same), "latency")) == ROWS


@pytest.mark.parametrize("ratio", [2e3, 1e300, 1e-7])
def test_ratios_that_no_network_has_are_refused(ratio):
    odd = TABLE.rows["latency_ratio"].to_numpy(copy=True)
    odd[3] = ratio
    with pytest.raises(InputError, match=r"profile row 3 has a latency of .* of dense, which no network has"):
        Samples.of(with_columns(latency_ratio=odd), "latency")


@pytest.mark.parametrize(
    ("low", "high"),
    [(np.nan, np.nan), (0.5, np.nan), (0.6, 0.4), (0.0, 1.0), (-0.5, -0.4), (0.5, np.inf), ("few", "many")],
)
def test_an_interval_that_is_none_leaves_the_noise_of_its_row_unknown(low, high):
    columns = {name: TABLE.rows[f"latency_ratio_{name}"].to_list() for name in ("low", "high")}
    columns["low"][3], columns["high"][3] = low, high
    table = with_columns(latency_ratio_low=columns["low"], latency_ratio_high=columns["high"])
    noise = Samples.of(table, "latency").noise
    assert np.isnan(noise[3])
    assert np.delete(noise, 3) == pytest.approx(0.02, rel=1e-3)
    assert judge(table, "latency", form="bilinear").noise_floor == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=1e-3)


@pytest.mark.parametrize("cell", [["a"], [None], [[1.0], [1.0, 2.0]], "1 2", [np.nan, 1.0], []], ids=str)
def test_block_ratios_that_are_none_say_nothing(cell):
    noise = Samples.of(with_columns(block_ratios=[cell] * ROWS), "latency").noise
    assert noise == pytest.approx(0.02, rel=1e-3)
