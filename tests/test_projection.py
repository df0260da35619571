import itertools
import math
import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from projection_oracle import best, cost, flat, fractional, greedy, numbers_of, worth

from ecc.core.errors import InputError
from ecc.core.weights import Price
from ecc.solvers.projection import project_, weighted_sparse_projection

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FLAT = Price(1.0, 1.0)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def chosen(result):
    return [value != 0 for value in flat(result.values)]


def check(values, offers, result):
    """What every projection is, however it was found; returns what is kept of each tensor."""
    for before, after in zip(values, result.values, strict=True):
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        assert bool(((after == 0) | (after == before)).all())
        assert not bool(torch.signbit(after[after == 0]).any()) or bool(torch.signbit(before[before == 0]).any())
    keep = chosen(result)
    assert result.kept == tuple(int(one.sum()) for one in keep)
    for (prices, budget), spent in zip(offers, (result.spent, result.second_spent), strict=False):
        assert spent <= budget
        own = cost(prices, keep, numbers_of(prices, values))
        assert own == pytest.approx(spent, rel=1e-12)
        if all(isinstance(price, Price) for price in prices):
            assert own == spent
    for value, one in zip(flat(values), keep, strict=True):
        assert not one[value == 0].any()
    return keep


weights = st.one_of(
    st.floats(-4, 4, width=16), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -1e30, 1e-44, 3.0, 1e30])
)
price = st.one_of(st.sampled_from([0.1, 1.0, 3.0]), st.floats(0.01, 5))


@st.composite
def cases(draw, most=10):
    """Few weights with prices of any kind, maybe floors, profits and a second budget."""
    sizes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) <= most))
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in sizes]
    values = [
        torch.tensor(draw(st.lists(weights, min_size=n, max_size=n)), dtype=torch.float64).clamp(-6e4, 6e4).to(dtype)
        if dtype is torch.float16
        else torch.tensor(draw(st.lists(weights, min_size=n, max_size=n)), dtype=torch.float64).to(dtype)
        for n, dtype in zip(sizes, dtypes, strict=True)
    ]
    ranked = [draw(st.booleans()) for _ in sizes]  # the same for both budgets

    def offer():
        prices = []
        for n, by_rank in zip(sizes, ranked, strict=True):
            if by_rank:
                first = draw(price)
                prices.append(Price(first, first * draw(st.sampled_from([1.0, 1.25, 3.0])), draw(st.integers(0, 5))))
            else:
                prices.append(torch.tensor(draw(st.lists(price, min_size=n, max_size=n)), dtype=torch.float64))
        whole = cost(prices, [np.ones(n, bool) for n in sizes], numbers_of(prices, values))
        return prices, draw(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0, 1.5])) * whole

    profits = None
    if draw(st.booleans()):
        number = st.one_of(st.just(0.0), st.floats(0, 3, width=32))
        profits = [torch.tensor(draw(st.lists(number, min_size=n, max_size=n))) for n in sizes]
    return values, offer(), offer() if draw(st.booleans()) else None, profits


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, 1))
def test_gap_bounds_what_the_best_of_all_choices_saves(case, floor):
    values, first, second, profits = case
    offers = [first] if second is None else [first, second]
    floors = [min(floor, value.numel()) for value in values]
    try:
        result = weighted_sparse_projection(values, *first, second=second, floors=floors, profits=profits)
    except InputError as error:
        refused = str(error)
        event(re.match("the floors alone cost|prices.*go by rank", refused)[0])
        return
    keep = check(values, offers, result)
    for one, value in zip(keep, values, strict=True):
        assert one.sum() >= min(floor, int(value.count_nonzero()))
    profit = math.fsum(float(p[one].sum()) for p, one in zip(worth(values, profits), keep, strict=True))
    most = best(values, offers, floors, profits)
    assert most - profit <= result.gap + 1e-9 * abs(most)


@pytest.mark.parametrize("budget", [2, 3, 7], ids="budget={}".format)
def test_equal_prices_leave_the_largest(budget):
    values = [normal(5), normal(3, 2, seed=1)]
    result = weighted_sparse_projection(values, [FLAT, FLAT], budget)
    every = torch.cat([value.flatten() for value in values]).abs()
    kept = torch.cat([value.flatten() for value in result.values]).abs()
    assert set(kept[kept > 0].tolist()) == set(every.topk(budget).values.tolist())
    assert (result.gap, result.spent) == (0, budget)
    assert result.threshold == pytest.approx(float(every.topk(budget + 1).values[-1]) ** 2)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from(DTYPES))
