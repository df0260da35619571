"""Layers with hashed weights: the same as with the weight itself, forward and backward, without ever holding it."""

from __future__ import annotations

import copy

import pytest
import torch
from stage_workshop import BlobShop, blob_net
from torch import nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.stages.hashed import Hashed
from ecc.stages.hashing import HashKey
from ecc.stages.layers import hashed_layers
from ecc.stages.layers.hashed_layers import HashedProduct, MultiHashProduct, Space, hashed_linear
from ecc.stages.layers.modules import ProductEmbedding, ProductLinear
from ecc.stages.layers.swapping import swap_layers
from ecc.stages.multi_hash import MultiHash
from ecc.stages.tuning import fitted


def products():
    torch.manual_seed(0)
    yield HashedProduct(torch.randn(31), (20, 15), HashKey(1, 15, 31), empty=torch.tensor([0, 7]))
    yield MultiHashProduct.drawn(Space(torch.randn(31)), (20, 15), 0.2, hashes=3, run=4, salt=2)


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_a_product_some_rows_at_a_time_is_that_with_the_weight(number, monkeypatch):
    monkeypatch.setattr(hashed_layers, "_BLOCK", 40)
    product, whole = list(products())[number], list(products())[number]
    whole.whole = True
    results = []
    for each in (product, whole):
        x = torch.linspace(-1, 1, 45).reshape(3, 15).requires_grad_()
        y = each(x)
        (y * torch.arange(20.0)).sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in each.parameters())])
    assert torch.allclose(results[0][0], F.linear(x, whole.weight()), atol=1e-6)
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(product(x), y, atol=1e-6)


def test_training_in_blocks_keeps_no_weight_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(hashed_layers, "_BLOCK", 1000)
    product = HashedProduct(torch.randn(50), (400, 100), HashKey(1, 100, 50))
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        product(torch.randn(2, 100, requires_grad=True))
    assert sum(kept) < 400 * 100 / 2


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_an_embedding_makes_the_rows_that_are_asked_for(number, monkeypatch):
    product = list(products())[number]
    table = product.weight().detach()
    asked: list[int] = []
    made = product.made
    monkeypatch.setattr(product, "made", lambda index: asked.append(len(index)) or made(index))
    index = torch.tensor([[3, 3, 19], [0, 7, 3]])
    assert torch.equal(ProductEmbedding(product)(index), F.embedding(index, table))
    assert asked == [4 * 15]
    with pytest.raises(InputError, match=r"rows 3 to 20 are asked for of a weight of 20"):
        product.rows(torch.tensor([3, 20]))


def test_rows_that_are_empty_are_zero():
    table = next(products()).weight()
    assert table.any(1).tolist() == [row not in (0, 7) for row in range(20)]


def test_a_network_swapped_runs_as_the_decoded_one_and_its_layers_read_one_space():
    shop = BlobShop()
    model = blob_net()
    for stage in (Hashed(ratio=4), MultiHash(ratio=4, epochs=1)):
        code = stage.encode(model.state_dict(), shop.workshop(model))
        swapped, decoded = swap_layers(model, code), fitted(model, code)
        x = torch.randn(7, 12)
        assert torch.allclose(swapped(x), decoded(x), atol=1e-5)
    assert swapped[0].product.space is swapped[3].product.space
    assert sum(each.numel() for each in swapped.parameters()) < sum(each.numel() for each in model.parameters()) / 2


def test_recurrent_layers_run_from_hashed_matrices():
    model = nn.GRU(12, 20)
    code = Hashed(ratio=4).encode(model.state_dict())
    x = torch.randn(5, 2, 12)
    assert torch.allclose(swap_layers(model, code)(x)[0], fitted(model, code)(x)[0], atol=1e-5)


def test_a_layer_is_trained_from_scratch_to_what_a_dense_one_reaches():
    shop = BlobShop()
    torch.manual_seed(0)
    model = nn.Sequential(hashed_linear(12, 40, 60, salt=0), nn.ReLU(), hashed_linear(40, 5, 30, salt=1))
    shop.train(model, epochs=6, lr=1e-2, phase="hashed")
    assert shop.judge(model)[1] > 0.9


def test_a_drawn_weight_has_the_deviation_that_was_asked_for():
    product = MultiHashProduct.drawn(
        Space(torch.randn(5000)), (300, 200), 0.3, generator=torch.Generator().manual_seed(0)
    )
    assert float(product.weight().detach().std()) == pytest.approx(0.3, rel=0.05)


def test_parts_that_do_not_agree_are_refused():
    with pytest.raises(InputError, match="make no hashed weight of shape"):
        HashedProduct(torch.randn(30), (20, 15), HashKey(1, 15, 31))
    with pytest.raises(InputError, match="make no weight of shape"):
        MultiHashProduct(
            Space(torch.zeros(9)), torch.zeros(4, 4), torch.zeros(3), (2, 3), HashKey(1, 3, 8, 2), unit=1.0, scale=1.0
        )
    with pytest.raises(InputError, match=r"must be a vector with elements, got shape \(0,\)"):
        Space(torch.zeros(0))


