"""Rows of a profile as files: every column with its unit, what they belong to beside them, values to the last bit."""

import io
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_store import GRAPH, VISITS, WHERE, visit

from ecc.core.errors import UnavailableError
from ecc.profiler.conditions import Conditions
from ecc.profiler.exports import frame_of, to_csv, to_parquet, units_of
from ecc.profiler.tables import tabulate

WARM = Conditions(clock_hz=1.7e9, temperature_c=61.5, throttled=("thermal",), idle_w=40.0)
WHERE_ODD = replace(WHERE, network='net "é", #1', environment={"torch": "2.9", "note": "a,b\n#c"})
ROWS = [
    *(replace(each, conditions=WARM, run=1 + (each.block > 0)) for each in VISITS),
    visit(5, 0, metric="energy", flags=("delta",)),
]
TABLE = tabulate(WHERE_ODD, GRAPH.space, GRAPH.layers, ROWS)


def demand_equal(frame):
    expected = frame_of(TABLE)
    assert list(frame) == list(expected)
    for name in frame:
        mine, theirs = frame[name], expected[name]
        if pd.api.types.is_numeric_dtype(theirs):
            np.testing.assert_array_equal([float(cell) for cell in mine], theirs.to_numpy(dtype=float), err_msg=name)
        else:
            assert mine.fillna("").astype(str).tolist() == theirs.fillna("").astype(str).tolist(), name


def test_csv_is_read_back_to_the_last_bit_with_what_it_belongs_to():
    frame = pd.read_csv(io.BytesIO(to_csv(TABLE)), dtype=str)
    demand_equal(frame)
    assert [int(width) for width in frame["width:a"]] == TABLE.widths[:, 0].tolist()
    last = frame.iloc[-1]
    assert (last["network"], last["input_shape"], last["device"]) == (WHERE_ODD.network, "1x3", WHERE_ODD.device)
    assert {name: last[f"environment:{name}"] for name in WHERE_ODD.environment} == WHERE_ODD.environment
    dense = tuple(float(last[f"dense_latency{end}_s"]) for end in ("", "_low", "_high"))
    assert dense == TABLE.reference["latency"]


def test_parquet_is_read_back_to_the_last_bit_with_the_units():
    pytest.importorskip("pyarrow")
    frame = pd.read_parquet(io.BytesIO(to_parquet(TABLE)))
    demand_equal(frame)
    assert frame.attrs["units"] == units_of(frame_of(TABLE))


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UnavailableError, match=r"needs pyarrow, which is not installed; pip install 'ecc-compress\[par"
    ):
        to_parquet(TABLE)


def test_every_column_has_its_unit_and_is_a_plain_value():
    units = units_of(frame_of(TABLE))
    assert list(units) == list(frame_of(TABLE))
    expected = {
        "width:a": "channels",
        "latency_ratio": "1",
        "latency_ratio_low": "1",
        "latency_s": "s",
        "energy_j": "J",
        "dense_energy_high_j": "J",
        "threads": "count",
        "environment:torch": "text",
        "energy_n": "count",
        "cpu_s": "s",
        "steal_s": "s",
        "switches": "count",
        "clock_hz": "Hz",
        "temperature_c": "°C",
        "idle_w": "W",
        "flags": "words",
        "throttled": "words",
        "runs": "numbers of runs",
    }
    assert {name: units[name] for name in expected} == expected
    assert not any(isinstance(cell, list | tuple) for column in frame_of(TABLE).values.T for cell in column)


def test_a_row_names_the_runs_that_it_was_measured_in():
    assert frame_of(TABLE)["runs"].tolist() == ["1 2", "1 2", "1 2", "1"]
