"""Log codes: the closed form of their error, the exact maximum and zero, PaddleSlim's rule, damaged forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecc.core.errors import InputError
from ecc.stages.code import decode_node, packed
from ecc.stages.kinds import KINDS
from ecc.stages.log_quant import LogQuant, LogSetting, encode_log, encode_octaves
from ecc.stages.nodes import Form, Numbers, Symbols

SIZE = 200_000


def sqnr(values: torch.Tensor, decoded: torch.Tensor) -> float:
    noise = (decoded.double() - values.double()).square().sum()
    return float(10 * torch.log10(values.double().square().sum() / noise))


def drawn(distribution: str) -> torch.Tensor:
    torch.manual_seed(0)
    if distribution == "gaussian":
        return torch.randn(SIZE)
    return torch.distributions.StudentT(2.5 if distribution == "t2.5" else 4.0).sample((SIZE,))


@pytest.mark.parametrize("distribution", ["gaussian", "t4", "t2.5"])
def test_the_error_of_octaves_is_that_of_the_closed_form_whatever_the_distribution(distribution):
    values = drawn(distribution)
    assert sqnr(values, decode_node(encode_octaves(values))) == pytest.approx(
        -10 * math.log10((0.125 * math.log(2)) ** 2 / 12), abs=0.4
    )


@pytest.mark.parametrize("distribution", ["gaussian", "t4", "t2.5"])
def test_a_fitted_range_has_the_error_of_its_step_and_beats_eighths_of_octaves(distribution):
    values = drawn(distribution)
    form = encode_log(values, LogSetting(8))
    step = float(form.parts["step"].values)
    reached = sqnr(values, decode_node(form))
    assert reached == pytest.approx(-10 * math.log10((step * math.log(2)) ** 2 / 12), abs=0.6)
    assert reached > sqnr(values, decode_node(encode_octaves(values))) + 3


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_no_other_step_has_a_much_smaller_error(bits):
    values = drawn("gaussian")[:20_000]
    form = encode_log(values, LogSetting(bits))
    magnitudes, peak = values.abs().double(), float(values.abs().max())

    def error(step: float) -> float:
        levels = torch.cat([torch.zeros(1), peak * torch.exp2(-step * torch.arange(2 ** (bits - 1) - 1))]).double()
        return float((magnitudes[:, None] - levels).abs().amin(1).square().sum())

    reached = float((decode_node(form).double() - values.double()).square().sum())
    assert reached == pytest.approx(error(float(form.parts["step"].values)), rel=1e-5)
    assert reached <= 1.01 * min(error(step) for step in np.geomspace(0.02, 4, 150))


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=st.floats(
    -(2.0**60), 2.0**60, width=32)), st.integers(3, 16), st.sampled_from(["tensor", "row"]))  # fmt: skip
def test_zeros_the_largest_value_signs_and_shapes_come_back(values, bits, scale):
    tensor = torch.from_numpy(values)
    decoded = decode_node(encode_log(tensor, LogSetting(bits, scale)))
    assert decoded.shape == tensor.shape
    assert decoded.dtype == tensor.dtype
    assert (decoded[tensor == 0] == 0).all()
    assert decoded.abs().max() == tensor.abs().max()
    assert (decoded * tensor.sign() >= 0).all()
    if scale == "row" and tensor.ndim > 1:
        assert torch.equal(decoded.abs().flatten(1).amax(1), tensor.abs().flatten(1).amax(1))


def paddle(values: np.ndarray) -> np.ndarray:
    """PaddleSlim's quant_embedding of type log, element by element, and its decoding."""
    with np.errstate(divide="ignore"):
        levels = np.round(np.log2(np.abs(values)) / 0.125) * 0.125
    kept = sorted(set(levels[np.isfinite(levels)].tolist()), reverse=True)[:128]
    decoded = []
    for value, level in zip(values, levels, strict=True):
        nearest = min(kept, key=lambda each: abs(each - max(level, kept[-1])))
        decoded.append(math.copysign(2.0**nearest, 1.0 if value >= 0 else -1.0))
    return np.array(decoded)