def test_a_network_that_takes_more_memory_with_some_layers_swapped_is_named(caplog):
    shop = BlobShop()
    model = blob_net(hidden=60)
    code = MultiHash(ratio=1.5, epochs=1).encode(model.state_dict(), shop.workshop(model))
    swap_layers(model, code)
    assert not caplog.messages
    hooked = copy.deepcopy(model)
    hooked[0].register_forward_hook(lambda *_: None)
    swapped = swap_layers(hooked, code)
    assert type(swapped[0]) is nn.Linear
    sizes = [sum(each.nbytes for each in (*net.parameters(), *net.buffers())) for net in (swapped, model)]
    assert sizes[0] > sizes[1]
    assert caplog.messages == [
        f"the network takes more memory with its layers swapped, {sizes[0]:,} bytes for {sizes[1]:,}, as 0.weight stay "
        "whole; run it as it is decoded where memory counts"
    ]


def drawn_products(seed, salt=None):
    torch.manual_seed(seed)
    return [
        hashed_linear(15, 20, 31, bias=False, salt=salt).product,
        MultiHashProduct.drawn(Space(torch.randn(31)), (20, 15), 0.2, hashes=3, run=4, salt=salt),
    ]


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_each_layer_draws_another_salt_and_a_seed_the_same(number):
    one, other, again = drawn_products(0)[number], drawn_products(1)[number], drawn_products(0)[number]
    assert one.key.salt != other.key.salt
    assert one.key == again.key
    assert torch.equal(one.weight(), again.weight())
    assert drawn_products(0, salt=5)[number].key.salt == 5


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_a_state_restores_what_is_computed(number):
    one, other = drawn_products(0)[number], drawn_products(1)[number]
    assert not torch.equal(one.weight(), other.weight())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weight(), other.weight())
    assert torch.equal(copy.deepcopy(one.half().float()).weight(), one.weight())
    empty = copy.deepcopy(one).to("meta")
    empty.load_state_dict(one.state_dict(), assign=True)
    assert empty.key == one.key


def test_a_state_with_another_run_or_other_factors_or_a_published_hash_is_restored_too():
    torch.manual_seed(0)
    space = Space(torch.randn(31))
    one, other = (MultiHashProduct.drawn(space, (20, 15), size, run=run) for size, run in ((0.2, 4), (0.7, 1)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weight(), other.weight())
    published = HashedProduct(torch.randn(31), (20, 15), HashKey(0, 15, 31, published="W"))
    mixed = HashedProduct(torch.randn(31), (20, 15), HashKey(3, 15, 31))
    mixed.load_state_dict(published.state_dict())
    assert torch.equal(published.weight(), mixed.weight())


def test_a_state_of_a_layer_with_empty_rows_is_not_that_of_one_without():
    one, other = HashedProduct(torch.randn(31), (20, 15), HashKey(1, 15, 31)), next(iter(products()))
    with pytest.raises(RuntimeError, match="filled"):
        one.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="filled"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
@pytest.mark.parametrize(
    "made",
    [
        lambda layer, x: torch.export.export(layer, (x,)).module(),
        lambda layer, x: torch.export.export(layer, (x,), strict=True).module(),
        torch.jit.trace,
        lambda layer, x: torch.compile(layer, backend="eager", fullgraph=True),
    ],
    ids=["exported", "exported strictly", "traced", "compiled"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_layers_are_compiled_exported_and_traced(made, number):
    product = list(products())[number]
    x, index = torch.randn(3, 15), torch.tensor([[3, 0, 19], [7, 7, 2]])
    layer, table = ProductLinear(product, torch.randn(20)), ProductEmbedding(product)
    torch.testing.assert_close(made(layer, x)(x), layer(x))
    torch.testing.assert_close(made(table, index)(index), table(index))


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_what_is_compiled_is_trained_as_the_layer_is(number):
    one, other = list(products())[number], list(products())[number]
    x = torch.randn(3, 15)
    one(x).square().sum().backward()
    torch.compile(other, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1], ids=["hashed", "multi-hash"])
def test_layers_run_without_data(number):
    product = list(products())[number].to("meta")
    assert product(torch.ones(3, 15, device="meta")).shape == (3, 20)
    assert ProductEmbedding(product)(torch.ones(2, 3, dtype=torch.int64, device="meta")).shape == (2, 3, 15)


@pytest.mark.parametrize("sizes", [(8, 4, -5), (8, 4, 2.5), (8, 4, 0), (0, 4, 5), (8, "4", 5), (8, 4, True)], ids=str)
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(InputError, match="must be a whole number of at least 1, got"):
        hashed_linear(*sizes)