def test_random_networks_keep_the_budget_and_waste_less_than_an_item(seed, share, dtype):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 600, rng.integers(1, 5))
    values = [normal(int(n), seed=seed + i, dtype=dtype) * float(rng.uniform(0.1, 3)) for i, n in enumerate(sizes)]
    firsts = rng.uniform(1, 50, len(sizes))
    prices = [Price(float(f), float(f * rng.choice([1, 1.5])), int(rng.integers(0, 500))) for f in firsts]
    dense = math.fsum(price.of(int(value.count_nonzero())) for price, value in zip(prices, values, strict=True))
    result = weighted_sparse_projection(values, prices, share * dense)
    check(values, [(prices, share * dense)], result)
    if any(kept < int(value.count_nonzero()) for kept, value in zip(result.kept, values, strict=True)):
        assert share * dense - result.spent < max(price.rest for price in prices)
    for value, after in zip(values, result.values, strict=True):
        gone, left = value[(after == 0) & (value != 0)].abs(), after[after != 0].abs()
        assert not len(gone) or not len(left) or gone.max() <= left.min()
    again = weighted_sparse_projection(result.values, prices, share * dense)
    assert all(torch.equal(a, b) for a, b in zip(again.values, result.values, strict=True))
    if share * dense >= max(price.rest for price in prices):  # no weight is ruled out by itself
        most = fractional(values, prices, share * dense)
        kept = math.fsum(float(value.double().square().sum()) for value in result.values)
        assert kept <= most * (1 + 1e-9)
        assert most - kept <= result.gap + 1e-9 * most


def patterned(name, n):
    numbers = torch.arange(n, dtype=torch.float64)
    return {
        "normal": normal(n),
        "falling": 1 / (1 + numbers),
        "rising": numbers + 1,
        "three values": (numbers % 3 - 1) * 0.5,
        "one value": torch.full((n,), -0.25),
        "mostly one value": torch.where(numbers % 7 == 0, normal(n).double(), torch.tensor(0.3)),
        "period of a sample": torch.where(numbers % 5 == 2, 100.0, 1e-3) * (1 + normal(n).abs()),
        "wide": torch.logspace(-40, 30, n, dtype=torch.float64)[torch.randperm(n, generator=torch.Generator())],
        "zeros": torch.where(numbers % 10 == 0, normal(n).double(), 0.0),
        "none": torch.zeros(n),
    }[name]


PATTERNS = [
    "normal",
    "falling",
    "rising",
    "three values",
    "one value",
    "mostly one value",
    "period of a sample",
    "wide",
]
PATTERNS += ["zeros", "none"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["rank", "each"])
def test_choice_is_that_of_a_full_sort(pattern, dtype, kind):
    values = [patterned(pattern, n).to(dtype) for n in (9000, 1, 0, 700)]
    if kind == "rank":
        prices = [Price(4.0, 7.0, 2000), Price(3.0, 3.0), FLAT, Price(1.0, 1.5, 100)]
    else:
        prices = [torch.arange(value.numel()) % 4 + 1.0 for value in values]
    for budget in (0, 2.5, 3000.5, 13000, 1e6):
        result = weighted_sparse_projection(values, prices, budget)
        check(values, [(prices, budget)], result)
        for keep, wanted in zip(chosen(result), greedy(values, prices, budget), strict=True):
            np.testing.assert_array_equal(keep, wanted)


def test_cheaper_weights_fill_what_a_dear_one_leaves():
    values = [torch.tensor([5.0, 4.9]), torch.tensor([1.0, 0.9, 0.8])]
    result = weighted_sparse_projection(values, [Price(6.0, 6.0), FLAT], 8)
    assert result.kept == (1, 2)
    assert result.gap == pytest.approx(4.9**2 / 6 * 2 - 1 - 0.81)


def test_a_weight_that_no_budget_allows_blocks_no_other():
    result = weighted_sparse_projection([torch.tensor([9.0]), torch.tensor([1.0, 2.0])], [Price(5.0, 5.0), FLAT], 2)
    assert (result.kept, result.gap) == ((0, 2), 0)


