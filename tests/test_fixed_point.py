"""Weights in fixed point: the grid, the fit of its steps, the split into two matrices, and the forms of files."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.container import read
from ecc.stages.fixed_point.quantising import EXPONENTS, quantise, rows_of, sizes_of, steps_of
from ecc.stages.fixed_point.split import LARGEST_SPLIT, low_and_high, split_codes
from ecc.stages.fixed_point.stage import BitWidth, FixedPoint
from ecc.stages.nodes import Form, Numbers, Symbols
from ecc.stages.sparse_index import sparse_form

FLOATS = st.floats(-1e6, 1e6, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=FLOATS)


def coded(values: torch.Tensor, stage: FixedPoint) -> torch.Tensor:
    return decode_node(stage.encode_node("w", Numbers(values), BitWidth(stage.bits)))


def sqnr_db(values: torch.Tensor, stage: FixedPoint) -> float:
    exact = values.double()
    return 10 * math.log10(float((exact**2).sum() / ((exact - coded(values, stage).double()) ** 2).sum()))


@given(MATRICES, st.integers(2, 16), st.booleans(), st.booleans())
def test_every_weight_becomes_the_nearest_point_of_its_grid(matrix, bits, per_channel, power_of_two):
    values, most = torch.from_numpy(matrix), 2 ** (bits - 1) - 1
    rows = rows_of(values, per_channel=per_channel)
    steps = steps_of(rows, most, clip="max", power_of_two=power_of_two)
    sizes = sizes_of(steps).double().numpy()
    codes = quantise(rows.double(), steps, most).numpy()
    for row, size, found in zip(rows.double().numpy(), sizes, codes, strict=True):
        grid = np.arange(-most, most + 1) * size
        best = np.abs(row[:, None] - grid).min(axis=1) if bits <= 8 else np.abs(row - found * size)
        assert np.all(np.abs(row - found * size) <= best + 1e-9 * np.abs(row).max(initial=1e-30))
        assert np.all(np.abs(found) <= most)
        assert np.all(np.abs(row - found * size) <= size * (0.5 + 1e-5))  # the largest magnitude is not cut off


@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(2, 16))
def test_the_shift_is_the_largest_at_which_the_largest_weight_fits(largest, bits):
    most = 2 ** (bits - 1) - 1
    exponent = int(steps_of(torch.tensor([[0.0, -largest]]), most, clip="max", power_of_two=True))
    n = math.floor(math.log2(most / largest))
    if abs(math.log2(most / largest) - round(math.log2(most / largest))) > 1e-9:
        assert exponent == -n
    assert largest <= most * 2.0**exponent * (1 + 1e-12)
    assert largest > most * 2.0 ** (exponent - 1) * (1 - 1e-12)


def test_powers_of_two_are_exact():
    exponents = torch.arange(EXPONENTS[0], EXPONENTS[1] + 1, dtype=torch.int8)
    assert sizes_of(exponents).tolist() == [2.0**e for e in range(EXPONENTS[0], EXPONENTS[1] + 1)]


@given(MATRICES, st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_a_fitted_range_is_never_worse_than_the_whole_one(matrix, bits, power_of_two):
    values = torch.from_numpy(matrix)
    kinds = [FixedPoint(bits=bits, power_of_two=power_of_two, clip=clip) for clip in ("mse", "max")]
    errors = [float(((coded(values, stage) - values).double() ** 2).sum()) for stage in kinds]
    assert errors[0] <= errors[1] * (1 + 1e-4) + 1e-12


def drawn(name: str) -> torch.Tensor:
    random = np.random.default_rng(0)
    draw = {
        "gaussian": random.standard_normal,
        "laplace": lambda n: random.laplace(size=n),
        "t4": lambda n: random.standard_t(4, n),
        "t2.5": lambda n: random.standard_t(2.5, n),
    }[name]
    return torch.tensor(draw(400_000), dtype=torch.float32).reshape(400, 1000)


@pytest.mark.parametrize(
    ("name", "within", "whole_db", "split_db", "outliers"),
    [
        ("gaussian", 0.2, 34.9, 40.9, 0.0001),
        ("laplace", 0.2, 31.9, 43.9, 0.019),
        ("t4", 6.0, 8.0, 44.0, 0.016),  # the largest of a heavy tail is what it happens to be
        ("t2.5", 6.0, 11.3, 41.2, 0.008),
    ],
)
def test_the_split_has_the_precision_that_is_known_of_it(name, within, whole_db, split_db, outliers):
    values = drawn(name)
    whole = FixedPoint(per_channel=False, power_of_two=True, clip="max")
    split = FixedPoint(per_channel=False, power_of_two=True, split=True)
    assert sqnr_db(values, whole) == pytest.approx(whole_db, abs=within)
    assert sqnr_db(values, split) == pytest.approx(split_db, abs=0.8)
    form = split.encode_node("w", Numbers(values), BitWidth(8))
    stored = PackedCode({"w": form}).stored()["w"]
    assert stored.bits / 8 - 1 == pytest.approx(outliers, rel=0.5)
    step = 2.0 ** int(form.parts["scales"].values)
    assert sqnr_db(values, split) == pytest.approx(
        10 * math.log10(12 * float(values.double().var()) / step**2), abs=1.5
    )


def test_a_number_of_sixteen_bits_is_the_sum_of_its_signed_bytes():
    numbers = torch.arange(-LARGEST_SPLIT, LARGEST_SPLIT + 1, dtype=torch.int32)
    low, high = low_and_high(numbers)
    assert torch.equal(low + 256 * high, numbers)
    assert (int(low.min()), int(low.max()), int(high.min()), int(high.max())) == (-128, 127, -127, 127)
    assert torch.equal(high == 0, (numbers >= -128) & (numbers <= 127))
    assert torch.equal(decode_node(split_codes(numbers)), numbers)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_outliers_beyond_sixteen_bits_are_cut_off_at_both_ends(end):
    values = torch.full((1000,), 0.01).index_fill(0, torch.tensor([3]), end * 1e4)
    found = coded(values.reshape(1, -1), FixedPoint(split=True, power_of_two=True))
    step = 2.0 ** math.ceil(math.log2(0.01 / 127))
    assert float(found[0, 3]) == end * LARGEST_SPLIT * step
    assert float(found[0, 0]) == pytest.approx(0.01, abs=step / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "stage", [FixedPoint(), FixedPoint(power_of_two=True), FixedPoint(bits=3), FixedPoint(split=True)]
)
def test_codes_go_through_the_file(stage, dtype):
    values = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    code = stage.encode({"conv.weight": values, "conv.bias": values[0, 0, 0].clone()})
    nodes, aliases = read(code.to_bytes())
    found = PackedCode(nodes, aliases).decode()
    assert torch.equal(found["conv.weight"], code.decode()["conv.weight"])
    assert torch.equal(found["conv.bias"], values[0, 0, 0])
    assert found["conv.weight"].dtype == dtype
    assert code.nbytes < values.numel() * values.element_size() + 100


def test_a_code_takes_its_bits_of_the_file():
    state = {"w": torch.randn(256, 512, generator=torch.Generator().manual_seed(0))}
    for bits in (2, 3, 4, 5, 8):
        assert FixedPoint(bits=bits).encode(state).nbytes == pytest.approx(256 * 512 * bits / 8 + 256 * 4, rel=0.01)


def test_rows_of_very_different_sizes_need_steps_of_their_own():
    values = torch.randn(8, 100) * 10.0 ** torch.arange(-4, 4)[:, None]
    per_channel, whole = (coded(values, FixedPoint(per_channel=each)) for each in (True, False))
    assert bool(((per_channel - values).norm(dim=1) / values.norm(dim=1) < 0.01).all())
    assert bool((whole[0] == 0).all())


def test_values_of_a_sparse_tensor_are_quantised_inside_it():
    values = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    values[values.abs() < 1] = 0
    code = FixedPoint(bits=4).encode(PackedCode({"w": sparse_form(values)}))
    assert code.nodes["w"].parts["values"].kind == "fixed"
    assert torch.equal(code.decode()["w"] == 0, values == 0)
    assert code.stored()["w"].entries == int((values != 0).sum())
    assert code.stored()["w"].bits == 4


def test_choices_are_widths_and_the_widest_is_the_best():
    node, stage = Numbers(torch.randn(30, 30)), FixedPoint()
    errors = [
        float((decode_node(stage.encode_node("w", node, each)) - node.values).square().sum())
        for each in stage.choices("w", node)
    ]
    assert [each.label for each in stage.choices("w", node)] == [f"int{bits}" for bits in (2, 3, 4, 5, 6, 7, 8)]
    assert errors == sorted(errors, reverse=True)


def test_weights_of_zeros_stay_zeros():
    for stage in (FixedPoint(), FixedPoint(power_of_two=True), FixedPoint(split=True)):
        assert torch.equal(coded(torch.zeros(4, 64), stage), torch.zeros(4, 64))


def test_tiny_tensors_stay_as_they_are():
    state = {"w": torch.randn(2, 2), "big": torch.randn(64, 64)}
    code = FixedPoint().encode(state)
    assert isinstance(code.nodes["w"], Numbers)
    assert isinstance(code.nodes["big"], Form)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, r"FixedPoint\(bits=\.\.\.\) must be a whole number from 2 to 16, got 1"),
        ({"bits": 17}, "got 17"),
        ({"bits": True}, "got True"),
        ({"bits": 4.0}, r"got 4\.0"),
        ({"clip": "kl"}, "must be one of max, mse, got 'kl'"),
        ({"split": True, "bits": 4}, "8 bits and 8 more for outliers, not of bits=4"),
        ({"fit": 0.0}, r"FixedPoint\(fit=\.\.\.\) must be in \(0, 1\], got 0\.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FixedPoint(**options)


def test_weights_that_are_not_finite_or_quantised_already_are_refused():
    with pytest.raises(InputError, match="'w' has weights that are not finite"):
        FixedPoint().encode({"w": torch.full((20, 20), math.inf)})
    once = FixedPoint().encode({"w": torch.randn(20, 20)})
    with pytest.raises(InputError, match="quantised already; fixed-point needs weights that are floats"):
        FixedPoint().encode(once)


def altered(change: dict[str, object]) -> Form:
    form = FixedPoint().encode_node("w", Numbers(torch.ones(4, 30)), BitWidth(8))
    assert isinstance(form, Form)
    return replace(form, **change)


CODES = Symbols(np.zeros(120, np.uint8), 255)
SCALES = Numbers(torch.ones(4))


@pytest.mark.parametrize(
    "change",
    [
        {"parts": {"codes": CODES}},
        {"parts": {"codes": CODES, "scales": SCALES, "more": SCALES}},
        {"parts": {"codes": Symbols(np.zeros(119, np.uint8), 255), "scales": SCALES}},
        {"parts": {"codes": SCALES, "scales": SCALES}},
        {"parts": {"codes": CODES, "scales": Numbers(torch.ones(3))}},
        {"parts": {"codes": CODES, "scales": Numbers(torch.ones(4, dtype=torch.int64))}},
        {"parts": {"codes": CODES, "scales": Numbers(torch.full((4,), -128, dtype=torch.int8))}},
        {"parts": {"codes": Symbols(np.zeros(120, np.uint32), 1 << 20), "scales": SCALES}},
        {"parameters": {}},
        {"parameters": {"offset": 255}},
        {"parameters": {"offset": 0.5}},
        {"parameters": {"offset": -1}},
        {"shape": (4, 31)},
        {"shape": (), "parts": {"codes": Symbols(np.zeros(1, np.uint8), 255), "scales": Numbers(torch.tensor(1.0))}},
        {"shape": (1 << 40, 1 << 40)},
        {"dtype": torch.int32},
    ],
    ids=str,
)
def test_forms_whose_parts_do_not_agree_are_refused(change):
    with pytest.raises(InputError):
        decode_node(altered(change))


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"shift": 8}},
        {"parameters": {"shift": 40, "offset": 128}},
        {"parameters": {"shift": 8, "offset": 300}},
        {"parts": {"low": Symbols(np.zeros(5, np.uint8), 256)}},
        {"parts": {"low": Symbols(np.zeros(4, np.uint8), 256), "high": Numbers(torch.zeros(5))}},
        {"parts": {"low": Symbols(np.zeros(5, np.uint8), 256), "high": Numbers(torch.zeros(6))}},
        {"parts": {"low": Symbols(np.zeros(5, np.uint8), 256), "high": Symbols(np.zeros(5, np.uint8), 256)}},
        {"dtype": torch.float32},
        {"shape": (6,)},
    ],
    ids=str,
)
def test_sums_whose_parts_do_not_agree_are_refused(change):
    with pytest.raises(InputError):
        decode_node(replace(split_codes(torch.arange(5, dtype=torch.int32)), **change))


def test_a_state_keeps_its_names_ties_and_other_tensors():
    shared = torch.randn(30, 30)
    state = {"a": shared, "b": torch.arange(5), "c": shared}
    code = FixedPoint().encode(packed(state))
    found = code.decode()
    assert list(found) == ["a", "b", "c"]
    assert found["a"] is found["c"]
    assert torch.equal(found["b"], torch.arange(5))
