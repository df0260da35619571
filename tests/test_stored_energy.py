"""Energy of weights in fewer bits: today's figures at the reference bits, and counts bit by bit by loops."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from ecc.core.code import Stored
from ecc.core.errors import InputError
from ecc.energy_models.systolic.account import layer_energy
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.energy_models.systolic.layers import layers_of
from ecc.energy_models.systolic.stored_weights import stored_words
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS

SMALL = SystolicArray(name="small", rows=3, columns=2, input_cache=900, weight_cache=8)


def _network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    inputs = torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_((torch.rand_like(parameter) < 0.6).float())
    return model, trace(model, inputs)


def _as_words(model, array):
    """Each tensor's weights that are not zero as words of the array, and nothing else."""
    return {
        name: Stored(each.numel(), kept := int(each.count_nonzero()), array.bits, kept * array.bits // 8)
        for name, each in model.named_parameters()
        if each.ndim > 1
    }


@pytest.mark.parametrize("array", [SystolicArray(), SMALL, replace(SMALL, e_multiply=0.5), replace(SMALL, bits=8)])
def test_words_of_the_array_and_no_index_cost_what_they_did(array):
    model, graph = _network()
    before = systolic_energy(model, graph, array)
    after = systolic_energy(model, graph, array, stored=_as_words(model, array))
    for old, new in zip(before.layers, after.layers, strict=True):
        for part in ("mac", "weights", "inputs", "outputs", "total", "relaxed", "fixed"):
            assert getattr(new, part) == pytest.approx(getattr(old, part), rel=1e-12)
    assert after.relaxed_dense == before.relaxed_dense
    assert after.floor == pytest.approx(before.floor)


def test_alexnet_in_words_has_the_published_total():
    with torch.device("meta"):
        model = NETWORKS["alexnet"].factory()
    graph = trace(model, torch.zeros(1, 3, 224, 224, device="meta"), check=False)
    stored = {
        name: Stored(each.numel(), each.numel(), 16, 2 * each.numel())
        for name, each in model.named_parameters()
        if each.ndim > 1
    }
    assert f"{systolic_energy(model, graph, stored=stored).total:.5e}" == "2.72765e+10"


def _counted(layer, weight, stored, array):
    """Energy of a convolution's weights and multiply-accumulates, bit by bit, of entries that share the file evenly."""
    kernel_h, kernel_w = layer.blocks[3:]
    operator = layer.operator
    kept = [bool(each) for each in weight.reshape(-1) != 0]
    entries = kept if stored.entries < stored.size else [True] * stored.size
    assert sum(entries) == stored.entries
    bits = min(stored.bits, array.bits)
    positions = list(itertools.product(range(operator.batch), range(operator.out_height), range(operator.out_width)))
    dram = cache = registers = macs = 0.0
    for start in range(0, len(positions), array.rows):
        room = array.weight_cache * array.bits  # the first entries stay
        for place, there in enumerate(entries):
            if not there:
                continue
            stays = room >= bits
            room -= bits if stays else 0
            if start == 0 or not stays:
                dram += 8 * stored.nbytes / stored.entries
            cache += bits
            for _, y, x in positions[start : start + array.rows]:
                registers += bits if kept[place] else 0
                tap_y, tap_x = divmod(place % (kernel_h * kernel_w), kernel_w)
                row = y * layer.strides[0] - layer.padding[0] + tap_y
                column = x * layer.strides[1] - layer.padding[1] + tap_x
                inside = 0 <= row < operator.height and 0 <= column < operator.width
                macs += kept[place] and inside
    width = array.bits
    e_mac = array.e_mac - array.e_multiply + array.e_multiply * bits / width
    return (array.e_dram * dram + array.e_cache * cache + array.e_rf * registers) / width, e_mac * macs


@pytest.mark.parametrize(("bits", "nbytes"), [(4, 11), (2, 40), (16, 64), (1, 3)])
@pytest.mark.parametrize("sparse", [True, False])
def test_few_bits_cost_what_is_counted_bit_by_bit(bits, nbytes, sparse):
    model, graph = _network()
    array = replace(SMALL, e_multiply=0.75, weight_cache=3)
    for layer in layers_of(graph)[0]:
        if not layer.convolves:
            continue
        weight = model.get_parameter(layer.weight).detach()
        stored = Stored(weight.numel(), int(weight.count_nonzero()) if sparse else weight.numel(), bits, nbytes)
        found = layer_energy(layer, array, weight=weight, stored=stored)
        weights, mac = _counted(layer, weight, stored, array)
        assert found.weights == pytest.approx(weights, rel=1e-12)
        assert found.mac == pytest.approx(mac, rel=1e-12)
        assert found.relaxed >= found.total


def test_floats_wider_than_a_word_become_words_and_their_index_stays():
    array = SystolicArray()
    assert stored_words(Stored(100, 100, 32, 400), array) == 100
    assert stored_words(Stored(100, 20, 32, 80 + 10), array) == 20 + 10 * 8 / 16
    assert stored_words(Stored(100, 20, 4, 10), array) == 5


def test_fewer_bits_never_cost_more():
    model, graph = _network()
    energies = [
        systolic_energy(
            model,
            graph,
            replace(SMALL, e_multiply=1),
            stored={
                name: Stored(each.numel(), each.numel(), bits, -(-each.numel() * bits // 8))
                for name, each in model.named_parameters()
                if each.ndim > 1
            },
        ).total
        for bits in range(1, 17)
    ]
    assert energies == sorted(energies)
    assert energies[0] < energies[-1]


def test_what_is_stored_must_be_of_the_network():
    model, graph = _network()
    with pytest.raises(InputError, match=r"0\.weight is stored as 3 weights, and layer 0 has 72"):
        systolic_energy(model, graph, stored={"0.weight": Stored(3, 3, 8, 3)})
    with pytest.raises(InputError, match="weights of no layer that the array runs"):
        systolic_energy(model, graph, stored={"other.weight": Stored(3, 3, 8, 3)})
    with pytest.raises(InputError, match="cannot be stored as"):
        systolic_energy(model, graph, stored={"0.weight": Stored(72, 73, 8, 3)})


def test_the_part_of_a_mac_that_bits_change_is_a_part_of_it():
    with pytest.raises(InputError, match="is a part of e_mac=3"):
        SystolicArray(e_multiply=4)
    with pytest.raises(InputError, match="e_multiply"):
        SystolicArray(e_multiply=-1)


def test_the_account_names_bits_and_bytes_of_what_is_stored():
    model, graph = _network()
    rows = systolic_energy(model, graph, stored={"0.weight": Stored(72, 72, 4, 40)}).to_json()["layers"]
    assert (rows[0]["bits"], rows[0]["nbytes"]) == (4, 40)
    assert "bits" not in rows[1]
