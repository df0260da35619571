"""Shared values: what they cost, that they are the nearest, that tuning helps, and deep-compression as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_workshop import BlobShop

from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import decode_node, packed
from ecc.stages.codebook import Codebook, CodebookSetting
from ecc.stages.container import node_bytes
from ecc.stages.deep_compression import DeepCompression
from ecc.stages.entropy import Huffman
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Numbers, Symbols
from ecc.stages.prune import Prune
from ecc.stages.tuning import fitted


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_each_weight_is_the_nearest_of_its_codebook(bits):
    weight = torch.randn(90, 70)
    code = Codebook(bits=bits, init="cube-root").encode({"weight": weight, "bias": torch.randn(90)})
    centroids = code.nodes["weight"].parts["centroids"].values
    assert len(centroids) == 1 << bits
    nearest = (weight.flatten()[:, None] - centroids).abs().argmin(1)
    assert torch.allclose(code.decode()["weight"].flatten(), centroids[nearest])
    assert code.nbytes < 6300 * bits / 8 + 4 * (1 << bits) + 360 + 100
    assert code.stored()["weight"].bits == bits


def test_zeros_that_were_pruned_are_no_values_and_stay():
    weight = torch.randn(50, 60) * (torch.rand(50, 60) < 0.2)
    for state in ({"weight": weight}, Prune(density=None).encode({"weight": weight})):
        code = Codebook(bits=4).encode(state)
        decoded = code.decode()["weight"]
        assert torch.equal(decoded != 0, weight != 0)
        assert float((decoded - weight).abs().max()) < 0.4
        assert code.stored()["weight"].entries == int((weight != 0).sum())


def test_small_tensors_get_fewer_bits_or_stay():
    state = {"large": torch.randn(60, 60), "small": torch.randn(10, 12), "tiny": torch.randn(3, 4)}
    code = Codebook(bits=8).encode(state)
    assert code.nodes["large"].parts["codes"].size == 256
    small = code.nodes["small"].parts["codes"].size
    assert small == 8  # 4 · 2^3 bytes of codebook for 45 of codes; a bit more would be 64 for 60
    assert isinstance(code.nodes["tiny"], Numbers)


def test_codebooks_of_half_floats_decode_to_the_dtype_of_the_weights():
    code = Codebook(bits=4, centroids="float16").encode({"weight": torch.randn(40, 40)})
    assert code.nodes["weight"].parts["centroids"].values.dtype == torch.float16
    assert code.decode()["weight"].dtype == torch.float32


def test_tuning_lowers_the_loss_and_keeps_the_codes():
    shop = BlobShop()
    model = shop.trained()
    untuned = Codebook(bits=3, epochs=0).encode(model.state_dict(), shop.workshop(model))
    for reassign in (0, 1):
        after = Codebook(bits=3, epochs=3, lr=1e-2, reassign=reassign).encode(model.state_dict(), shop.workshop(model))
        losses = [shop.judge(fitted(model, each))[0] for each in (untuned, after)]
        assert losses[1] < losses[0]
        if not reassign:
            codes = [each.nodes["0.weight"].parts["codes"].values for each in (untuned, after)]
            assert np.array_equal(*codes)


def test_settings_by_tensor():
    state = {"one": torch.randn(80, 80), "two": torch.randn(80, 80)}
    code = Codebook(bits=5).encode(state, chosen={"two": CodebookSetting(2)})
    assert [code.nodes[name].parts["codes"].size for name in state] == [32, 4]
    node = packed(state).nodes["one"]
    sizes = [
        Codebook().encode_node("one", node, setting).parts["codes"].size for setting in Codebook().choices("one", node)
    ]
    assert sizes == sorted(sizes)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(NothingToDo, match="would make none of the weights smaller: weight have too few values"):
        Codebook().encode({"weight": torch.randn(2, 2)})
    with pytest.raises(InputError, match="the weights 'weight' hold values that are not finite"):
        Codebook().encode({"weight": torch.full((40, 40), torch.nan)})


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("centroids", ["float32", "float16"])
def test_what_is_shared_takes_fewer_bytes_than_before_and_64_floats_do(bits, centroids):
    stage = Codebook(bits=bits, centroids=centroids)
    for count in range(2, 70):
        node = packed({"weight": torch.randn(count, 1)}).nodes["weight"]
        found = stage.encode_node("weight", node, CodebookSetting(bits))
        assert found is node or node_bytes("weight", found) < node_bytes("weight", node)
        assert count < 64 or found is not node


def test_half_the_range_of_the_weights_is_no_reason_for_a_larger_file():
    node = packed({"weight": torch.randn(110, 110).half()}).nodes["weight"]
    found = Codebook(bits=12, steps=2).encode_node("weight", node, CodebookSetting(12))
    assert node_bytes("weight", found) < node_bytes("weight", node)


def test_deep_compression_of_weights_too_few_to_share_is_pruning_and_coding():
    state = {"weight": torch.randn(6, 5)}
    code = DeepCompression(density=0.4).encode(state)
    assert torch.equal(code.decode()["weight"], Prune(density=0.4).encode(state).decode()["weight"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 0}, r"Codebook\(bits=...\) must be from 1 to 12, got 0"),
        ({"init": "guess"}, "must be linear, quantile, cube-root, forgy, kmeans"),
        ({"centroids": "int8"}, "must be float32, float16"),
        ({"lr": -1.0}, "must be positive"),
        ({"reassign": -1}, "0 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Codebook(**options)


def whole():
    return Codebook(bits=3).encode({"weight": torch.randn(20, 20)}).nodes["weight"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (lambda form: {"codes": form.parts["codes"]}, "has codes, which are symbols, and centroids"),
        (lambda form: {**form.parts, "more": form.parts["codes"]}, "and nothing else"),
        (lambda form: {**form.parts, "centroids": Numbers(torch.zeros(7))}, r"8 symbols and centroids of shape \(7,\)"),
        (lambda form: {**form.parts, "centroids": Numbers(torch.zeros(8).long())}, "are floats"),
        (lambda form: {**form.parts, "codes": Symbols(np.zeros(3, np.uint8), 8)}, "has 3 codes"),
    ],
)
def test_parts_that_do_not_agree_are_refused(parts, said):
    form = whole()
    assert isinstance(form, Form)
    assert KINDS["codebook"].operand(form) == (400, 3.0)
    with pytest.raises(InputError, match=said):
        decode_node(replace(form, parts=parts(form)))


def test_deep_compression_is_its_three_stages():
    shop = BlobShop()
    model = shop.trained()
    one = DeepCompression(density=0.3, bits=3, epochs=2, tune_epochs=1, lr=1e-2).encode(
        model.state_dict(), shop.workshop(model)
    )
    assert shop.phases == ["dense", "prune", "codebook 1"]
    code = Prune(density=0.3, epochs=2, lr=1e-2).encode(model.state_dict(), shop.workshop(model))
    code = Codebook(bits=3, epochs=1).encode(code, shop.workshop(model))
    three = Huffman().encode(code)
    assert one.to_bytes() == three.to_bytes()
    assert all(torch.equal(each, code.decode()[name]) for name, each in one.decode().items())


def test_deep_compression_without_data_and_with_the_best_coder():
    state = {"weight": torch.randn(200, 100), "bias": torch.randn(200)}
    sizes = {coder: DeepCompression(coder=coder).encode(state).nbytes for coder in ("huffman", "entropy")}
    assert sizes["entropy"] <= sizes["huffman"] < packed(state).nbytes / 20
    with pytest.raises(InputError, match="must be huffman or entropy, got 'zip'"):
        DeepCompression(coder="zip")
    with pytest.raises(InputError, match=r"Prune\(density=...\)"):
        DeepCompression(density=2.0)


@pytest.mark.parametrize("bits", [1, 2, 4], ids="{} bit".format)
def test_padding_stays_exactly_zero(bits):
    table = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 0.3
    table[0] = 0
    found = Codebook(bits=bits).encode({"table.weight": table}).decode()["table.weight"]
    assert not found[0].any()
    assert len(found.unique()) <= 2**bits
