"""Sparse forms: what comes back, what it takes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.stages.code import decode_node
from ecc.stages.nodes import Form, Numbers, Symbols
from ecc.stages.sparse_index import entry_places, gap_symbols, regapped, sparse_form

SHAPES = st.sampled_from([(1,), (7,), (3, 5), (6, 4, 3, 3), (0, 4), (40, 30), ()])


def random_sparse(shape, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)


def slowly_decoded(form):
    """Element by element as the module's docstring says."""
    gaps, values = form.parts["gaps"], form.parts["values"].values
    scan, place, entry = [0.0] * int(np.prod(form.shape)), 0, 0
    for symbol in gaps.values.tolist():
        place += symbol
        if symbol < gaps.size - 1:
            scan[place] = float(values[entry])
            place, entry = place + 1, entry + 1
    flat = torch.tensor(scan)
    if form.parameters["order"] == 0:
        return flat.reshape(form.shape)
    return flat.reshape(*form.shape[1:], form.shape[0]).movedim(-1, 0)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.sampled_from([None, 1, 2, 4, 9]), st.integers(0, 99))
def test_decoding_gives_the_tensor_back(shape, density, gap_bits, seed):
    tensor = random_sparse(shape, density, seed)
    form = sparse_form(tensor, gap_bits=gap_bits)
    assert torch.equal(decode_node(form), tensor)
    assert torch.equal(slowly_decoded(form), tensor)
    for packed in (True, False):
        assert torch.equal(decode_node(regapped(form, packed=packed)), tensor)


def test_an_entry_may_be_zero():
    tensor, kept = torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([[True, True], [False, False]])
    form = sparse_form(tensor, kept)
    assert form.parts["values"].values.tolist() == [0.0, 2.0]
    assert torch.equal(decode_node(form), tensor)


@pytest.mark.parametrize("density", [0.01, 0.08, 0.5, 1.0], ids="density={}".format)
def test_packed_gaps_have_the_bits_with_the_least_bytes(density):
    tensor = random_sparse((200, 300), density, 0)

    def bits(form):
        gaps = form.parts["gaps"]
        return len(gaps.values) * (gaps.size - 1).bit_length()

    chosen = bits(sparse_form(tensor))
    order = sparse_form(tensor).parameters["order"]
    tried = [sparse_form(tensor, gap_bits=each) for each in range(1, 13)]
    assert chosen == min(bits(form) for form in tried if form.parameters["order"] == order)


def test_gaps_for_an_entropy_coder_hardly_exceed_the_entropy_of_the_places():
    density = 0.05
    gaps = regapped(sparse_form(random_sparse((500, 400), density, 1)), packed=False).parts["gaps"]
    counts = np.bincount(gaps.values)
    shares = counts[counts > 0] / len(gaps.values)
    coded = -(shares * np.log2(shares)).sum() * len(gaps.values)
    entries = len(entry_places(gaps))
    bound = -entries * (np.log2(density) + (1 / density - 1) * np.log2(1 - density))  # H(p)/p bits per entry
    assert coded < 1.01 * bound


def test_columns_that_are_dead_make_the_scan_run_along_them():
    tensor = random_sparse((300, 200), 0.1, 2) * (torch.rand(200, generator=torch.Generator().manual_seed(3)) < 0.5)
    assert sparse_form(tensor).parameters["order"] == 1
    assert sparse_form(tensor.T.contiguous()).parameters["order"] == 0


def test_fillers_have_no_code():
    gaps = np.array([0, 40, 3], np.int64)
    symbols = Symbols(gap_symbols(gaps, 8), 8)
    assert symbols.values.tolist() == [0, 7, 7, 7, 7, 7, 5, 3]
    assert entry_places(symbols).tolist() == [0, 41, 45]


def test_gradients_reach_the_entries():
    form = sparse_form(random_sparse((5, 6), 0.4, 3))
    from ecc.stages.kinds import KINDS

    values = form.parts["values"].values.double().requires_grad_()
    gaps = torch.from_numpy(form.parts["gaps"].values.astype(np.int64))
    form = replace(form, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: KINDS["sparse"].decode(form, {"gaps": gaps, "values": v}), values)


def test_entries_and_their_bits_are_told():
    from ecc.stages.kinds import KINDS

    form = sparse_form(random_sparse((50, 60), 0.1, 4))
    count = form.parts["values"].values.numel()
    assert KINDS["sparse"].operand(form) == (count, 32.0)
    codes = Form(
        "codebook",
        (count,),
        torch.float32,
        {},
        {"codes": Symbols(np.zeros(count, np.uint8), 20), "centroids": Numbers(torch.zeros(20))},
    )
    assert KINDS["sparse"].operand(replace(form, parts={**form.parts, "values": codes})) == (count, 5.0)


def whole():
    return sparse_form(random_sparse((6, 7), 0.3, 5), gap_bits=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda form: {"gaps": form.parts["gaps"]}, "has gaps, which are symbols, and values"),
        (lambda form: {"gaps": form.parts["values"], "values": form.parts["values"]}, "gaps, which are symbols"),
        (lambda form: {**form.parts, "values": Numbers(torch.zeros(2, 2))}, r"values of shape \(2, 2\)"),
        (lambda form: {**form.parts, "values": form.parts["gaps"]}, "and values, and nothing else"),
        (
            lambda form: {**form.parts, "values": Numbers(form.parts["values"].values.long())},
            "a sparse form and its values are floats",
        ),
        (lambda form: {**form.parts, "gaps": Symbols(np.zeros(3, np.uint8), 1)}, "two or more symbols"),
        (
            lambda form: {"gaps": Symbols(np.full(9, 6, np.uint8), 8), "values": Numbers(torch.ones(9))},
            "lead to element 62 of 42",
        ),
        (
            lambda form: {"gaps": Symbols(np.zeros(43, np.uint8), 8), "values": Numbers(torch.ones(43))},
            r"shape \(6, 7\) has gaps to 43 entries",
        ),
    ],
)
def test_parts_that_do_not_agree_are_refused(change, said):
    form = whole()
    with pytest.raises(InputError, match=said):
        decode_node(replace(form, parts=change(form)))


@pytest.mark.parametrize("parameters", [{}, {"order": 2}, {"order": 0, "more": 1}])
def test_unknown_parameters_are_refused(parameters):
    with pytest.raises(InputError, match="order of 0 or 1"):
        decode_node(replace(whole(), parameters=parameters))
