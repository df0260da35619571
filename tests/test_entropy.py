from __future__ import annotations

import pytest
import torch

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, packed
from ecc.stages.codebook import Codebook
from ecc.stages.coders.registry import CODERS
from ecc.stages.container import read
from ecc.stages.entropy import Entropy, Huffman, least_bytes
from ecc.stages.half import Half
from ecc.stages.half_precision import HalfPrecision
from ecc.stages.nodes import Form, Numbers, Symbols, leaves
from ecc.stages.sparse_index import sparse_form


def state(density: float, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(120, 150, generator=generator)
    weight[torch.rand(120, 150, generator=generator) > density] = 0
    return {"a.weight": weight, "a.bias": torch.randn(120, generator=generator), "steps": torch.tensor(3)}


def streams(code: PackedCode) -> list[Symbols]:
    return [leaf for node in code.nodes.values() for _, leaf in leaves(node) if isinstance(leaf, Symbols)]


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.8])
def test_each_coder_is_without_loss_and_none_the_worse(density):
    coded = packed(Codebook(bits=5, epochs=0).encode(state(density)))
    huffman, entropy = Huffman().encode(coded), Entropy().encode(coded)
    assert entropy.nbytes <= 1.002 * min(huffman.nbytes, coded.nbytes)
    assert huffman.nbytes < (1.02 if density < 0.1 else 0.97) * coded.nbytes  # a table, for 360 entries
    for code in (huffman, entropy):
        assert sum(each.nbytes for each in code.stored().values()) < code.nbytes
        for name, tensor in PackedCode(*read(code.to_bytes())).decode().items():
            assert torch.equal(tensor, coded.decode()[name])


def test_the_coder_of_each_stream_is_the_one_of_the_fewest_bytes():
    coded = Entropy().encode(Codebook(bits=5, epochs=0).encode(state(0.1)))
    for leaf in streams(coded):
        sizes = {name: len(coder.encode(leaf.values, leaf.size)) for name, coder in CODERS.items()}
        assert sizes[leaf.coder] == min(sizes.values())
    few = Symbols(torch.arange(16, dtype=torch.uint8).numpy(), 16)
    assert least_bytes(few).coder == "packed"


def test_patterns_name_the_tensors():
    coded = packed(Codebook(bits=5, epochs=0).encode({**state(0.1), "b.weight": state(0.1, 1)["a.weight"]}))
    found = Huffman(layers=("b.*",)).encode(coded)
    assert [leaf.coder for leaf in streams(found)] == ["packed", "packed", "huffman", "huffman"]
    with pytest.raises(InputError, match=r"layers 'c\.\*' name no tensor of the state; it has a.weight"):
        Entropy(layers=("c.*",)).encode(coded)


def test_floats_stay_as_they_are():
    plain = packed(state(0.9))
    assert Entropy().encode(plain).to_bytes() == plain.to_bytes()
    with pytest.raises(InputError, match="finds no codes in the state; prune or quantise it first"):
        Huffman().encode(plain)


def test_half_rounds_to_eleven_bits_and_takes_half():
    plain = state(0.9)
    code = Half().encode(plain)
    assert code.nbytes < 0.51 * packed(plain).nbytes
    found = code.decode()
    assert found["a.weight"].dtype == torch.float32
    assert torch.equal(found["a.weight"], plain["a.weight"].half().float())
    assert torch.equal(found["steps"], plain["steps"])
    assert code.stored()["a.weight"].bits == 16.0
    with pytest.raises(InputError, match="finds no floats of 32 or 64 bits"):
        Half().encode(code)


def test_half_goes_into_codebooks_and_sparse_values():
    coded = packed(Codebook(bits=5, epochs=0).encode(state(0.1)))
    small = Half(layers=("a.weight",)).encode(coded)
    assert coded.nbytes - small.nbytes > 40
    assert torch.allclose(small.decode()["a.weight"], coded.decode()["a.weight"], rtol=2**-11)
    sparse = PackedCode({"w": sparse_form(state(0.1)["a.weight"])})
    assert Half().encode(sparse).stored()["w"].bits == 16.0


@pytest.mark.parametrize("values", [[1e6, 1.0], [1e-9, 2e-9], [float("inf"), 1.0], [float("nan"), 1.0]], ids=str)
def test_half_leaves_what_16_bits_cannot_hold(values):
    code = Half().encode({"a": torch.tensor(values), "b": torch.ones(2)})
    assert isinstance(code.nodes["a"], Numbers)
    assert isinstance(code.nodes["b"], Form)


def test_half_trains_through_its_decoding():
    values = torch.ones(3, dtype=torch.float16, requires_grad=True)
    form = Form("half", (3,), torch.float32, {}, {"values": Numbers(values.detach())})
    HalfPrecision().check(form)
    HalfPrecision().decode(form, {"values": values}).sum().backward()
    assert torch.equal(values.grad, torch.ones(3, dtype=torch.float16))


@pytest.mark.parametrize(
    "form",
    [
        Form("half", (3,), torch.float32, {}, {}),
        Form("half", (3,), torch.float32, {"a": 1}, {"values": Numbers(torch.ones(3).half())}),
        Form("half", (4,), torch.float32, {}, {"values": Numbers(torch.ones(3).half())}),
        Form("half", (3,), torch.int32, {}, {"values": Numbers(torch.ones(3).half())}),
        Form("half", (3,), torch.float32, {}, {"values": Numbers(torch.ones(3, dtype=torch.int8))}),
    ],
    ids=range(5),
)
def test_a_half_form_that_is_none_is_refused(form):
    with pytest.raises(InputError, match="form of kind half"):
        HalfPrecision().check(form)
