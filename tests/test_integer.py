"""The integer-only path: equal to slow arithmetic on whole numbers, near float, and open about what stays float."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.stages.fixed_point.arithmetic import INT32, Range, Whole, aligned, rounded_shift, to_bytes, to_whole
from ecc.stages.fixed_point.integer import IntegerPath, integer_network
from ecc.stages.fixed_point.ranges import Observed


def shifted(number: int, shift: int) -> int:
    """(number + 2^(s-1)) >> s on whole numbers of any size."""
    return (number + (1 << (shift - 1))) >> shift if shift > 0 else number << -shift


@given(st.lists(st.integers(-INT32, INT32), min_size=1), st.integers(-20, 50))
def test_a_shift_rounds_as_whole_numbers_do(numbers, shift):
    found = rounded_shift(torch.tensor(numbers), shift).tolist()
    assert found == [shifted(number, min(shift, 40)) for number in numbers]
    if 0 < shift <= 31:
        assert found == [math.floor(number / 2**shift + 0.5) for number in numbers]


@given(st.lists(st.integers(-INT32, INT32), min_size=1), st.integers(-30, 10), st.integers(-20, 20), st.booleans())
def test_bytes_saturate_at_both_ends(numbers, exponent, place, signed):
    wanted = Range(place, signed)
    found = to_bytes(Whole(torch.tensor(numbers), torch.tensor(exponent), INT32), wanted).numbers.tolist()
    low, high = (-128, 127) if signed else (0, 255)
    shift = min(max(place - exponent, -31), 40)
    assert found == [min(max(shifted(number, shift), low), high) for number in numbers]


def layer_weights(weight: torch.Tensor) -> tuple[np.ndarray, list[int]]:
    """Bytes and exponents of rows: n = floor(log2(127 / max|W|))."""
    rows = weight.detach().double().reshape(len(weight), -1).numpy()
    exponents = [-math.floor(math.log2(127 / np.abs(row).max())) for row in rows]
    codes = [np.clip(np.round(row / 2.0**e), -127, 127).astype(int) for row, e in zip(rows, exponents, strict=True)]
    return np.array(codes).reshape(weight.shape), exponents


def slow_layer(x: np.ndarray, exponent: int, layer: nn.Module) -> tuple[np.ndarray, list[int]]:
    """Accumulators of a layer on bytes of one exponent, by loops: (out, …) of Python's whole numbers, and exponents."""
    weights, own = layer_weights(layer.weight)
    exponents = [e + exponent for e in own]
    biases = [math.floor(b * 2.0**-e + 0.5) for b, e in zip(layer.bias.tolist(), exponents, strict=True)]
    if isinstance(layer, nn.Linear):
        sums = [
            b + sum(int(w) * int(v) for w, v in zip(row, x, strict=True))
            for row, b in zip(weights, biases, strict=True)
        ]
        return np.array(sums, dtype=object), exponents
    pad, stride, (_, _, height, width) = layer.padding[0], layer.stride[0], weights.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((padded.shape[i] - size) // stride + 1 for i, size in ((1, height), (2, width)))
    out = np.zeros((len(weights), rows, columns), dtype=object)
    for o, i, j in np.ndindex(*out.shape):
        window = padded[:, i * stride : i * stride + height, j * stride : j * stride + width]
        out[o, i, j] = biases[o] + sum(int(w) * int(v) for w, v in zip(weights[o].flat, window.flat, strict=True))
    return out, exponents


def slow_bytes(sums: np.ndarray, exponents: list[int], place: Range) -> np.ndarray:
    low, high = (-128, 127) if place.signed else (0, 255)
    out = np.zeros(sums.shape, dtype=object)
    for at in np.ndindex(*sums.shape):
        out[at] = min(max(shifted(int(sums[at]), place.exponent - exponents[at[0]]), low), high)
    return out


def slow_input(x: torch.Tensor, place: Range) -> np.ndarray:
    low, high = (-128, 127) if place.signed else (0, 255)
    return np.clip(np.floor(x.double().numpy() / 2.0**place.exponent + 0.5), low, high).astype(int).astype(object)


def chain() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    parts = [nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(16, 5)).eval(), torch.randn(3, 2, 11, 11)


@pytest.mark.parametrize("calibration", ["mse", "max", "percentile"])
def test_a_network_equals_slow_arithmetic_on_whole_numbers(calibration):
    model, x = chain()
    network = integer_network(model, [x], path=IntegerPath(calibration=calibration, clip="max"))
    found = network(3 * x)  # saturates
    ranges = network.ranges
    for example, result in zip(3 * x, found, strict=True):
        sums, exponents = slow_layer(slow_input(example, ranges[-1]), ranges[-1].exponent, model[0])
        sums = np.maximum(sums, 0)
        sums = np.array(
            [[[row[i : i + 2, j : j + 2].max() for j in (0, 2, 4)] for i in (0, 2, 4)] for row in sums], object
        )
        sums, exponents = slow_layer(slow_bytes(sums, exponents, ranges[2]), ranges[2].exponent, model[3])
        bytes_ = slow_bytes(sums, exponents, ranges[3]).reshape(-1)
        sums, exponents = slow_layer(bytes_, ranges[3].exponent, model[5])
        expected = [float(number) * 2.0**e for number, e in zip(sums, exponents, strict=True)]
        assert result.tolist() == pytest.approx(expected, rel=1e-6)
    assert [step.why_float for step in network.steps] == [""] * 5


def test_the_two_matrices_give_the_product_with_sixteen_bits():
    torch.manual_seed(0)
    layer = nn.Linear(200, 3)
    with torch.no_grad():
        layer.weight[:, ::50] *= 40
    x = torch.randn(4, 200)
    network = integer_network(layer, [x], path=IntegerPath(split=True))
    place = network.ranges[-1]
    rows = layer.weight.detach().double()
    reach = rows.abs().kthvalue(196, dim=1).values
    exponents = torch.tensor([-math.floor(math.log2(127 / float(r))) for r in reach])
    numbers = (rows / 2.0 ** exponents[:, None]).round()
    assert float(numbers.abs().max()) > 1000
    bytes_ = torch.tensor(slow_input(x, place).astype(int)).double()
    biases = (layer.bias.detach().double() / 2.0 ** (exponents + place.exponent) + 0.5).floor()
    expected = (bytes_ @ numbers.T + biases) * 2.0 ** (exponents + place.exponent)
    torch.testing.assert_close(network(x).double(), expected, rtol=1e-6, atol=0)


class Residual(nn.Module):
    """Operators of residual networks."""

    def __init__(self, change=F.relu):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(8, 5)
        self.change = change

    def forward(self, x):
        y = self.change(self.one(x))
        y = self.change(y + self.two(y))
        y = torch.cat([y, F.pad(y[:, 1:3], (0, 0, 0, 0, 1, 1))], 1)
        return self.last(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.mark.parametrize("size", [4, 6, 7], ids="side {}".format)
def test_a_residual_network_runs_on_integers_and_is_near_float(size):
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(16, 3, size, size)
    network = integer_network(model, [x])
    assert {step.operator for step in network.steps} >= {
        "conv2d",
        "relu",
        "add",
        "cat",
        "adaptive_avg_pool2d",
        "linear",
    }
    assert [step for step in network.steps if step.why_float] == []
    with torch.no_grad():
        assert float((network(x) - model(x)).abs().max() / model(x).abs().max()) < 0.05


def test_sums_are_at_the_finer_exponent():
    one, other = Whole(torch.tensor([3]), torch.tensor(-2), 127), Whole(torch.tensor([5]), torch.tensor(1), 127)
    left, right, exponents, bound = aligned(one, other)
    assert int(left + right) * 2.0 ** int(exponents) == 3 * 0.25 + 5 * 2
    assert bound == 127 + 127 * 8
    assert aligned(one, Whole(torch.tensor([5]), torch.tensor(30), 127)) is None


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.AvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(3, 2, 1)], ids=str
)
def test_averages_are_exact_to_the_reciprocal_of_the_window(pool):
    x = torch.randn(2, 3, 12, 12)
    network = integer_network(nn.Sequential(pool), [x])
    place = network.ranges[-1]
    bytes_ = to_whole(x, place).floats()
    assert network.steps[0].why_float == ""
    torch.testing.assert_close(network(x), pool(bytes_), rtol=2**-12, atol=2.0**place.exponent * 2**-7)


