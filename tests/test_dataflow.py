"""Dataflows on systolic arrays, against the published forms of SCALE-Sim, SCALE-Sim itself and ZigZag's optimum."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.core.operators import Operator, convolution_kind
from ecc.energy_models.systolic.array import DATAFLOWS, SystolicArray
from ecc.energy_models.systolic.dataflow import Execution, Gemm, execute, gemms_of, latency, stream

LARGE = 1 << 30
SCRIPT = Path(__file__).parents[1] / "experiments" / "scalesim_peer.py"


def square(side, dataflow="os", cache=LARGE):
    """An array of side × side elements."""
    return SystolicArray("square", side, side, cache, cache, cache, dataflow=dataflow)


def layer(height, width, kernel_h, kernel_w, channels, filters, stride):
    """A convolution without padding."""
    out_height, out_width = (height - kernel_h) // stride + 1, (width - kernel_w) // stride + 1
    return Operator(
        "conv",
        channels_in=channels,
        channels_out=filters,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride=stride,
    )


EXAMPLES = [  # operator, side of the array, SCALE-Sim's cycles (os, ws, is), SRAM of os and of ws, DRAM of os
    (layer(18, 18, 3, 3, 32, 32, 1), 16, (10175, 10871, 22463), (147456, 147456), (147456, 9216, 147456),
     (10368, 9216, 8192)),
    (layer(18, 18, 3, 3, 32, 32, 1), 64, (1655, 2229, 4439), (73728, 36864), (73728, 9216, 40960), (10368, 9216, 8192)),
    (layer(10, 10, 3, 3, 64, 64, 1), 32, (2551, 5687, 5687), (73728, 73728), (73728, 36864, 73728), (6400, None, 4096)),
    (layer(16, 16, 1, 1, 64, 128, 1), 16, (12031, 9663, 11135), (131072, 131072), (131072, 8192, 131072),
     (16384, 8192, 32768)),
    (layer(18, 18, 3, 3, 17, 33, 1), 16, (8783, 9059, 12639), (117504, 80784), (117504, 5049, 84480),
     (5508, 5049, 8448)),
    (layer(33, 33, 3, 3, 16, 32, 2), 32, (1647, 1749, 5039), (36864, 36864), (36864, 4608, 40960), (17424, 4608, 8192)),
    (Operator("linear", length=128, channels_in=200, channels_out=96), 32, (3143, 4661, 5319), (76800, 76800),
     (76800, 19200, 86016), (25600, 19200, 12288)),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "side", "cycles", "os", "ws", "dram"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_rows_of_scale_sim_are_met_exactly(operator, side, cycles, os, ws, dram):
    found = {dataflow: execute([operator], square(side, dataflow)) for dataflow in DATAFLOWS}
    assert tuple(found[dataflow].cycles for dataflow in ("os", "ws", "is")) == tuple(each + 1 for each in cycles)
    assert (found["os"].input_reads, found["os"].weight_reads) == os
    assert (found["ws"].input_reads, found["ws"].weight_reads, found["ws"].output_writes) == ws
    words = (found["os"].dram_inputs, found["os"].dram_weights, found["os"].dram_outputs)
    # None: SCALE-Sim reads a filter larger than half of its buffer again, a quirk of its double buffering
    assert all(theirs in (None, ours) for ours, theirs in zip(words, dram, strict=True))
    assert found["os"].again == 0


def _python_with_scalesim():
    """An interpreter that has SCALE-Sim; it needs numpy < 2.4 and so usually an environment of its own."""
    if importlib.util.find_spec("scalesim") is not None:
        return sys.executable
    return os.environ.get("ECC_SCALESIM_PYTHON", "")


def test_random_layers_take_as_many_cycles_as_in_scale_sim():
    python = _python_with_scalesim()
    if not python:
        pytest.skip("scalesim is not installed here, and ECC_SCALESIM_PYTHON names no Python that has it")
    rng = np.random.default_rng(0)
    cases, operators = [], []
    for dataflow in DATAFLOWS * 6:
        kernel, stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        size = kernel + stride * int(rng.integers(0, 9))  # the stride divides, where SCALE-Sim and torch agree
        shape = (size, size, kernel, kernel, *map(int, rng.integers(1, 40, 2)), stride)
        rows, columns = map(int, rng.integers(2, 40, 2))
        cases.append({"dataflow": dataflow, "rows": rows, "columns": columns, "layer": shape})
        operators.append(layer(*shape))
    run = subprocess.run(
        [python, str(SCRIPT)], input=json.dumps(cases), capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for case, operator, theirs in zip(cases, operators, json.loads(run.stdout), strict=True):
        array = SystolicArray("any", case["rows"], case["columns"], LARGE, LARGE, LARGE, dataflow=case["dataflow"])
        ours = execute([operator], array)
        assert ours.cycles == theirs["cycles"] + 1, case
        assert (ours.input_reads, ours.weight_reads) == (theirs["input_reads"], theirs["weight_reads"]), case
        (gemm,) = gemms_of(operator)
        folds = -(-gemm.m // array.rows) * -(-gemm.n // array.columns) if array.dataflow == "os" else 0
        # SCALE-Sim counts rows + columns output writes too many in each fold of os
        assert ours.output_writes == theirs["output_writes"] - folds * (array.rows + array.columns), case


ZIGZAG = [  # padded layer, buffer in words, MACs, register, buffer and DRAM accesses of the optimum, its energy
    (layer(18, 18, 3, 3, 32, 32, 1), 128 << 10, 2359296, 9455616, 479360, 27776, 20246272),
    (layer(18, 18, 3, 3, 32, 32, 1), 8 << 10, 2359296, 9732096, 642176, 52352, 26414848),
    (layer(16, 16, 1, 1, 64, 128, 1), 128 << 10, 2097152, 8404992, 458752, 57344, 24723456),
]


@pytest.mark.parametrize(("operator", "words", "macs", "registers", "buffer", "dram", "energy"), ZIGZAG)
@pytest.mark.parametrize("shares", [(4, 2, 2), (7, 1, 0), (1, 1, 6), (5, 3, 0)], ids=str)
def test_no_dataflow_is_better_than_the_best_that_zigzag_finds(
    operator, words, macs, registers, buffer, dram, energy, shares
):
    caches = [words * share // 8 for share in shares]  # of the one buffer that it has
    array = SystolicArray("zigzag", 16, 16, max(1, caches[0]), max(1, caches[1]), caches[2], dataflow="ws")
    ours = execute([operator], array)
    assert ours.macs == macs
    assert ours.dram >= dram if words > 8 << 10 else ours.dram >= ours.compulsory
    assert ours.energy(array) >= energy
    if ours.again == 0:
        assert ours.dram == dram  # what fits is moved once
        assert (2 * macs + ours.register_accesses, ours.cache) == (registers, buffer)
        assert ours.energy(array) == energy


def test_where_tensors_fit_zigzag_is_met_exactly():
    for operator, words, *_, dram, energy in (ZIGZAG[0], ZIGZAG[2]):
        array = square(16, "ws", words // 3)
        assert (execute([operator], array).dram, execute([operator], array).energy(array)) == (dram, energy)


sizes = st.integers(1, 30)


@given(sizes, sizes, sizes, st.integers(1, 9), st.integers(1, 9), st.integers(0, 400), st.sampled_from(DATAFLOWS))
def test_words_of_dram_lie_between_each_tensor_once_and_all_that_the_array_asks_for(
    m, n, k, rows, columns, cache, flow
):
    array = SystolicArray("any", rows, columns, max(1, cache), max(1, cache), cache, dataflow=flow)
    gemm = Gemm.plain(m, n, k)
    found, full = (
        stream(gemm, array),
        stream(gemm, replace(array, input_cache=LARGE, weight_cache=LARGE, output_cache=LARGE)),
    )
    assert full.again == 0
    assert full.compulsory == m * k + k * n + m * n == found.compulsory
    assert m * k <= found.dram_inputs <= found.input_reads
    assert n * k <= found.dram_weights <= found.weight_reads
    assert m * n <= found.dram_outputs <= m * n + 2 * max(0, found.output_writes - m * n)
    assert found.macs == m * n * k
    assert 0 < found.utilisation(array) <= 1


@given(sizes, sizes, sizes, st.integers(1, 7), st.integers(1, 7))
def test_cycles_are_those_of_a_wavefront_that_is_walked_through(m, n, k, rows, columns):
    """Output-stationary: the element at (i, j) of a fold starts i + j cycles late and works for k cycles."""
    cycles = 0
    for _ in itertools.product(range(0, m, rows), range(0, n, columns)):
        cycles += max(i + j + k for i in range(rows) for j in range(columns))
    assert stream(Gemm.plain(m, n, k), SystolicArray("any", rows, columns, dataflow="os")).cycles == cycles


@pytest.mark.parametrize(
    "operator",
    [
        layer(9, 7, 3, 2, 4, 6, 2),
        replace(layer(9, 9, 3, 3, 4, 8, 1), kind="grouped", groups=2),
        replace(layer(9, 9, 3, 3, 4, 4, 1), kind="depthwise", groups=4, batch=3),
        Operator(
            "transposed",
            channels_in=6,
            channels_out=4,
            groups=2,
            height=5,
            width=5,
            out_height=10,
            out_width=10,
            kernel_h=2,
            kernel_w=2,
            stride=2,
        ),
        Operator("linear", batch=2, length=3, channels_in=5, channels_out=7),
        Operator("matmul", batch=2, groups=3, length=4, channels_in=5, channels_out=6),
        Operator("attention", batch=2, groups=3, length=4, context=5, channels_in=6, channels_out=7),
        Operator("lstm", batch=2, length=3, channels_in=5, channels_out=7),
        Operator("gru", batch=2, length=3, channels_in=5, channels_out=7),
    ],
    ids=lambda operator: operator.kind,
)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_products_have_all_multiply_accumulates_and_weights_of_their_operator(operator, dataflow):
    found = execute([operator], square(4, dataflow))
    assert found.macs == operator.macs
    assert found.compulsory == found.dram
    if operator.kind not in ("matmul", "attention"):
        assert found.dram_weights == operator.weights
    if operator.kind not in ("attention", "lstm", "gru", "transposed"):
        assert found.dram_outputs == operator.writes


def test_what_multiplies_nothing_takes_nothing():
    assert (
        execute([Operator("relu", channels_in=8, channels_out=8), Operator("softmax", length=9)], square(4))
        == Execution()
    )
    assert Execution().utilisation(square(4)) == 0.0


def test_batch_lies_in_m():
    one, many = (gemms_of(replace(layer(8, 8, 3, 3, 4, 4, 1), batch=batch))[0] for batch in (1, 5))
    assert (many.m, many.inputs, many.k, many.n) == (5 * one.m, 5 * one.inputs, one.k, one.n)


def test_a_depthwise_convolution_wastes_all_but_one_column():
    operator = replace(layer(10, 10, 3, 3, 32, 32, 1), kind=convolution_kind(32, 32), groups=32)
    assert execute([operator], square(16, "os")).utilisation(square(16)) < 1 / 16


def test_recurrent_weights_that_fit_are_fetched_once_and_others_at_every_step():
    operator = Operator("rnn", length=10, channels_in=1, channels_out=20)
    assert execute([operator], square(8)).dram_weights == 20 * 21
    small = replace(square(8), weight_cache=100)
    assert execute([operator], small).dram_weights == 100 + 10 * 300 + 20


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 3), st.integers(1, 9), st.integers(1, 300))
def test_rows_of_an_input_are_read_once_where_those_that_one_fold_needs_fit(stride, extra, kernel, rows, cache):
    size = kernel + stride * extra
    (gemm,) = gemms_of(layer(size, size, kernel, kernel, 3, 5, stride))
    array = SystolicArray("any", rows, 2, cache, LARGE, 0, dataflow="os")
    positions = [divmod(p, gemm.out_width)[0] for p in range(gemm.m)]
    needed = max(  # rows of the input under the outputs of any fold, counted
        len({y * stride + dy for y in positions[start : start + rows] for dy in range(kernel)})
        if stride < kernel
        else (max(positions[start : start + rows]) - min(positions[start : start + rows])) * stride + kernel
        for start in range(0, gemm.m, rows)
    )
    assert gemm.window(rows) >= needed * gemm.row or gemm.window(rows) == size * gemm.row
    if cache >= gemm.window(rows):
        assert stream(gemm, array).dram_inputs == size * size * 3


def test_seconds_need_a_frequency():
    found = execute([layer(8, 8, 3, 3, 4, 4, 1)], square(4))
    assert latency(found, square(4)) is None
    assert latency(found, replace(square(4), frequency_hz=1e6)) == found.cycles / 1e6


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_impossible_products_are_refused(size):
    with pytest.raises(InputError, match=r"Gemm.plain\(n=...\) must be a whole number of at least 1"):
        Gemm.plain(2, size, 2)