def test_equal_weights_go_by_tensor_then_place():
    values = [torch.ones(3), -torch.ones(3)]
    result = weighted_sparse_projection(values, [FLAT, FLAT], 4)
    assert [value.tolist() for value in result.values] == [[1, 1, 1], [-1, 0, 0]]


def test_order_of_tensors_does_not_matter_without_ties():
    values = [normal(5000, seed=seed) for seed in range(3)]
    prices = [Price(2.0, 3.0, 700), Price(1.0, 1.0), torch.rand(5000, generator=torch.Generator()) + 1]
    whole = weighted_sparse_projection(values, prices, 9000)
    for order in itertools.permutations(range(3)):
        other = weighted_sparse_projection([values[i] for i in order], [prices[i] for i in order], 9000)
        assert all(torch.equal(other.values[k], whole.values[i]) for k, i in enumerate(order))
        assert other.spent == pytest.approx(whole.spent, rel=1e-12)


def test_prices_of_one_number_are_a_price():
    values = [normal(300, 40)]
    whole = weighted_sparse_projection(values, [Price(0.1, 0.1)], 500)
    for prices in (
        torch.tensor(0.1, dtype=torch.float64).expand(300, 40),
        torch.full((300, 40), 0.1, dtype=torch.float64),
    ):
        assert torch.equal(weighted_sparse_projection(values, [prices], 500).values[0], whole.values[0])


@pytest.mark.parametrize("kind", ["rank", "each"])
def test_floors_keep_the_largest_of_a_tensor(kind):
    values = [normal(2000), 1e-3 * normal(500, seed=1)]
    prices = [Price(1.0, 2.0, 300), Price(1.0, 2.0, 100)]
    if kind == "each":
        prices = [torch.rand(value.shape, generator=torch.Generator()) + 1 for value in values]
    without = weighted_sparse_projection(values, prices, 700)
    floored = weighted_sparse_projection(values, prices, 700, floors={1: 120})
    assert (without.kept[1], floored.kept[1]) == (0, 120)
    largest = values[1].abs().topk(120).indices.sort().values
    assert torch.equal(floored.values[1].nonzero().flatten(), largest)
    assert floored.kept[0] < without.kept[0]


def test_profits_rank_weights():
    values, profits = [torch.tensor([5.0, 1.0, 3.0, 0.0])], [torch.tensor([0.1, 9.0, 2.0, 99.0])]
    result = weighted_sparse_projection(values, [Price(1.0, 2.0, 1)], 3, profits=profits)
    assert result.values[0].tolist() == [0, 1, 3, 0]
    squares = [normal(9000).square()]
    by_square = weighted_sparse_projection([normal(9000)], [Price(1.0, 2.0, 500)], 3000, profits=squares)
    plain = weighted_sparse_projection([normal(9000)], [Price(1.0, 2.0, 500)], 3000)
    assert torch.equal(by_square.values[0], plain.values[0])


@pytest.mark.parametrize("kind", ["rank", "each"])
def test_two_budgets_hold_and_both_are_used_up(kind):
    values = [normal(20000), 0.5 * normal(30000, seed=1)]
    first, second = [Price(5.0, 6.0, 1000), Price(1.0, 1.0)], [Price(1.0, 1.0), Price(2.0, 2.5, 500)]
    if kind == "each":
        noise = torch.rand(20000, generator=torch.Generator()) + 0.5
        first, second = [5 * noise, torch.ones(30000)], [torch.ones(20000), torch.full((30000,), 2.0)]
    limits = (40000.0, 25000.0)
    result = weighted_sparse_projection(values, first, limits[0], second=(second, limits[1]))
    check(values, [(first, limits[0]), (second, limits[1])], result)
    assert result.spent > 0.99 * limits[0]
    assert result.second_spent > 0.99 * limits[1]
    kept = math.fsum(float(value.double().square().sum()) for value in result.values)
    assert result.gap < 0.005 * kept
    loose = weighted_sparse_projection(values, first, limits[0], second=(second, 1e9))
    alone = weighted_sparse_projection(values, first, limits[0])
    assert all(torch.equal(a, b) for a, b in zip(loose.values, alone.values, strict=True))


