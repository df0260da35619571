import numpy as np
import pytest
from profiler_toy import Host, Timed, Watch
from scipy import stats

from ecc.core.meter import Reading
from ecc.profiler.pairing import Pairs, Ready, alternate, estimate, median_interval, ready, spread
from ecc.profiler.window import Window


@pytest.mark.parametrize("n", [6, 7, 24, 61, 200], ids="n={}".format)
def test_the_interval_is_the_one_of_the_quantile_test(n):
    values = np.random.default_rng(n).lognormal(size=n)
    oracle = stats.quantile_test(values, q=1.0, p=0.5).confidence_interval(0.95)
    assert median_interval(values) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("n", [2, 3, 5], ids="n={}".format)
def test_below_six_values_the_interval_is_the_t_interval_of_the_logarithms(n):
    values = np.random.default_rng(n).lognormal(size=n)
    logs = np.log(values)
    oracle = stats.t.interval(0.95, n - 1, loc=logs.mean(), scale=stats.sem(logs))
    assert median_interval(values) == pytest.approx(tuple(np.exp(oracle)))


def test_one_value_says_nothing_about_the_noise():
    assert median_interval(np.array([2.0])) == (0.0, np.inf)


@pytest.mark.parametrize("n", [3, 6, 20, 60], ids="n={}".format)
def test_intervals_hold_the_median_in_95_of_100_cases(n):
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.lognormal(sigma=0.05, size=n)) for _ in range(2000)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert 0.94 <= covered <= 0.995


def test_pairs_cancel_the_speed_of_the_host():
    host = Host(slow=2.0)
    network, reference = (Ready(host.prepare(Timed(s), None), 1.0) for s in (3e-3, 10e-3))
    pairs = alternate(network, reference, Watch(host), 300, np.random.default_rng(0), clock=host)
    found = estimate([pairs])
    assert found.low <= 0.3 <= found.high
    assert found.half_width < 0.005
    assert pairs.values.max() / pairs.values.min() > 1.9  # the host did switch


def test_who_goes_first_changes_from_pair_to_pair():
    order = []
    first, second = (Ready(lambda _, name=name: order.append(name), 1.0) for name in "ab")
    watch = Watch(Host())
    watch.end = lambda: Reading(1.0)
    alternate(first, second, watch, 4, np.random.default_rng(0))
    lead_ins_and_windows = ("aabbbaaabbbaa", "bbaaabbbaaabb")  # caches are warm where nobody changed
    assert "".join(order) in lead_ins_and_windows


def test_short_networks_fill_the_window_and_readings_are_per_inference():
    host = Host(jitter=0.0, slow=1.0)
    calls = []

    def run(times):
        calls.append(times)
        host.time += times * 1e-3

    pairs = alternate(Ready(run, 1e-3), Ready(run, 1e-3), Watch(host, shortest_window_s=0.02), 2, host.rng)
    assert calls == [1, 20, 1, 20, 20, 1, 20]
    assert pairs.values == pytest.approx(1e-3)
    assert pairs.references == pytest.approx(1e-3)


def test_the_reading_of_a_burst_is_the_median_of_its_windows_after_one_lead_in():
    host = Host(jitter=0.0, slow=1.0)
    calls = []

    def run(times):
        calls.append(times)
        host.time += 0.1 if len(calls) % 11 == 5 else times * 1e-3  # one window in ten is hit

    pairs = alternate(Ready(run, 1e-3), Ready(run, 1e-3), Watch(host), 3, host.rng, burst=10, clock=host)
    assert len(calls) == 3 * 2 * 10 + 4
    assert pairs.values == pytest.approx(1e-3)
    assert pairs.references == pytest.approx(1e-3)
    assert pairs.inside_s == pytest.approx(3 * 2 * (0.1 + 9e-3))


@pytest.mark.parametrize(
    ("inference_s", "window_s", "windows"),
    [(2e-5, 5e-4, 30), (1.25e-4, 5e-4, 30), (1e-3, 5e-4, 20), (5e-3, 5e-4, 14), (0.1, 5e-4, 1), (1e-3, 2.0, 1)],
    ids=["shorter", "short", "middle", "longer", "long", "energy"],
)
def test_a_burst_is_as_long_as_makes_the_lead_in_cheap_and_lets_caches_settle(inference_s, window_s, windows):
    assert Ready(lambda _: None, inference_s).burst(window_s, 30) == windows


class Cold:
    """A network whose inferences are slow after the other network ran, and settle."""

    def __init__(self, host, seconds, slowness):
        self.host, self.seconds, self.slowness = host, seconds, slowness
        self.since = 0

    def run(self, times):
        for _ in range(times):
            self.host.spend(self.seconds * (1 + self.slowness * 0.5**self.since), 1.0)
            self.since += 1


