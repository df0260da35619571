import numpy as np
import pytest

from ecc.profiler.pairing import Pairs, estimate
from ecc.profiler.stopping import enough, settled
from ecc.profiler.window import Window


def visits(count, spread, pairs=10, seed=0):
    """Visits of the same ratio, whose readings scatter by that much."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        values = np.exp(spread * rng.standard_normal(pairs))
        made.append(Pairs(values, np.ones(pairs), np.ones(pairs)))
    return made


WINDOW = Window(rel_half_width=0.02, max_blocks=8)


def test_a_narrow_interval_is_enough_after_any_number_of_visits():
    assert enough(visits(1, 0.005), WINDOW)
    assert enough(visits(8, 0.005), WINDOW)


def test_a_wide_interval_that_more_visits_make_narrow_is_not_enough():
    found = visits(3, 0.06)
    assert 0.02 < estimate(found).half_width < 0.03
    assert not enough(found, WINDOW)


def test_visits_end_where_those_that_are_left_could_not_do():
    assert enough(visits(3, 1.0), WINDOW)
    assert enough(visits(3, 0.05), Window(rel_half_width=0.001, max_blocks=8))


@pytest.mark.parametrize("count", [1, 2, 7], ids="windows={}".format)
def test_a_few_windows_of_energy_say_too_little_to_give_up(count):
    assert not enough(visits(count, 0.5, pairs=1), WINDOW)


def test_a_noise_settles_the_sooner_the_more_pairs_there_are():
    share = [
        np.mean([settled(np.exp(0.1 * np.random.default_rng(seed).standard_normal(n))) for seed in range(100)])
        for n in (10, 40, 400)
    ]
    assert share[0] < 0.3 < share[2]
    assert sorted(share) == share


def test_a_noise_that_grows_has_not_settled():
    rng = np.random.default_rng(0)
    assert not settled(np.exp(np.linspace(0.01, 0.5, 60) * rng.standard_normal(60)))


@pytest.mark.parametrize("spread", [0.02, 0.05], ids="spread={}".format)
def test_rows_that_stop_early_have_intervals_as_honest_as_the_others(spread):
    held = []
    for seed in range(300):
        found = visits(3, spread, pairs=5, seed=seed)
        while not enough(found, WINDOW) and len(found) < WINDOW.max_blocks:
            found += visits(1, spread, pairs=5, seed=1000 * seed + len(found))
        held.append(estimate(found).low <= 1 <= estimate(found).high)
    assert np.mean(held) >= 0.9