@pytest.mark.parametrize(
    "curve",
    [torch.tanh, torch.sigmoid, F.gelu, F.silu, F.hardswish, F.relu6, F.leaky_relu],
    ids=lambda curve: curve.__name__,
)
def test_curves_are_tables_that_round_to_the_nearest_byte(curve):
    model, x = Residual(curve).eval(), torch.randn(8, 3, 6, 6)
    network = integer_network(model, [x])
    assert [step for step in network.steps if step.why_float] == []
    alone = integer_network(Net(curve), [x])
    given_, made = alone.ranges[-1], alone.ranges[0]
    step = 2.0**made.exponent
    expected = torch.floor(curve(to_whole(x, given_).floats()).double() / step + 0.5).clamp(made.low, made.high) * step
    assert torch.equal(alone(x).double(), expected)


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.run = forward

    def forward(self, *x):
        return self.run(*x)


def test_accumulators_that_could_leave_int32_keep_their_layer_float():
    layer = nn.Linear(70_000, 1, bias=False)
    nn.init.constant_(layer.weight, 127 / 128)
    x = torch.rand(2, 70_000)
    (step,) = integer_network(layer, [x]).steps
    assert step.why_float.startswith("its accumulators could reach")
    assert step.why_float.endswith("beyond int32")
    (step,) = integer_network(layer.__class__(60_000, 1), [x[:, :60_000]]).steps
    assert step.why_float == ""


