"""Product quantisation: k-means against scikit-learn, rates, every shape, zero rows, weights of rows, damaged forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Numbers, Symbols
from ecc.stages.product_quant import PartSetting, ProductQuant, encode_product, stored_bits
from ecc.stages.vectors import cluster, nearest


def noise(values: torch.Tensor, form) -> float:
    return float((decode_node(form) - values).double().square().mean())


@pytest.mark.parametrize(("d", "k"), [(2, 64), (3, 16), (8, 64)])
def test_clusters_are_about_as_good_as_scikit_learn_s(d, k):
    points = np.random.default_rng(0).standard_normal((4000, d)).astype(np.float32)
    centroids = cluster(points, k)
    error = ((points - centroids[nearest(points, centroids)]) ** 2).sum()
    assert error < 1.03 * KMeans(k, n_init=1, random_state=0).fit(points).inertia_


@pytest.mark.parametrize("d", [1, 2, 4, 5, 9])
def test_the_nearest_centroid_is_the_nearest(d):
    random = np.random.default_rng(d)
    points, centroids = random.standard_normal((200, d)), random.standard_normal((40, d))
    distances = ((points[:, None] - centroids) ** 2).sum(2)
    assert np.array_equal(nearest(points, centroids), distances.argmin(1))


def test_points_as_many_as_centroids_are_met_exactly_and_weights_count():
    points = np.repeat(np.random.default_rng(0).standard_normal((20, 3)), 5, axis=0)
    centroids = cluster(points, 64)
    assert len(centroids) == 20
    assert np.abs(points - centroids[nearest(points, centroids)]).max() < 1e-6
    weighted = cluster(np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0]]), 1, weights=np.array([1.0, 1.0, 6.0]))
    assert np.allclose(weighted, [[3.0, 0.0]])


@pytest.mark.parametrize("d", [1, 2, 4])
def test_each_bit_of_a_part_is_worth_six_decibels_by_its_elements(d):
    """High-rate theory: 6.02 / d dB per bit."""
    torch.manual_seed(0)
    values = torch.rand(3000, 8)
    coarse, fine = (encode_product(values, PartSetting(d, bits)) for bits in (4, 7))
    gain = 10 * np.log10(noise(values, coarse) / noise(values, fine))
    assert gain == pytest.approx(3 * 6.02 / d, rel=0.15)


@pytest.mark.parametrize("codebooks", ["shared", "position"])
@pytest.mark.parametrize("shape", [(50, 7), (50, 8), (300, 1), (40, 3, 3, 3), (1, 500)])
@pytest.mark.parametrize("part", [1, 2, 5])
def test_every_shape_decodes_to_itself_and_its_codebook_is_no_larger_than_its_codes(shape, part, codebooks):
    torch.manual_seed(0)
    values = torch.randn(shape)
    form = encode_product(values, PartSetting(part, 8, codebooks))
    decoded = decode_node(form)
    assert decoded.shape == values.shape
    assert noise(values, form) < float(values.square().mean())
    centroids, codes = form.parts["centroids"].values, form.parts["codes"]
    assert centroids.shape[-2] <= 2 or 32 * centroids.numel() <= 8 * len(codes.values)


def test_dimensions_of_unequal_spread_are_scaled_where_that_helps():
    torch.manual_seed(0)
    spread = torch.randn(800, 16) * torch.logspace(-1, 1, 16)
    off, on, auto = (noise(spread, encode_product(spread, PartSetting(2, 6), scaling=s)) for s in ("off", "on", "auto"))
    assert on < 0.8 * off
    assert auto == on
    assert "scale" not in encode_product(torch.randn(500, 8), PartSetting(2, 8)).parts


def small_and_large() -> dict[str, torch.Tensor]:
    """A first convolution and a head of a small network, too small for a codebook of pairs, and a table."""
    torch.manual_seed(0)
    return {"conv": torch.randn(16, 1, 3, 3), "head": torch.randn(10, 32), "table": torch.randn(3000, 16)}


def relative(values: torch.Tensor, decoded: torch.Tensor) -> float:
    return float((decoded - values).square().sum() / values.square().sum())


def test_tensors_too_small_for_a_codebook_have_smaller_parts_within_the_bound():
    state = small_and_large()
    forced, code = ProductQuant(most_error=1).encode(state), ProductQuant().encode(state)
    for name in ("conv", "head"):
        assert relative(state[name], forced.decode()[name]) > 0.2
        assert relative(state[name], code.decode()[name]) <= 0.05
        assert code.stored()[name].nbytes < state[name].numel() * 4 / 2
    assert torch.equal(forced.decode()["table"], code.decode()["table"])
    said = ProductQuant().departures(packed(state), code)
    assert said["conv"].startswith("1x")
    assert said["head"].startswith("1x")


def test_what_exceeds_the_bound_with_every_part_stays_as_it_is_and_is_named():
    state, stage = small_and_large(), ProductQuant(most_error=1e-3)
    before = packed(state)
    code = stage.encode(before)
    assert torch.equal(code.decode()["conv"], state["conv"])
    assert stage.departures(before, code)["conv"] == "as it was"
    with pytest.raises(InputError, match=r"codebooks that keep to most_error=0.001"):
        replace(stage, layers=("conv",)).encode(state)


def test_a_whole_codebook_is_never_held_back_by_its_error():
    values = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    stage, before = ProductQuant(8, 6), packed({"table": values})
    code = stage.encode(before)
    assert relative(values, code.decode()["table"]) > 0.3
    assert code.nodes["table"].parts["centroids"].values.shape == (64, 8)
    assert stage.departures(before, code) == {}


@pytest.mark.parametrize("scaling", ["on", "off"])
@pytest.mark.parametrize("codebooks", ["shared", "position"])
@pytest.mark.parametrize("shape", [(32, 64), (9, 1), (1, 9)])
def test_constant_weights_are_stored_and_read_again(shape, codebooks, scaling):
    values = torch.full(shape, 0.1)
    for part in (1, 2):
        form = encode_product(values, PartSetting(part, 8, codebooks), scaling=scaling)
        assert torch.allclose(decode_node(form), values, rtol=1e-6)
        numbers = [each.values for each in form.parts.values() if isinstance(each, Numbers)]
        assert all(each.stride() == torch.empty(each.shape).stride() for each in numbers)
        assert len(PackedCode({"weight": form}).to_bytes()) > 0


def test_rows_of_zeros_stay_zero():
    torch.manual_seed(0)
    values = torch.randn(300, 10) + 1
    values[[0, 17]] = 0
    for part in (1, 2, 4):
        for codebooks in ("shared", "position"):
            assert (decode_node(encode_product(values, PartSetting(part, 6, codebooks)))[[0, 17]] == 0).all()
    assert not decode_node(encode_product(torch.zeros(9, 9), PartSetting(2, 4))).any()


def test_rows_that_weigh_more_are_closer():
    torch.manual_seed(0)
    values = torch.randn(1000, 8)
    weights = np.where(np.arange(1000) < 50, 1000.0, 1.0)
    plain, weighted = (decode_node(encode_product(values, PartSetting(4, 6), weights=w)) for w in (None, weights))
    errors = [(decoded - values)[:50].square().mean() for decoded in (plain, weighted)]
    assert errors[1] < 0.5 * errors[0]


def test_the_stage_leaves_what_would_not_get_smaller():
    torch.manual_seed(0)
    state = {"table": torch.randn(500, 16), "small": torch.randn(2, 2), "bias": torch.randn(16)}
    code = ProductQuant(2, 8).encode(state)
    assert code.nodes["table"].kind == "product"
    assert isinstance(code.nodes["small"], Numbers)
    assert code.stored()["table"].bits == 4
    assert stored_bits(code.nodes["table"]) / 8 == pytest.approx(code.stored()["table"].nbytes, abs=150)
    assert code.nbytes < packed(state).nbytes / 4
    with pytest.raises(InputError, match=r"^product-quant makes none of the weights smaller"):
        ProductQuant(2, 8, layers=("small",)).encode(state)
    with pytest.raises(InputError, match=r"^importance 'uses' is found on training data"):
        ProductQuant(importance="uses").encode(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": 0}, "must be at least 1, got 0"),
        ({"bits": 17}, "must be from 1 to 16, got 17"),
        ({"most_error": 0.0}, r"\(most_error=...\) must be above 0, got 0.0"),
        ({"scaling": "yes"}, r"\(scaling=...\) must be one of auto, on, off, got 'yes'"),
        ({"importance": "love"}, r"\(importance=...\) must be one of equal, uses, outputs"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ProductQuant(**options)


def test_damaged_forms_are_refused():
    form = encode_product(torch.randn(300, 6), PartSetting(2, 4, "position"), scaling="on")
    for parts in (
        {"codes": Symbols(np.zeros(10, np.uint8), 16)},
        {"codes": Symbols(np.zeros(900, np.uint8), 64)},
        {"centroids": Numbers(torch.zeros(16))},
        {"centroids": Numbers(torch.zeros(2, 16, 2))},
        {"centroids": Numbers(torch.zeros(3, 16, 7))},
        {"centroids": Numbers(torch.zeros(3, 16, 2, dtype=torch.int64))},
        {"scale": Numbers(torch.zeros(5))},
    ):
        with pytest.raises(InputError):
            KINDS["product"].check(replace(form, parts={**form.parts, **parts}))
