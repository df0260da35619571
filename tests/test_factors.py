"""Kinds of factors: what they decode to, gradients, what is stored, damaged forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node
from ecc.stages.container import read
from ecc.stages.kinds import KINDS
from ecc.stages.log_quant import LogQuant
from ecc.stages.nodes import Form, Numbers, Symbols


def form(kind: str, shape: tuple[int, ...], left: torch.Tensor, right: torch.Tensor) -> Form:
    return Form(kind, shape, torch.float32, {}, {"left": Numbers(left), "right": Numbers(right)})


def test_factors_are_a_product_in_the_tensors_shape():
    left, right = torch.randn(6, 2), torch.randn(2, 12)
    assert torch.equal(decode_node(form("factors", (6, 3, 2, 2), left, right)), (left @ right).reshape(6, 3, 2, 2))


def test_blocks_of_factors_lie_below_each_other():
    left, right = torch.randn(3, 4, 2), torch.randn(3, 2, 5)
    whole = torch.cat([left[g] @ right[g] for g in range(3)])
    assert torch.allclose(decode_node(form("factors", (12, 5), left, right)), whole, atol=1e-6)


def test_deepthin_pours_rows_of_the_product_into_columns_of_the_transposed_weight():
    left, right = torch.randn(5, 2), torch.randn(2, 7)  # A 5 × 7 fills W of Q = 8 inputs and R = 4 outputs
    product, w = left @ right, torch.empty(8, 4)
    for place in range(32):  # row-major from A, column-major to the Q × R matrix of y = x W
        w[place % 8, place // 8] = product[place // 7, place % 7]
    assert torch.equal(decode_node(form("deepthin", (4, 8), left, right)), w.T)


@pytest.mark.parametrize(("kind", "shape", "left", "right"), [
    ("factors", (6, 10), (6, 2), (2, 10)), ("factors", (6, 10), (2, 3, 2), (2, 2, 10)),
    ("deepthin", (6, 10), (9, 3), (3, 7)), ("deepthin", (11,), (4, 1), (1, 3)),
])  # fmt: skip
def test_forms_come_back_from_the_file_and_are_differentiable_in_both_factors(kind, shape, left, right):
    one = form(kind, shape, torch.randn(left), torch.randn(right))
    code = PackedCode({"a.weight": one})
    nodes, _ = read(code.to_bytes())
    assert torch.equal(decode_node(nodes["a.weight"]), decode_node(one))
    stored = code.stored()["a.weight"]
    assert (stored.entries, stored.bits) == (one.parts["left"].values.numel() + one.parts["right"].values.numel(), 32)
    parts = {name: part.values.clone().double().requires_grad_() for name, part in one.parts.items()}
    double = replace(one, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: KINDS[kind].decode(double, {"left": a, "right": b}), (parts["left"], parts["right"])
    )


def test_quantised_factors_count_the_bits_of_their_codes():
    one = form("deepthin", (40, 50), torch.randn(41, 3), torch.randn(3, 49))
    coded = LogQuant(bits=6).encode_node("w", one, LogQuant(bits=6).choices("w", one)[3])
    assert coded.parts["left"].kind == "log"
    assert KINDS["deepthin"].operand(coded) == (3 * 90, 6.0)
    error = (decode_node(coded) - decode_node(one)).square().mean() / decode_node(one).square().mean()
    assert float(error) < 0.02


def test_short_floats_are_multiplied_in_long_ones():
    left, right = torch.randn(6, 4).half(), torch.randn(4, 5).half()
    one = replace(form("factors", (6, 5), left, right), dtype=torch.float16)
    assert torch.equal(decode_node(one), (left.float() @ right.float()).half())


BASE = form("factors", (6, 10), torch.zeros(6, 2), torch.zeros(2, 10))
THIN = form("deepthin", (6, 10), torch.zeros(9, 2), torch.zeros(2, 7))


@pytest.mark.parametrize("bad", [
    replace(BASE, parameters={"rank": 2}),
    replace(BASE, dtype=torch.int64),
    replace(BASE, shape=(5, 10)), replace(BASE, shape=(6, 11)), replace(BASE, shape=(10, 6)), replace(BASE, shape=()),
    form("factors", (6, 10), torch.zeros(6, 2), torch.zeros(3, 10)),
    form("factors", (6, 10), torch.zeros(6, 7), torch.zeros(7, 10)),  # more than the smaller side: work without end
    form("factors", (6, 10), torch.zeros(6, 0), torch.zeros(0, 10)),
    form("factors", (6, 10), torch.zeros(2, 3, 2), torch.zeros(3, 2, 10)),
    form("factors", (6, 10), torch.zeros(6), torch.zeros(10)),
    replace(BASE, parts={"left": BASE.parts["left"]}),
    replace(BASE, parts={**BASE.parts, "right": Symbols(torch.zeros(20).byte().numpy(), 2)}),
    replace(THIN, shape=(6, 11)), replace(THIN, shape=(4, 14)), replace(THIN, shape=(2, 3)),
    form("deepthin", (6, 10), torch.zeros(8, 2), torch.zeros(2, 7)),
    form("deepthin", (6, 10), torch.zeros(1, 1), torch.zeros(1, 61)),
    form("deepthin", (6, 10), torch.zeros(1, 9, 2), torch.zeros(1, 2, 7)),
    form("deepthin", (6, 0), torch.zeros(0, 2), torch.zeros(2, 7)),
])  # fmt: skip
def test_damaged_forms_are_refused(bad):
    with pytest.raises(InputError):
        KINDS[bad.kind].check(bad)
