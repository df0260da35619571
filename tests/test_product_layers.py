"""Layers that run from factors: equal to the layers of the decoded weights, trainable, put into networks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.stages.code import packed
from ecc.stages.deepthin import DeepThin
from ecc.stages.half import Half
from ecc.stages.layers.hashed_layers import hashed_linear
from ecc.stages.layers.modules import ProductConv2d, ProductEmbedding, ProductLinear, deepthin_linear, factored_linear
from ecc.stages.layers.products import FactorProduct
from ecc.stages.layers.recurrent import ProductRecurrent
from ecc.stages.layers.relaid_products import RelaidProduct
from ecc.stages.layers.swapping import swap_layers
from ecc.stages.nodes import Numbers
from ecc.stages.relayout import Relayout
from ecc.stages.svd import Svd, SvdSetting
from ecc.stages.tuning import fitted
from ecc.zoo.acoustic import gru_acoustic, lstm_acoustic

SIDES = st.integers(1, 40)


@given(
    SIDES, SIDES, st.integers(1, 60), st.integers(1, 3), st.integers(1, 5), st.sampled_from(["blocks", "correlation"])
)
@settings(deadline=None, max_examples=200)
@torch.no_grad()
def test_products_laid_anew_are_those_of_the_whole_weight(outputs, inputs, columns, rank, batch, way):
    columns = min(columns, outputs * inputs)
    layout = Relayout(outputs, inputs, columns, rank)
    torch.manual_seed(columns)
    left, right = torch.randn(layout.rows, rank).double(), torch.randn(rank, columns).double()
    product = RelaidProduct(left, right, (outputs, inputs), way=way)
    x = torch.randn(batch, inputs).double()
    assert torch.allclose(product(x), x @ product.weight().T, atol=1e-10)
    index = torch.randint(outputs, (2, 3))
    assert torch.allclose(product.rows(index), product.weight()[index], atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("way", ["blocks", "correlation", "auto"])
def test_several_blocks_and_parts_of_a_batch_fit_together(way, monkeypatch):
    monkeypatch.setattr("ecc.stages.layers.relaid_products._BLOCK", 700)
    monkeypatch.setattr("ecc.stages.layers.relaid_products._MOST_CORRELATIONS", 900)
    product = RelaidProduct.drawn(150, 130, 1500, generator=torch.Generator().manual_seed(0))
    product.way = way
    x = torch.randn(2, 5, 130)
    wanted = F.linear(x, product.weight())
    assert float((product(x) - wanted).abs().max()) < 2e-6 * float(wanted.abs().max()) * 10
    assert product(x[:0]).shape == (0, 5, 150)


@torch.no_grad()
def test_a_change_of_the_factors_is_seen():
    product = RelaidProduct.drawn(30, 40, 150, generator=torch.Generator().manual_seed(0))
    product.way = "correlation"
    x = torch.randn(1, 40)
    before = product(x)
    product.left.mul_(2)
    assert torch.allclose(product(x), 2 * before, rtol=1e-4, atol=1e-6)
    product.load_state_dict({"left": product.left / 2, "right": product.right * 3})
    assert torch.allclose(product(x), 3 * before, rtol=1e-4, atol=1e-6)
    product.right.data.mul_(2)  # which no counter of versions sees
    assert torch.allclose(product(x), 6 * before, rtol=1e-4, atol=1e-6)
    assert torch.allclose(product.double()(x.double()), 6 * before.double(), rtol=1e-4, atol=1e-6)


def test_factors_made_for_inference_alone_are_taken():
    with torch.inference_mode():
        product = RelaidProduct.drawn(30, 40, 150, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    product.way = "correlation"
    x = torch.randn(2, 40)
    torch.testing.assert_close(product(x), F.linear(x, product.weight()), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        product.left.mul_(2)
    torch.testing.assert_close(product(x), F.linear(x, product.weight()), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("way", ["blocks", "correlation"])
def test_a_product_laid_anew_is_exported_and_run_without_data(way):
    product = RelaidProduct.drawn(30, 40, 150, generator=torch.Generator().manual_seed(0))
    product.way = way
    x = torch.randn(2, 40)
    found = torch.export.export(product, (x,)).module()(x)
    torch.testing.assert_close(found, F.linear(x, product.weight()), rtol=1e-4, atol=1e-5)
    assert product.to("meta")(x.to("meta")).shape == (2, 30)


MADE = {
    "factors": lambda: FactorProduct.drawn(96, 32, 4),
    "blocks of factors": lambda: FactorProduct(torch.randn(3, 32, 2) / 4, torch.randn(3, 2, 32) / 4),
    "laid anew": lambda: RelaidProduct.drawn(96, 32, 400),
    "hashed": lambda: hashed_linear(32, 96, 300).product,
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", MADE)
def test_under_autocast_layers_give_the_types_of_their_dense_ones(kind, trained):
    torch.manual_seed(0)
    product = MADE[kind]()
    linear, embedding = ProductLinear(product, torch.randn(96)), ProductEmbedding(product)
    gru, lstm = (cls(32, width) for cls, width in ((nn.GRU, 32), (nn.LSTM, 24)))
    recurrent = [ProductRecurrent(each, {"weight_ih_l0": product}) for each in (gru, lstm)]
    x, index = torch.randn(3, 5, 32), torch.tensor([[4, 0, 4]])
    with torch.set_grad_enabled(trained):
        wanted = [linear(x), embedding(index), *(each(x)[0] for each in recurrent)]
        dense = [nn.Linear(32, 96), nn.Embedding(96, 32), gru, lstm]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [linear(x), embedding(index), *(each(x)[0] for each in recurrent)]
            types = [(each(index if i == 1 else x)[0]).dtype for i, each in enumerate(dense)]
    assert [each.dtype for each in found] == types
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 3])
def test_products_of_factors_are_those_of_the_whole_weight(blocks):
    lead = (blocks,) if blocks > 1 else ()
    product = FactorProduct(torch.randn(*lead, 4, 2), torch.randn(*lead, 2, 7))
    x = torch.randn(2, 5, 7)
    assert torch.allclose(product(x), F.linear(x, product.weight()), atol=1e-5)
    index = torch.randint(4 * blocks, (6,))
    assert torch.allclose(product.rows(index), product.weight()[index], atol=1e-6)


@pytest.mark.parametrize("made", [lambda g: factored_linear(20, 30, 4, generator=g),
                                  lambda g: deepthin_linear(20, 30, 200, generator=g)])  # fmt: skip
def test_layers_from_scratch_have_the_variance_of_a_linear_layer_and_learn(made):
    layer = made(torch.Generator().manual_seed(0))
    assert isinstance(layer, ProductLinear)
    assert float(layer.weight.detach().var()) == pytest.approx(1 / 60, rel=0.4)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    x, target = torch.randn(64, 20), made(torch.Generator().manual_seed(7))(torch.zeros(1, 20)).detach() + 1
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]


def test_gradients_are_those_through_the_whole_weight():
    product = RelaidProduct.drawn(9, 14, 60, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(3, 14).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, left, right: torch.func.functional_call(
        product, {"left": left, "right": right}, (x,)), (x, product.left, product.right))  # fmt: skip


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24, padding_idx=0)
        self.conv = nn.Conv2d(1, 20, (3, 24), padding=(1, 0), padding_mode="circular")
        self.grouped = nn.Conv2d(20, 40, (3, 1), groups=2, stride=(2, 1))
        self.lstm = nn.LSTM(40, 36, batch_first=True)
        self.stacked = nn.GRU(36, 20, num_layers=2)
        self.decoder = nn.Linear(20, 24)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)[:, None]
        x = self.grouped(self.conv(x).relu())[..., 0].mT
        x, _ = self.lstm(x)
        x, _ = self.stacked(x.transpose(0, 1))
        return self.head(self.decoder(x).tanh())


@pytest.mark.parametrize("stage", [Svd(ratio=2), Svd(ratio=2, gates="each"), DeepThin(ratio=4)],
                         ids=["svd", "gates", "deepthin"])  # fmt: skip
@torch.no_grad()
def test_a_network_with_swapped_layers_is_the_decoded_one(stage):
    torch.manual_seed(0)
    model, ids = Mixed().eval(), torch.randint(50, (3, 17))
    code = stage.encode(model.state_dict())
    if stage.name == "svd":
        plain = {
            name: SvdSetting(4) for name in ("embedding.weight", "conv.weight", "grouped.weight", "lstm.weight_hh_l0")
        }
        code = stage.encode(model.state_dict(), chosen=plain)
    for each in (code, Half().encode(code)):
        swapped, decoded = swap_layers(model, each), fitted(model, each)
        assert torch.allclose(swapped(ids), decoded(ids), atol=2e-5)
        assert isinstance(swapped.embedding, ProductEmbedding)
        assert isinstance(swapped.conv, ProductConv2d)
        assert isinstance(swapped.lstm, ProductRecurrent)
        assert swapped.head.product is swapped.embedding.product
    assert isinstance(model.embedding, nn.Embedding)
    weight = swapped.conv.weight
    assert torch.allclose(weight, decoded.conv.weight, atol=1e-6)


@pytest.mark.parametrize("network", [gru_acoustic, lstm_acoustic])
def test_recurrent_layers_agree_in_every_form_of_input_and_in_training(network):
    torch.manual_seed(0)
    model = network(features=12, width=24, layers=1)
    code = Svd(ratio=2).encode(model.state_dict())
    layer, wanted = swap_layers(model, code).layers[0], fitted(model, code).layers[0]
    assert isinstance(layer, ProductRecurrent)
    x = torch.randn(2, 6, 12)
    with torch.no_grad():
        first, state = wanted(x)
        for given, hx in ((x, None), (x, state), (x[0], None), (x[0], _first(state))):
            (outputs, last), (expected, after) = layer(given, hx), wanted(given, hx)
            assert torch.allclose(outputs, expected, atol=1e-5)
            pairs = zip(last, after, strict=True) if isinstance(last, tuple) else [(last, after)]
            assert all(torch.allclose(a, b, atol=1e-5) and a.shape == b.shape for a, b in pairs)
    outputs, _ = layer(x)
    assert torch.allclose(outputs, first, atol=1e-5)
    outputs.sum().backward()
    assert all(each.grad is not None for each in layer.products.parameters())
    with pytest.raises(InputError, match=r"takes a tensor, not a packed sequence$"):
        layer(nn.utils.rnn.pack_sequence([x[0]]))


def _first(state):
    return tuple(each[:, 0] for each in state) if isinstance(state, tuple) else state[:, 0]


def test_what_cannot_be_swapped_is_refused():
    model = nn.Sequential(nn.Linear(30, 30))
    with pytest.raises(InputError, match=r"^swap_layers finds no layer whose weight is stored as factors"):
        swap_layers(model, packed(model.state_dict()))
    code = Svd(ratio=2).encode(model.state_dict())
    with pytest.raises(InputError, match=r"^the code is not that of the network"):
        swap_layers(nn.Sequential(nn.Linear(30, 31)), code)
    with pytest.raises(InputError, match=r"do not fill shape"):
        RelaidProduct(torch.zeros(4, 1), torch.zeros(1, 5), (6, 6))
    with pytest.raises(InputError, match=r"from 1 to 3 here, got 4$"):
        factored_linear(3, 5, 4)
    with pytest.raises(InputError, match=r"one layer and direction"):
        ProductRecurrent(nn.LSTM(3, 4, num_layers=2), {"weight_hh_l0": FactorProduct.drawn(16, 4, 1)})
    alone = replace(code, nodes={name.removeprefix("0."): node for name, node in code.nodes.items()})
    assert isinstance(swap_layers(nn.Linear(30, 30), alone), ProductLinear)


def test_layers_with_hooks_stay_and_layers_of_two_names_stay_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    model[0].register_forward_hook(lambda _, __, found: 2 * found)
    code, x = Svd(ratio=4).encode(model.state_dict()), torch.randn(3, 32)
    swapped = swap_layers(model, code)
    assert type(swapped[2]) is ProductLinear
    assert type(swapped[0]) is nn.Linear
    torch.testing.assert_close(swapped(x), fitted(model, code)(x))
    shared = nn.Linear(32, 32)
    twice = nn.ModuleDict({"a": shared, "b": shared})
    swapped = swap_layers(twice, Svd(ratio=2).encode(twice.state_dict()))
    assert swapped["a"] is swapped["b"]


def test_padding_takes_no_part_in_training():
    table = nn.Embedding(50, 8, padding_idx=0)
    swapped = swap_layers(nn.Sequential(table), Svd(ratio=2).encode(nn.Sequential(table).state_dict()))
    optimiser = torch.optim.SGD(swapped.parameters(), lr=0.5)
    for _ in range(3):
        swapped(torch.arange(50))[..., :3].square().sum().backward()
        optimiser.step()
    padding, word = swapped(torch.arange(2)).detach().abs().amax(1)
    assert padding < 1e-3 < word


def test_weights_that_no_rank_makes_smaller_are_refused():
    model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 1))
    with pytest.raises(InputError, match="svd makes none of the weights smaller"):
        Svd().encode(model.state_dict())


def test_states_of_another_batch_and_rows_that_are_not_there_are_refused():
    model = nn.Sequential(nn.GRU(16, 32))
    swapped = swap_layers(model, Svd(ratio=2).encode(model.state_dict()))
    with torch.no_grad(), pytest.raises(InputError, match="a state has shape"):
        swapped[0](torch.randn(5, 3, 16), torch.zeros(1, 1, 32))
    rows = ProductEmbedding(deepthin_linear(8, 30, 60).product)
    with pytest.raises(InputError, match="are asked for of 30"):
        rows(torch.tensor([-1]))


@pytest.mark.parametrize("width", [0, 1, 31, 33, 64])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "not trained"])
@pytest.mark.parametrize(
    "product",
    [
        factored_linear(32, 24, 3).product,
        FactorProduct(torch.randn(2, 12, 3), torch.randn(2, 3, 32)),
        *(
            RelaidProduct(torch.randn(26, 2), torch.randn(2, 30), (24, 32), way=way)
            for way in ("auto", "blocks", "correlation")
        ),
        hashed_linear(32, 24, 100).product,
    ],
)
def test_products_refuse_inputs_of_another_width(product, trained, width):
    for x in (torch.ones(2, width), torch.ones(width), torch.ones(2, 3, width), torch.ones(())):
        with torch.set_grad_enabled(trained), pytest.raises(InputError, match=r"have shape \(…, 32\), got"):
            ProductLinear(product)(x)


@pytest.mark.parametrize("sizes", [(20, 30, 2.5), (0, 20, 5), (20, 0, 5), (20, 30, None), (20, 30, 0)], ids=str)
@pytest.mark.parametrize("make", [factored_linear, deepthin_linear])
def test_sizes_that_are_none_are_refused(make, sizes):
    with pytest.raises(InputError, match="must be a whole number of at least 1, got"):
        make(*sizes)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (2, 2), (1, 1), (7, 1), (6, 35), (12, 30), (30, 30)])
def test_a_layer_laid_anew_keeps_to_its_floats_and_the_least_is_named(inputs, outputs):
    columns = range(1, inputs * outputs + 1)
    least = min(
        layout.floats for each in columns
        if math.gcd(each, inputs) == 1 and (layout := Relayout(outputs, inputs, each, 1))
    )  # fmt: skip
    for floats in range(1, least):
        with pytest.raises(InputError, match=f"takes {least} floats at least, and {floats} are allowed"):
            deepthin_linear(inputs, outputs, floats)
    for floats in range(least, least + 20):
        product = deepthin_linear(inputs, outputs, floats).product
        assert sum(each.numel() for each in product.parameters()) <= floats


def test_layers_from_scratch_follow_the_seed_and_leave_it_to_the_caller():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([deepthin_linear(8, 9, 40).weight, torch.randn(4)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)


STAYING = {
    "Conv1d": (lambda: nn.Conv1d(16, 24, 3), "weight"),
    "Conv3d": (lambda: nn.Conv3d(8, 24, 3), "weight"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(24, 16, 3), "weight"),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(40, 24), "weight"),
    "Bilinear": (lambda: nn.Bilinear(20, 20, 24), "weight"),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(24, 2), "in_proj_weight"),
}


@pytest.mark.parametrize("kind", STAYING)
def test_a_layer_that_stays_is_named_with_its_type(kind):
    make, weight = STAYING[kind]
    model = nn.ModuleDict({"part": make()})
    code = packed_as_factors(model, f"part.{weight}")
    with pytest.raises(
        InputError, match=rf"part\.{weight} stays decoded, as there is no such form of its layer, {kind}$"
    ):
        swap_layers(model, code)


def packed_as_factors(model, name):
    form = Svd(ratio=2).encode(nn.Sequential(nn.Linear(30, 30)).state_dict()).nodes["0.weight"]
    shape = tuple(model.state_dict()[name].shape)
    left, right = torch.randn(shape[0], 2), torch.randn(2, math.prod(shape[1:]))
    parts = {"left": Numbers(left), "right": Numbers(right)}
    code = packed(model.state_dict())
    return replace(code, nodes={**code.nodes, name: replace(form, shape=shape, parts=parts)})


def test_why_other_layers_stay_is_said():
    held = nn.ModuleDict({"part": nn.Embedding(40, 24, max_norm=1.0)})
    with pytest.raises(InputError, match="stays decoded, as its layer, Embedding, has max_norm"):
        swap_layers(held, packed_as_factors(held, "part.weight"))
    two = nn.ModuleDict({"part": nn.GRU(24, 24, num_layers=2)})
    with pytest.raises(InputError, match="its layer, GRU, has several layers, two directions or projections"):
        swap_layers(two, packed_as_factors(two, "part.weight_ih_l0"))
    hooked = nn.Sequential(nn.Linear(24, 24))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="its layer, Linear, has hooks"):
        swap_layers(hooked, packed_as_factors(hooked, "0.weight"))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (nn.Sequential(nn.Linear(30, 31)), r"its '0\.weight' has shape \(30, 30\), and \(31, 30\) is needed"),
        (nn.Sequential(*(nn.Linear(30, 30) for _ in range(9))), r"it has no '1\.weight'"),
        (nn.Sequential(nn.Linear(30, 30, bias=False)), r"the network has no '0\.bias'"),
    ],
)
def test_the_code_of_another_network_is_refused_in_one_sentence(other, told):
    code = packed(nn.Sequential(nn.Linear(30, 30)).state_dict())
    with pytest.raises(InputError, match=rf"^the code is not that of the network: {told}; give the network whose"):
        swap_layers(other, code)
    with pytest.raises(InputError, match=r"^a code must be what ecc\.stage gave as result\.code, got NoneType$"):
        swap_layers(other, None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", ["auto", "blocks", "correlation"])
@torch.no_grad()
def test_a_layer_laid_anew_is_traced_for_every_batch(way):
    product = RelaidProduct(torch.randn(26, 2), torch.randn(2, 30), (24, 32), way=way)
    traced = torch.jit.trace(product, torch.randn(3, 32))
    for x in (torch.randn(5, 32), torch.randn(2, 3, 32)):
        torch.testing.assert_close(traced(x), product(x), rtol=1e-4, atol=1e-5)
