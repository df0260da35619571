"""The ICLR 2019 energy of a systolic array: its published values, and counts by loops over outputs, taps and rows."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.core.operators import Operator
from ecc.energy_models.systolic.account import layer_energy
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.energy_models.systolic.indices import SparseIndex
from ecc.energy_models.systolic.layers import SystolicLayer, layers_of
from ecc.energy_models.systolic.prices import layer_prices, weight_prices
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS

EYERISS = SystolicArray()
SMALL = SystolicArray(name="small", rows=3, columns=2, input_cache=900, weight_cache=7)

# -- what the authors' code prints for AlexNet (core of the ICLR 2019 release, torchvision's form, 3×224×224)

PUBLISHED = {  # weights, multiply-accumulates, inputs and outputs, price in the cache, price outside of it
    "features.0": ("1.07e+09", "2.09e+08", "1.75e+08", 13818, 64218),
    "features.3": ("4.04e+09", "6.13e+08", "3.31e+08", 3482, 15482),
    "features.6": ("2.15e+09", "3.03e+08", "1.65e+08", 966, 3766),
    "features.8": ("2.87e+09", "4.04e+08", "2.18e+08", 966, 3766),
    "features.10": ("1.91e+09", "2.69e+08", "1.47e+08", 966, 3766),
    "classifier.1": ("7.81e+09", "1.13e+08", "5.66e+07", 210, None),
    "classifier.4": ("3.47e+09", "5.03e+07", "2.56e+07", 210, None),
    "classifier.6": ("8.48e+08", "1.23e+07", "6.9e+06", 210, None),
}


@pytest.fixture(scope="module")
def alexnet():
    with torch.device("meta"):
        model = NETWORKS["alexnet"].factory()
    return model, trace(model, torch.zeros(1, 3, 224, 224, device="meta"), check=False)


def test_alexnet_on_eyeriss_has_the_published_totals(alexnet):
    energy = systolic_energy(*alexnet)
    assert f"{energy.total:.5e}" == "2.72765e+10"
    assert f"{energy.relaxed_total:.5e}" == "2.74453e+10"
    assert f"{energy.floor:.4f}" == "0.0410"
    assert f"{sum(each.weights for each in energy.layers):.4e}" == "2.4178e+10"
    assert f"{sum(each.mac for each in energy.layers):.4e}" == "1.9738e+09"
    assert f"{sum(each.inputs + each.outputs for each in energy.layers):.4e}" == "1.1246e+09"
    assert energy.relaxed_dense == energy.relaxed_total
    assert energy.unit == "e_RF"
    assert energy.left_out == ()


def test_alexnet_on_eyeriss_has_the_published_layers(alexnet):
    for each in systolic_energy(*alexnet).layers:
        weights, mac, rest, _, _ = PUBLISHED[each.layer.name]
        assert (f"{each.weights:.2e}", f"{each.mac:.2e}") == (weights, mac)
        assert f"{each.inputs + each.outputs:.{len(rest) - 6}e}" == rest


def test_alexnet_on_eyeriss_has_the_published_prices(alexnet):
    layers, _ = layers_of(alexnet[1])
    for layer in layers:
        *_, cached, every = PUBLISHED[layer.name]
        assert layer.size > EYERISS.weight_cache
        weight = torch.arange(layer.size, dtype=torch.float32).reshape(layer.blocks)
        price = layer_prices(layer, EYERISS, weight).flatten()
        held = EYERISS.weight_cache if every else 0
        assert price[layer.size - held :].tolist() == [cached] * held  # the largest
        assert bool((price[: layer.size - held] == (every or cached)).all())


# -- counting by loops


def kernel_places(layer, y, x):
    """Inputs (row, column) and tap that an output position meets, inside the input."""
    operator = layer.operator
    for i, j in itertools.product(range(operator.kernel_h), range(operator.kernel_w)):
        if layer.transposed:
            row, left = divmod(y + layer.padding[0] - i * layer.dilations[0], layer.strides[0])
            column, over = divmod(x + layer.padding[1] - j * layer.dilations[1], layer.strides[1])
            if left or over:
                continue
        else:
            row = y * layer.strides[0] - layer.padding[0] + i * layer.dilations[0]
            column = x * layer.strides[1] - layer.padding[1] + j * layer.dilations[1]
        if 0 <= row < operator.height and 0 <= column < operator.width:
            yield row, column, i, j


def count_pairs(layer, weight, mask):
    """Multiply-accumulates with weight and input both kept, and kept inputs that a kernel meets; one example."""
    operator, pairs, unfolded = layer.operator, 0, 0
    inner, outer = operator.channels_in // operator.groups, operator.channels_out // operator.groups
    for y, x in itertools.product(range(operator.out_height), range(operator.out_width)):
        for row, column, i, j in kernel_places(layer, y, x):
            for c in range(operator.channels_in):
                if not mask[c, row, column]:
                    continue
                unfolded += 1
                group, local = divmod(c, inner)
                for d in range(outer):
                    if layer.transposed:
                        pairs += bool(weight[c, d, i, j] != 0)
                    else:
                        pairs += bool(weight[group * outer + d, local, i, j] != 0)
    return pairs, unfolded


def count_read_twice(rows, window, stride, padding, cache):
    """The procedure of the authors' code: pack whole rows, start the next batch where the next window begins."""
    line = [0] * padding + list(rows) + [0] * padding
    first, again = 0, 0
    while True:
        packed, held = 0, 0
        while first + packed < len(line) and held + line[first + packed] <= cache:
            held += line[first + packed]
            packed += 1
        assert packed >= window
        following = first + ((packed - window) // stride + 1) * stride
        if len(line) - following < window:
            return again
        again += sum(line[following : first + packed])
        first = following


def simulate(layer, array, weight, mask):
    """The exact parts of a convolution, each access counted one by one."""
    operator, batch = layer.operator, layer.operator.batch
    pairs, unfolded = count_pairs(layer, weight, mask)
    kept = int((weight != 0).sum())
    positions = batch * operator.out_height * operator.out_width
    from_cache = from_dram = 0
    for start in range(0, positions, array.rows):
        for number in range(kept):
            from_cache += 1
            from_dram += start == 0 or number >= array.weight_cache
    channels = operator.channels_out // operator.groups
    input_cache = sum(unfolded * batch for _ in range(0, channels, array.columns))
    window = layer.dilations[0] * (operator.kernel_h - 1) + 1
    again = count_read_twice(mask.sum((0, 2)).tolist(), window, layer.strides[0], layer.padding[0], array.input_cache)
    return {
        "mac": array.e_mac * pairs * batch,
        "weights": array.e_cache * from_cache + array.e_rf * positions * kept + array.e_dram * from_dram,
        "inputs": array.e_cache * input_cache
        + array.e_rf * unfolded * batch * channels
        + array.e_dram * batch * (int(mask.sum()) + again),
        "outputs": array.e_dram * positions * operator.channels_out,
    }


def random_convolution(seed, *, transposed=False):
    """A convolution with sparse weights, its layer, and a mask of its inputs."""
    generator = np.random.default_rng(seed)

    def draw(low, high):
        return int(generator.integers(low, high + 1))

    groups = draw(1, 3) if draw(0, 1) else 1
    depthwise = draw(0, 3) == 0
    inner, outer = (1, draw(1, 2)) if depthwise else (draw(1, 3), draw(1, 3))
    kernel, stride, dilation = ((draw(1, 3), draw(1, 3)) for _ in range(3))
    padding = tuple(draw(0, 1 if size == 2 else size // 2) for size in kernel)
    size = [(k - 1) * d + 1 + draw(0, 5) for k, d in zip(kernel, dilation, strict=True)]
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    if transposed:
        padding = (0, 0)
    torch.manual_seed(seed)
    module = kind(
        groups * inner, groups * outer, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    with torch.no_grad():
        module.weight *= torch.rand_like(module.weight) < generator.uniform(0.1, 1)
    mask = torch.rand(groups * inner, *size) < generator.uniform(0.2, 1)
    graph = trace(nn.Sequential(module), torch.zeros(draw(1, 3), groups * inner, *size), check=False)
    ((layer,), left_out) = layers_of(graph)
    assert not left_out
    return module.weight.detach(), layer, mask, nn.Sequential(module), graph


@pytest.mark.parametrize("seed", range(30))
def test_sparse_convolutions_take_what_counting_gives(seed):
    weight, layer, mask, model, graph = random_convolution(seed)
    row = mask.shape[0] * mask.shape[2]
    array = replace(SMALL, input_cache=row * layer.row_window[0] + seed % 3 * row)
    for kept in (mask, torch.ones_like(mask)):
        masks = {layer.name: kept} if kept is mask else None
        found = systolic_energy(model, graph, array, masks=masks).layers[0]
        expected = simulate(layer, array, weight, kept)
        assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-12)
        assert found.nonzeros == int((weight != 0).sum())
        assert found.total <= found.relaxed * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_transposed_convolutions_pair_what_counting_pairs(seed):
    weight, layer, mask, _, _ = random_convolution(seed, transposed=True)
    found = layer_energy(layer, SMALL, weight=weight, mask=mask)
    pairs, unfolded = count_pairs(layer, weight, mask)
    assert found.pairs == pairs * layer.operator.batch
    assert found.total <= found.relaxed * (1 + 1e-12)
    passes, outer = -(-layer.fan_out // SMALL.columns), layer.fan_out
    near = (SMALL.e_cache * passes + SMALL.e_rf * outer) * unfolded * layer.operator.batch
    assert found.inputs - near >= SMALL.e_dram * int(mask.sum()) * layer.operator.batch - 1e-6


@pytest.mark.parametrize("rows", [1, 3, 4, 10], ids="{}rows".format)
def test_linear_layers_take_what_counting_gives(rows):
    torch.manual_seed(rows)
    module = nn.Linear(40, 5)
    with torch.no_grad():
        module.weight *= torch.rand_like(module.weight) < 0.3
    mask = torch.rand(40) < 0.8
    model = nn.Sequential(module)
    found = systolic_energy(
        model, trace(model, torch.zeros(rows, 40)), replace(SMALL, input_cache=60), masks={"0": mask}
    ).layers[0]
    kept = int((module.weight != 0).sum())
    tiles = [min(3, rows - start) for start in range(0, rows, 3)]
    weight_dram = sum(min(kept, 7) if tile else 0 for tile in (1,)) + sum(max(0, kept - 7) for _ in tiles)
    held = int(mask.sum())
    input_dram = sum(min(tile * held, 60) + 3 * max(0, tile * held - 60) for tile in tiles)
    assert found.pairs == rows * int((module.weight[:, mask] != 0).sum())
    assert found.weights == pytest.approx(6 * len(tiles) * kept + rows * kept + 200 * weight_dram)
    assert found.inputs == pytest.approx(6 * 3 * rows * held + 5 * rows * held + 200 * input_dram)
    assert found.outputs == 200 * rows * 5


def test_caches_are_those_of_the_array():
    layer = SystolicLayer("wide", Operator("linear", channels_in=100, channels_out=30))
    few, many = (layer_energy(layer, SystolicArray(input_cache=size)) for size in (40, 100))
    assert few.inputs - many.inputs == 200 * (math.ceil(30 / 14) - 1) * 60
    rows = Operator("conv", channels_in=2, channels_out=4, height=8, width=5, kernel_h=3, kernel_w=3)
    conv = SystolicLayer("conv", replace(rows, out_height=6, out_width=3))
    read = [layer_energy(conv, SystolicArray(input_cache=size)).inputs for size in (30, 40, 80)]
    assert [round((value - read[-1]) / 200) for value in read] == [5 * 20, 2 * 20, 0]


def test_a_signal_is_fetched_step_by_step():
    model = nn.Sequential(nn.Conv1d(4, 2, 5, stride=2, padding=1), nn.Flatten())
    graph = trace(model, torch.zeros(3, 4, 50))
    array = SystolicArray(input_cache=4 * 11)
    (found,) = systolic_energy(model, graph, array).layers
    unfolded = sum(0 <= 2 * y - 1 + k < 50 for y in range(24) for k in range(5))
    again = count_read_twice([4] * 50, 5, 2, 1, 4 * 11)
    assert again > 0
    assert found.inputs == 3 * (6 * 4 * unfolded + 2 * 4 * unfolded + 200 * (200 + again))
    with pytest.raises(InputError, match="5 rows of its input are 20 elements"):
        systolic_energy(model, graph, SystolicArray(input_cache=19))


def test_what_fits_the_cache_of_weights_comes_from_dram_once():
    layer = SystolicLayer(
        "conv", Operator("conv", channels_in=4, channels_out=4, height=9, width=9, out_height=9, out_width=9)
    )
    assert layer_energy(layer, SystolicArray(weight_cache=16)).weights == 7 * 6 * 16 + 81 * 16 + 200 * 16
    assert layer_energy(layer, SystolicArray(weight_cache=10)).weights == 7 * 6 * 16 + 81 * 16 + 200 * (10 + 7 * 6)


# -- prices


@pytest.mark.parametrize("index", [SparseIndex(), SparseIndex(bits_per_nonzero=4), SparseIndex.bitmap()], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_the_constant_and_the_prices_of_kept_weights_are_the_relaxed_energy(seed, index):
    weight, layer, mask, model, graph = random_convolution(seed)
    masks = {layer.name: mask}
    energy = systolic_energy(model, graph, SMALL, masks=masks, index=index)
    prices = weight_prices(model, graph, SMALL, masks=masks, index=index)
    assert prices.names == (layer.weight,)
    assert prices.prices[0].shape == weight.shape
    assert prices.spent() == pytest.approx(energy.relaxed_total, rel=1e-12)
    assert energy.total <= energy.relaxed_total * (1 + 1e-12)
    assert energy.floor == pytest.approx(prices.constant / energy.relaxed_dense)


def test_a_weight_that_is_used_twice_costs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x).relu()).flatten(1)

    model = Twice()
    graph = trace(model, torch.zeros(1, 2, 6, 6))
    prices = weight_prices(model, graph, SMALL)
    assert [each.layer.name for each in systolic_energy(model, graph, SMALL).layers] == ["conv", "conv@2"]
    assert len(prices.names) == 1
    assert prices.spent() == pytest.approx(systolic_energy(model, graph, SMALL).relaxed_total)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pruning_never_costs(data):
    """Each weight less and each input less lowers every part, exact and relaxed, with any index."""
    channels, out, kernel = (data.draw(st.integers(1, 3)) for _ in range(3))
    size = data.draw(st.integers(kernel, kernel + 4))
    layer = SystolicLayer(
        "conv",
        Operator(
            "conv",
            channels_in=channels,
            channels_out=out,
            height=size,
            width=size,
            out_height=size - kernel + 1,
            out_width=size - kernel + 1,
            kernel_h=kernel,
            kernel_w=kernel,
        ),
    )
    index = data.draw(st.sampled_from([SparseIndex(), SparseIndex(bits_per_nonzero=5)]))
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(layer.blocks, generator=generator).round()
    mask = torch.rand(layer.input_shape, generator=generator).round()
    fewer, less = weight.clone(), mask.clone()
    fewer.view(-1)[data.draw(st.integers(0, weight.numel() - 1))] = 0
    less.view(-1)[data.draw(st.integers(0, mask.numel() - 1))] = 0
    array = SystolicArray(rows=2, columns=2, weight_cache=3, input_cache=size * channels * kernel)
    before, after = (
        layer_energy(layer, array, weight=w, mask=m, index=index) for w, m in ((weight, mask), (fewer, less))
    )
    for name in ("mac", "weights", "outputs", "relaxed_mac", "relaxed_weights"):
        if name != "weights" or before.nonzeros < layer.size:  # the first zero needs an index
            assert getattr(after, name) <= getattr(before, name) * (1 + 1e-12)


# -- indices


def test_an_index_is_fetched_beside_the_weights_that_are_kept():
    operator = Operator("conv", channels_in=4, channels_out=4, height=9, width=9, out_height=9, out_width=9)
    layer = SystolicLayer("conv", operator)
    weight = torch.zeros(4, 4, 1, 1)
    weight.view(-1)[:8] = 1
    plain = layer_energy(layer, SMALL, weight=weight).weights
    near, far = 27 * 6 * 8, 200 * (7 + 27 * 1)
    assert plain == near + far + 81 * 8
    four = layer_energy(layer, SMALL, weight=weight, index=SparseIndex(bits_per_nonzero=4)).weights
    assert four - plain == pytest.approx((near + far) * 4 / 16)
    bitmap = layer_energy(layer, SMALL, weight=weight, index=SparseIndex.bitmap()).weights
    assert bitmap - plain == pytest.approx((near + far) * (16 / 8) / 16)
    full = torch.ones(4, 4, 1, 1)
    assert layer_energy(layer, SMALL, weight=full, index=SparseIndex.bitmap()).weights == pytest.approx(
        layer_energy(layer, SMALL, weight=full).weights
    )


@pytest.mark.parametrize(("text", "bits"), [("bitmap", (0, 1)), ("4", (4, 0)), ("3.5", (3.5, 0)), ("0", (0, 0))])
def test_index_bits_are_read(text, bits):
    index = SparseIndex.parse(text)
    assert (index.bits_per_nonzero, index.bits_per_weight) == bits


@pytest.mark.parametrize("text", ["", "nan", "-1", "65", "inf", "bit map", "1e999"])
def test_other_index_bits_are_refused(text):
    with pytest.raises(InputError, match="are neither a number from 0 to 64 for each kept weight nor 'bitmap'"):
        SparseIndex.parse(text)


# -- refusals


def test_a_network_without_layers_is_refused():
    model = nn.Sequential(nn.LayerNorm(3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 2, 3))
    for read in (systolic_energy, weight_prices):
        with pytest.raises(InputError, match="no convolution and no linear layer"):
            read(model, graph)


def test_a_cache_too_small_for_a_kernel_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 10, 10))
    with pytest.raises(InputError, match="layer 0: 3 rows of its input are 90 elements, and the input cache of tiny"):
        systolic_energy(model, graph, SystolicArray(name="tiny", input_cache=89))
    systolic_energy(model, graph, SystolicArray(name="tiny", input_cache=90))


@pytest.mark.parametrize("other", [nn.Conv2d(3, 5, 3), nn.ReLU()], ids=["wider", "none"])
def test_a_graph_of_another_network_is_refused(other):
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.zeros(1, 3, 10, 10))
    for read in (systolic_energy, weight_prices):
        with pytest.raises(InputError, match=r"the graph is of another network: its 0\.weight has 108 weights"):
            read(nn.Sequential(other, nn.Flatten()), graph)