def test_octaves_are_those_of_paddle_slim_also_with_gaps_and_zeros():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(500), torch.randn(200) * 1e-5, torch.zeros(3), torch.tensor([1e-9, 40.0])])
    form = encode_octaves(values)
    assert np.allclose(decode_node(form).numpy(), paddle(values.double().numpy()), rtol=1e-6)
    assert form.parts["codes"].size <= 256
    assert torch.equal(decode_node(encode_octaves(torch.zeros(4))), torch.zeros(4))


def test_rows_of_their_own_scale_pay_at_few_bits():
    torch.manual_seed(0)
    values = torch.randn(200, 100) * torch.logspace(-3, 0, 200)[:, None]
    tensor, row = (decode_node(encode_log(values, LogSetting(4, scale))) for scale in ("tensor", "row"))
    small = values[:50]
    assert sqnr(small, row[:50]) > sqnr(small, tensor[:50]) + 6


def test_the_stage_quantises_weights_and_values_of_sparse_forms_and_nothing_else():
    state = {"a.weight": torch.randn(20, 30), "a.bias": torch.randn(20), "table": torch.arange(6).reshape(2, 3)}
    code = LogQuant(bits=8).encode(state)
    assert code.nodes["a.weight"].kind == "log"
    assert isinstance(code.nodes["a.bias"], Numbers)
    assert code.stored()["a.weight"].bits == 8
    assert code.nbytes < packed(state).nbytes / 2
    half = Form("half", (4, 5), torch.float32, {}, {"values": Numbers(torch.randn(4, 5).half())})
    changed = LogQuant().encode_node("x", half, LogSetting(6))
    assert changed.kind == "half"
    assert changed.parts["values"].kind == "log"
    assert LogQuant().encode_node("x", changed, LogSetting(6)) is changed
    with pytest.raises(InputError, match=r"^log-quant finds no float weights that are not quantised already$"):
        LogQuant().encode(code)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match=r"^the weights 'w' hold values that are not finite"):
        LogQuant().encode({"w": torch.tensor([[1.0, math.inf]])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 2}, r"must be from 3 to 16, got 2"),
        ({"scale": "column"}, r"must be 'tensor' or 'row', got 'column'"),
        ({"quantile": 1.0}, r"below 1, got 1.0"),
        ({"levels": "octaves", "scale": "row"}, r"has one scale per tensor"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LogQuant(**options)


def test_a_quantile_sets_the_least_level():
    values = drawn("gaussian")
    form = encode_log(values, LogSetting(6), quantile=0.1)
    least = decode_node(form).abs()
    assert float(least[least > 0].min()) == pytest.approx(float(values.abs().quantile(0.1)), rel=1e-3)


def test_damaged_forms_are_refused():
    form = encode_log(torch.randn(4, 6), LogSetting(4, "row"))
    few = Symbols(np.zeros(3, np.uint8), 15)
    for parts, parameters in (
        ({"codes": few}, {}),
        ({"peak": Numbers(torch.ones(3))}, {}),
        ({"step": Numbers(torch.ones(2))}, {}),
        ({"codes": Numbers(torch.zeros(24))}, {}),
        ({"places": few}, {}),
        ({}, {"levels": 6}),
        ({}, {"levels": 1 << 40}),
        ({}, {"zero": 2}),
    ):
        bad = replace(form, parts={**form.parts, **parts}, parameters={**form.parameters, **parameters})
        with pytest.raises(InputError):
            KINDS["log"].check(bad)


def test_decoding_is_differentiable_in_the_peak_and_the_step():
    form = encode_log(torch.randn(5, 7), LogSetting(5))
    parts = {name: decode_node(part) for name, part in form.parts.items()}
    parts |= {name: parts[name].clone().requires_grad_() for name in ("peak", "step")}
    KINDS["log"].decode(form, parts).square().sum().backward()
    assert parts["peak"].grad is not None
    assert parts["step"].grad is not None
    assert float(parts["step"].grad) < 0
