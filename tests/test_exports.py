"""Rows of a profile as files: every column with its unit, what they belong to above them, values to the last bit."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_store import GRAPH, VISITS, WHERE, visit

from ecc.core.errors import UnavailableError
from ecc.profiler.conditions import Conditions
from ecc.profiler.exports import frame_of, heading, to_csv, to_parquet
from ecc.profiler.tables import tabulate

WARM = Conditions(clock_hz=1.7e9, temperature_c=61.5, throttled=("thermal",), idle_w=40.0)
WHERE_ODD = replace(WHERE, network='net "é", #1', environment={"torch": "2.9", "note": "a,b\n#c"})
ROWS = [
    *(replace(each, conditions=WARM, run=1 + (each.block > 0)) for each in VISITS),
    visit(5, 0, metric="energy", flags=("delta",)),
]
TABLE = tabulate(WHERE_ODD, GRAPH.space, GRAPH.layers, ROWS)


def read_csv(content):
    (first, rest) = content.decode().split("\n", 1)
    assert first.startswith("# ")
    return json.loads(first[2:]), pd.read_csv(io.StringIO(rest), dtype=str)


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
    head, frame = read_csv(to_csv(TABLE))
    demand_equal(frame)
    assert head == json.loads(json.dumps(heading(TABLE)))
    assert head["provenance"] == WHERE_ODD.to_json()
    assert [int(width) for width in frame["width:a"]] == TABLE.widths[:, 0].tolist()
    assert pd.read_csv(io.BytesIO(to_csv(TABLE)), comment="#").shape == frame.shape


def test_parquet_is_read_back_to_the_last_bit_with_what_it_belongs_to():
    pytest.importorskip("pyarrow")
    frame = pd.read_parquet(io.BytesIO(to_parquet(TABLE)))
    demand_equal(frame)
    assert frame.attrs["ecc"] == json.loads(json.dumps(heading(TABLE)))


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UnavailableError, match=r"needs pyarrow, which is not installed; pip install 'ecc-compress\[par"
    ):
        to_parquet(TABLE)


def test_every_column_has_its_unit_and_is_a_plain_value():
    units = heading(TABLE)["units"]
    assert list(units) == list(frame_of(TABLE))
    expected = {
        "width:a": "channels",
        "latency_ratio": "1",
        "latency_ratio_low": "1",
        "latency_s": "s",
        "energy_j": "J",
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