def cold_pairs(slowness, *, stall=False):
    host = Host()
    first, second = (Cold(host, seconds, slowness) for seconds in (1e-3, 2e-3))
    calls = []

    def after(mine, other):
        def run(times):
            other.since = 0
            calls.append(times)
            mine.run(times)
            if stall and len(calls) == 20:
                host.spend(5e-3, 1.0)

        return run

    sides = (Ready(after(first, second), 1e-3), Ready(after(second, first), 2e-3))
    return alternate(*sides, Watch(host), 5, host.rng, burst=40, clock=host)


def test_windows_in_which_the_caches_still_settle_do_not_count():
    pairs = cold_pairs(1.0)
    assert pairs.values == pytest.approx(1e-3, rel=0.001)
    assert pairs.references == pytest.approx(2e-3, rel=0.006)  # the median of all ten is 1.2 % above
    assert pairs.inside_s < 5 * (20e-3 + 20e-3)


def test_where_nothing_settles_every_window_counts_and_a_stall_in_one_changes_nothing():
    pairs = cold_pairs(0.0, stall=True)
    assert pairs.values == pytest.approx(1e-3)
    assert pairs.inside_s == pytest.approx(5 * (20e-3 + 28e-3) + 5e-3)


def test_long_preparations_are_followed_by_as_much_measuring_but_not_by_more_than_would_be_enough():
    window, watch = Window(blocks=3, pairs=5, max_blocks=8), Watch(Host())
    assert [window.pairs_of(watch, prepared) for prepared in (0.0, 4.9, 7.2, 1e3)] == [5, 5, 8, 13]
    assert window.pairs_of(Watch(Host(), shortest_window_s=2.0), 1e3) == window.long_pairs


@pytest.mark.parametrize(
    ("inference_s", "window_s", "expected"),
    [(1e-4, 5e-4, 5), (2e-3, 5e-4, 1), (0.1, 5e-4, 0), (1e-3, 2.0, 100), (0.1, 2.0, 1)],
    ids=["short", "middle", "long", "energy", "long energy"],
)
def test_only_networks_that_do_not_fill_the_caches_themselves_have_a_lead_in(inference_s, window_s, expected):
    assert Ready(lambda _: None, inference_s).lead_in(window_s) == expected


def test_from_nine_blocks_on_the_interval_allows_for_blocks_that_differ():
    rng = np.random.default_rng(1)
    covered = {"blocks": 0, "pooled": 0}
    for _ in range(200):
        ratios = np.exp(0.03 * rng.standard_normal((12, 1)) + 0.005 * rng.standard_normal((12, 10)))
        found = estimate([Pairs(row, np.ones(10), np.ones(10)) for row in ratios])
        low, high = median_interval(ratios.ravel())
        covered["blocks"] += found.low <= 1 <= found.high
        covered["pooled"] += low <= 1 <= high
    assert covered["blocks"] >= 185 > covered["pooled"]


def test_warming_up_runs_as_often_as_asked():
    calls = []
    host = Host()
    host.prepare = lambda module, inputs: calls.append
    found = ready(host, Timed(1.0), None, seconds=0.0, runs=4)
    assert calls == [1] * 5  # the first call is for whatever happens only once
    assert found.inference_s > 0


def two_each(rng, scatter, n):
    """Two pairs each of n configurations of ratio 1."""
    return [
        [Pairs(np.exp(each * rng.standard_normal(1)), np.ones(1), np.ones(1)) for _ in range(2)] for each in scatter(n)
    ]


@pytest.mark.parametrize(
    "scatter",
    [lambda n: np.full(n, 0.003), lambda n: 0.003 * np.sqrt(6 / np.random.default_rng(1).chisquare(6, n))],
    ids=["alike", "unlike"],
)
def test_where_pairs_are_few_the_usual_spread_makes_intervals_that_are_narrow_and_hold(scatter):
    configurations = two_each(np.random.default_rng(0), scatter, 1500)
    usual = spread(configurations)
    found = [estimate(blocks, usual) for blocks in configurations]
    alone = [estimate(blocks) for blocks in configurations]
    assert 0.94 <= np.mean([each.low <= 1 <= each.high for each in found]) <= 0.99
    assert np.median([each.half_width for each in found]) < 0.4 * np.median([each.half_width for each in alone])
    assert max(each.half_width for each in found) < 0.06 < max(each.half_width for each in alone)


def test_two_readings_that_disagree_are_known_as_such_whatever_is_usual():
    usual = spread(two_each(np.random.default_rng(0), lambda n: np.full(n, 0.003), 100))
    odd = [Pairs(np.array([value]), np.ones(1), np.ones(1)) for value in (0.97, 1.03)]
    assert estimate(odd, usual).half_width > 0.02


def test_the_usual_spread_is_not_known_of_few_configurations_nor_needed_by_many_pairs():
    rng = np.random.default_rng(0)
    assert spread(two_each(rng, lambda n: np.full(n, 0.003), 19)) is None
    many = [[Pairs(rng.lognormal(0, 0.01, 15), np.ones(15), np.ones(15))] for _ in range(30)]
    assert spread(many) is None
    usual = spread(two_each(rng, lambda n: np.full(n, 0.003), 30))
    assert estimate(many[0], usual) == estimate(many[0])