@pytest.mark.parametrize("view", ["channels last", "part", "transposed", "parameter"])
def test_projection_in_place_writes_into_any_memory(view):
    weight = normal(8, 4, 3, 3)
    tensor = {
        "channels last": lambda: weight.clone().contiguous(memory_format=torch.channels_last),
        "part": lambda: torch.cat([weight, weight], 1)[:, :4],
        "transposed": lambda: weight.transpose(0, 1).contiguous().transpose(0, 1),
        "parameter": lambda: torch.nn.Parameter(weight.clone()),
    }[view]()
    wanted = weighted_sparse_projection([weight], [Price(1.0, 2.0, 30)], 77).values[0]
    address = tensor.data_ptr()
    result = project_([tensor], [Price(1.0, 2.0, 30)], 77)
    assert result.values[0] is tensor
    assert tensor.data_ptr() == address
    assert torch.equal(tensor.detach(), wanted)
    noise = torch.rand(8, 4, 3, 3, generator=torch.Generator()) + 0.1
    again = weighted_sparse_projection([tensor], [noise], 10).values[0]
    assert torch.equal(again, weighted_sparse_projection([wanted], [noise], 10).values[0])


def test_projection_copies_and_leaves_its_input():
    value, kept = normal(500), normal(500)
    result = weighted_sparse_projection([value, value.expand(500)], [FLAT, FLAT], 100)
    assert torch.equal(value, kept)
    assert sum(result.kept) == 100


def test_results_repeat_to_the_bit():
    values, prices = [normal(100_000)], [Price(1.0, 1.3, 4096)]
    one, two = (weighted_sparse_projection(values, prices, 30_000) for _ in range(2))
    assert torch.equal(one.values[0], two.values[0])
    assert (one.spent, one.gap, one.threshold) == (two.spent, two.gap, two.threshold)


def test_many_weights_keep_the_most_that_parts_of_weights_could():
    values, prices = [normal(300_000), 3 * normal(20_000, seed=1)], [Price(2.0, 2.0), Price(9.0, 11.0, 4096)]
    result = weighted_sparse_projection(values, prices, 100_000)
    kept = math.fsum(float(value.double().square().sum()) for value in result.values)
    most = fractional(values, prices, 100_000)
    assert most * (1 - 1e-12) - kept <= result.gap <= 11 * result.threshold
    assert 100_000 - result.spent < 11


