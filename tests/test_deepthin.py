"""The stage deepthin and sizes for a budget: bytes that are kept to, biases, training that works, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_workshop import BlobShop, blob_net

from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import decode_node, packed
from ecc.stages.deepthin import DeepThin
from ecc.stages.hashed import Hashed
from ecc.stages.log_quant import LogQuant
from ecc.stages.multi_hash import MultiHash
from ecc.stages.nodes import Form
from ecc.stages.sizes import shared_out
from ecc.stages.svd import Svd
from ecc.stages.tuning import fitted


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(120, 80), "a.bias": torch.randn(120), "b.weight": torch.randn(16, 8, 3, 3),
        "b.bias": torch.zeros(400), "c.weight": torch.ones(50), "c.bias": torch.ones(300), "n": torch.arange(3),
    }  # fmt: skip


@pytest.mark.parametrize("share", [0.25, 0.4, 0.9])
def test_the_file_is_as_large_as_asked_and_hardly_smaller(share):
    limit = int(share * packed(state()).nbytes)
    code = DeepThin(nbytes=limit).encode(state())
    assert 0.93 * limit <= code.nbytes <= limit
    assert len(code.to_bytes()) == code.nbytes


def test_a_ratio_is_of_the_tensors_that_are_encoded():
    weights = state()
    code = DeepThin(ratio=10, layers=("a.weight",)).encode(weights)
    assert {name for name, node in code.nodes.items() if isinstance(node, Form)} == {"a.weight", "a.bias"}
    stored = code.stored()
    assert 0.9 * 39200 / 10 < stored["a.weight"].nbytes + stored["a.bias"].nbytes <= 1.01 * 39200 / 10
    for name in set(weights) - {"a.weight", "a.bias"}:
        assert torch.equal(code.decode()[name], weights[name])


def test_biases_of_the_encoded_modules_are_encoded_where_that_pays_and_on_request_not():
    weights = state()
    kinds = {name: isinstance(node, Form) for name, node in DeepThin(ratio=10).encode(weights).nodes.items()}
    assert kinds["b.bias"]
    assert not kinds["c.bias"]  # of a norm
    assert not isinstance(DeepThin(ratio=10, biases=False).encode(weights).nodes["b.bias"], Form)


def test_without_data_it_is_the_fit_and_zeros_stay_zeros():
    weights = state()
    decoded = DeepThin(ratio=3).encode(weights).decode()
    error = (decoded["a.weight"] - weights["a.weight"]).square().sum() / weights["a.weight"].square().sum()
    assert float(error) < 0.7  # random factors have an error of 2
    assert not decoded["b.bias"].any()


@pytest.mark.parametrize("start", ["fit", "random"])
def test_it_learns_where_plain_factors_of_as_many_bytes_cannot(start):
    shop = BlobShop()
    model = shop.trained()
    limit = 1250
    codes = [
        stage.encode(model.state_dict(), shop.workshop(model))
        for stage in (DeepThin(nbytes=limit, start=start, epochs=6, lr=1e-2), Svd(nbytes=limit, epochs=6, lr=1e-2))
    ]
    assert all(code.nbytes <= limit for code in codes)
    thin, plain = (shop.judge(fitted(model, code))[0] for code in codes)
    assert thin < plain


def test_zeros_can_be_trained():
    code = DeepThin(ratio=3, epochs=0).encode({"w.weight": torch.randn(40, 40), "w.bias": torch.zeros(900)})
    parts = code.nodes["w.bias"].parts
    assert parts["left"].values.any()
    assert not parts["right"].values.any()
    assert not decode_node(code.nodes["w.bias"]).any()


def test_the_same_seed_gives_the_same_factors():
    shop = BlobShop()
    model = shop.trained()
    first, again, other = (
        DeepThin(ratio=4, epochs=0, seed=seed).encode(model.state_dict(), shop.workshop(model)) for seed in (1, 1, 2)
    )
    assert first.to_bytes() == again.to_bytes() != other.to_bytes()


def test_factors_can_be_quantised():
    weights = {"w": torch.randn(64, 64)}
    code = DeepThin(ratio=4).encode(weights)
    coded = LogQuant(bits=8).encode(code)
    assert coded.nbytes < 0.4 * code.nbytes
    error = (coded.decode()["w"] - code.decode()["w"]).norm() / code.decode()["w"].norm()
    assert float(error) < 0.1


@pytest.mark.parametrize(("options", "message"), [
    ({"ratio": 1.0}, "a number above 1"), ({"nbytes": -1}, "be positive"), ({"start": "zero"}, "must be .fit., "),
    ({"epochs": -1}, "0 or more"), ({"lr": math.inf}, "positive"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DeepThin(**options)


def test_states_it_cannot_work_on_are_refused():
    with pytest.raises(InputError, match=r"nbytes=\d+ cannot be reached: .* takes \d+ bytes; give \d+ or more$"):
        DeepThin(nbytes=200).encode({"w": torch.randn(100, 100)})
    with pytest.raises(InputError, match=r"not finite and cannot be factored$"):
        DeepThin().encode({"w": torch.full((100, 100), math.inf)})
    with pytest.raises(InputError, match=r"apply it before other stages$"):
        DeepThin().encode(DeepThin().encode({"w": torch.randn(100, 100)}))
    assert isinstance(DeepThin(ratio=2).encode({"w": torch.randn(9, 9), "v": torch.randn(90, 90)}).nodes["v"], Form)


@pytest.mark.parametrize("stage", [DeepThin, Hashed, MultiHash, Svd])
@pytest.mark.parametrize("spare", [0, 1, 10**6])
def test_what_keeps_to_the_bytes_already_is_left_alone(stage, spare):
    shop = BlobShop()
    model = blob_net()
    there = packed(model.state_dict()).nbytes
    told = (
        rf"^stage {stage().name} finds a file of .* which is within .* already; ask for fewer or leave the stage out$"
    )
    with pytest.raises(NothingToDo, match=told):
        stage(nbytes=there + spare).encode(model.state_dict(), shop.workshop(model))
    if stage is not MultiHash:
        with pytest.raises(NothingToDo, match=told):
            stage(nbytes=there + spare).encode(model.state_dict())


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 40))
@settings(deadline=None)
def test_shares_are_equal_and_spend_what_there_is(elements, share, least):
    sizes = {str(i): count for i, count in enumerate(elements)}

    def spent(floats: dict[str, int]) -> int:
        return sum(max(each, min(least, sizes[name])) for name, each in floats.items())

    low = spent(dict.fromkeys(sizes, 1))
    limit = low + share * (sum(elements) - low)
    found = shared_out(sizes, limit, spent)
    assert spent(found) <= limit
    assert all(1 <= each <= sizes[name] for name, each in found.items())
    free = {name: each for name, each in found.items() if 1 < each < sizes[name]}
    if free:
        smallest = min((each + 1) / sizes[name] for name, each in free.items())
        assert max(each / sizes[name] for name, each in free.items()) <= smallest * (1 + 1e-9)
    assert spent({name: min(each + 2, sizes[name]) for name, each in found.items()}) > limit or spent(found) == sum(
        elements
    )