def test_a_large_bias_beside_tiny_weights_fits_int32():
    layer = nn.Linear(8, 2)
    with torch.no_grad():
        layer.weight[0] *= 1e-12
        layer.bias[:] = torch.tensor([1.0, 2.0])
    x = torch.randn(4, 8)
    network = integer_network(layer, [x])
    assert network.steps[0].why_float == ""
    torch.testing.assert_close(network(x)[:, 0], torch.ones(4), rtol=1e-6, atol=1e-6)


def test_what_stays_float_is_named_with_its_module():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3), nn.Softmax(1)).eval()
    x = torch.randn(4, 1, 5, 5)
    network = integer_network(model, [x])
    assert [(step.operator, step.module) for step in network.steps if step.why_float] == [
        ("batch_norm", "1"),
        ("softmax", "4"),
    ]
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0.05)


def test_operators_in_place_do_what_they_do_in_float():
    def forward(net, x):
        y = net.body[0](x)
        net.body[1](y)
        z = y.flatten(1)
        z += 1
        return net.body[2](y.flatten(1))

    model = nn.Module()
    model.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Linear(18, 3))
    model.forward = lambda x: forward(model, x)
    x = torch.randn(8, 1, 5, 5)
    before = x.clone()
    network = integer_network(model.eval(), [x])
    with torch.no_grad():
        assert float((network(x) - model(x)).abs().max() / model(x).abs().max()) < 0.05
    assert torch.equal(x, before)


def test_batches_of_other_sizes_run_and_it_never_trains():
    model, x = chain()
    network = integer_network(model, [x]).train()
    assert not network.network.training
    assert torch.equal(torch.cat([network(x[:1]), network(x[1:])]), network(x))


def test_the_network_that_was_given_is_untouched():
    model, x = chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    integer_network(model, [x])(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_inputs_that_cannot_be_used_are_refused():
    model, x = chain()
    with pytest.raises(InputError, match="at least one batch of calibration data"):
        integer_network(model, [])
    with pytest.raises(InputError, match=r"IntegerPath\(calibration=\.\.\.\) must be one of mse, max, percentile"):
        IntegerPath(calibration="kl")
    odd = Net(lambda x: x.relu() if len(x) > 2 else x.tanh())
    with pytest.raises(InputError, match="runs other operators from batch to batch"):
        integer_network(odd, [x, x[:1]])
    with pytest.raises(InputError, match="runs tanh where it ran relu on the calibration data"):
        integer_network(odd, [x])(x[:1])


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_ranges_hold_the_largest_magnitude_or_err_less(values):
    seen = Observed()
    seen.add(torch.tensor(values))
    whole, fitted = seen.range("max"), seen.range("mse")
    exact = torch.tensor(values).double()
    errors = [float(((to_whole(exact, place).floats().double() - exact) ** 2).sum()) for place in (whole, fitted)]
    step = 2.0**whole.exponent
    assert float((to_whole(exact, whole).floats().double() - exact).abs().max()) <= step * 0.5 * (1 + 1e-6)
    assert errors[1] <= errors[0] * (1 + 1e-3) + 1e-9