def test_memory_beside_the_weights_is_small():
    values, prices = [normal(2_000_000)], [Price(1.0, 1.0)]
    project_([value.clone() for value in values], prices, 10)
    tracemalloc.start()  # arrays of NumPy; those of torch are chunks of 256 KiB
    project_(values, prices, 500_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values[0].nbytes / 8


def one(value=1.0, shape=(2, 3)):
    return torch.full(shape, float(value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((one(), [FLAT], 1), "values must be a list with one entry per tensor, got Tensor"),
        (([3.0], [FLAT], 1), "values[0] must be a tensor, got float"),
        (([one().int()], [FLAT], 1), "values[0] must be a dense tensor of float32, float64, bfloat16 or float16, "),
        (([one(math.nan)], [FLAT], 1), "values[0] holds NaN or infinity; give finite numbers"),
        (([one(), one(-math.inf)], [FLAT, FLAT], 1), "values[1] holds NaN or infinity; give finite numbers"),
        (([one()], one(), 1), "prices must be a list with one entry per tensor, got Tensor"),
        (([one()], [2.0], 1), "prices[0] must be a tensor or a Price, got float"),
        (([one()], [], 1), "prices must be as many as values, 1, got 0"),
        (([one()], [one(1, (3, 2))], 1), "prices[0] has shape (3, 2) and values[0] (2, 3); they must be equal"),
        (([one()], [one(0)], 1), "prices[0] holds 0; prices must be positive and finite"),
        (([one()], [one(-2)], 1), "prices[0] holds -2; prices must be positive and finite"),
        (([one()], [one(math.inf)], 1), "prices[0] holds inf; prices must be positive and finite"),
        (([one()], [one(math.nan)], 1), "prices[0] holds nan; prices must be positive and finite"),
        (
            ([one()], [one() > 0], 1),
            "prices[0] must be a dense tensor of floating-point or whole numbers, got torch.bool, ",
        ),
        (([one()], [one().to_sparse()], 1), "prices[0] must be a dense tensor of floating-point or whole numbers, "),
        ((None, [FLAT], 1), "values must be a list with one entry per tensor, got NoneType"),
        (([one()], [FLAT], -1), "budget must be a number of 0 or more, got -1"),
        (([one()], [FLAT], math.nan), "budget must be a number of 0 or more, got nan"),
        (([one()], [FLAT], None), "budget must be a number of 0 or more, got None"),
        (([one()], [FLAT], True), "budget must be a number of 0 or more, got True"),
        (([one()], [FLAT], 10**400), "budget must be a number of 0 or more, got 1000"),
        (
            ([torch.full((3,), 1e300, dtype=torch.float64)], [FLAT], 1),
            "values[0] are worth up to inf at a price of 1, more per price than float64 holds; scale weights or prices",
        ),
        (
            ([one(1e30)], [Price(1e-300, 1e-300)], 1),
            "values[0] are worth up to 1e+60 at a price of 1e-300, more per price than float64 holds; scale",
        ),
        (
            ([one().to("meta")], [FLAT], 1),
            "values[0] must be a dense tensor of float32, float64, bfloat16 or float16, ",
        ),
        (([one()], [one().to("meta")], 1), "prices[0] is on meta and the values on cpu; move one"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_wrong_input_is_refused_in_one_sentence(arguments, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        weighted_sparse_projection(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floors": [7]}, "floors[0] must be a whole number from 0 to the 6 weights of the tensor, got 7"),
        ({"floors": [-1]}, "floors[0] must be a whole number from 0 to the 6 weights of the tensor, got -1"),
        ({"floors": [True]}, "floors[0] must be a whole number from 0 to the 6 weights of the tensor, got True"),
        ({"floors": [1, 2]}, "floors must be as many as values, 1, got 2"),
        ({"floors": {3: 1}}, "floors name tensor 3; there are 1, from 0"),
        ({"floors": [5]}, "the floors alone cost 10 and the budget is 9; lower floors or raise the budget"),
        ({"profits": [one(-1)]}, "profits[0] holds -1; give what weights are worth, 0 or more"),
        ({"profits": [one(math.nan)]}, "profits[0] holds NaN or infinity; give finite numbers"),
        ({"profits": [one(1, (6,))]}, "profits[0] has shape (6,) and values[0] (2, 3); they must be equal"),
        ({"floors": 1}, "floors must be a list or a mapping of whole numbers, got int"),
        ({"second": 3}, "second must be (prices, budget), got int"),
        ({"second": ([FLAT],)}, "second must be (prices, budget), got tuple"),
        (
            {"second": ([Price(1e-200, 1e-200)], 1e300)},
            "values[0] are worth up to 1 at a price of 1e-200, more per price than float64 holds; scale weights or "
            "prices",
        ),
        ({"second": ([FLAT], -1)}, "budget must be a number of 0 or more, got -1"),
        (
            {"second": ([one() + torch.arange(3)], 1)},
            "prices[0] go by rank for one budget and by weight for the other; give both in the same way",
        ),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_wrong_options_are_refused_before_anything_changes(options, message):
    value = one()
    with pytest.raises(InputError, match="^" + re.escape(message) + "$"):
        project_([value], [Price(2.0, 3.0, 5)], 9, **options)
    assert torch.equal(value, one())


def test_numbers_of_numpy_are_budgets():
    assert weighted_sparse_projection([one()], [FLAT], np.float32(4)).kept == (4,)
    assert weighted_sparse_projection([one()], [FLAT], np.int64(4)).kept == (4,)


def test_weights_that_share_memory_are_refused_in_place():
    value = one()
    with pytest.raises(InputError, match=r"^values\[1\] is the same memory as values\[0\]; give each tensor once$"):
        project_([value, value], [FLAT, FLAT], 1)
    with pytest.raises(InputError, match=r"^values\[0\] is an expanded view, whose weights share memory"):
        project_([torch.ones(1).expand(4)], [FLAT], 1)


def test_result_tells_what_it_is():
    result = weighted_sparse_projection([one()], [FLAT], 4)
    assert repr(result) == "Projection(4 of 6 weights, spent 4, gap 0)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_makes_the_same_choice():
    values, prices = [normal(300_000), normal(20_000, seed=1)], [Price(2.0, 2.0), Price(9.0, 11.0, 4096)]
    noise = torch.rand(20_000, generator=torch.Generator()) + 1
    for offer in (prices, [prices[0], noise]):
        wanted = weighted_sparse_projection(values, offer, 100_000)
        there = [one.cuda() if isinstance(one, torch.Tensor) else one for one in offer]
        found = weighted_sparse_projection([value.cuda() for value in values], there, 100_000)
        assert found.kept == wanted.kept
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found.values, wanted.values, strict=True))