def test_what_comes_out_says_what_it_is(alexnet):
    energy = systolic_energy(*alexnet)
    assert repr(energy) == "SystolicEnergy(2.7276e+10 e_RF on eyeriss, 8 layers)"
    assert energy.table().loc["classifier.6", "nonzeros"] == 4_096_000
    model = nn.Sequential(nn.Linear(4, 3))
    prices = weight_prices(model, trace(model, torch.zeros(1, 4)))
    assert repr(prices) == f"WeightPrices(12 weights in 1 tensors, constant {prices.constant:.5g} e_RF)"


def test_masks_of_nothing_and_of_other_shapes_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 10, 10))
    for read in (systolic_energy, weight_prices):
        with pytest.raises(InputError, match="there is no layer 'stem'; the layers are 0"):
            read(model, graph, masks={"stem": torch.ones(3, 10, 10)})
    with pytest.raises(InputError, match=r"the mask of 0 has shape \(3, 10\), and its input \(3, 10, 10\)"):
        systolic_energy(model, graph, masks={"0": torch.ones(3, 10)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"masks": 3}, "masks must map names of layers to tensors, got int"),
        ({"masks": {"0": [[1.0]]}}, "the mask of 0 must be a tensor, got list"),
        ({"masks": {"0": torch.full((3, 10, 10), math.nan)}}, "the mask of 0 holds NaN"),
        ({"index": 4}, r"index must be a SparseIndex such as SparseIndex\(bits_per_nonzero=4\), got 4"),
        ({"array": 4}, "4 is no systolic array; give one, or the name of a preset or a TOML file"),
        ({"array": "eyeris"}, "'eyeris' is no systolic array; did you mean eyeriss"),
    ],
)
def test_arguments_of_other_kinds_are_refused(given, words):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 10, 10))
    for read in (systolic_energy, weight_prices):
        with pytest.raises(InputError, match=words):
            read(model, graph, **given)


def test_arrays_are_taken_by_name_and_from_files(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 10, 10))
    (tmp_path / "own.toml").write_text('base = "tpu-v1"\n')
    for named in ("tpu-v1", str(tmp_path / "own.toml"), tmp_path / "own.toml"):
        for make in (lambda array: systolic_energy(model, graph, array), lambda array: SystolicCost.of(graph, array)):
            assert make(named).array.columns == 256
        assert weight_prices(model, graph, named).unit == "e_RF"
