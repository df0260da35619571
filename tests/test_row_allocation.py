"""Levels for buckets under a budget, against all choices there are."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from ecc.core.errors import InputError
from ecc.stages.row_allocation import Offer, allocate, at_price, cheapest, spent


def random_offer(random: np.random.Generator, buckets: int, levels: int) -> Offer:
    """Levels of which the dearer ones distort less, as quantisers do."""
    bits = np.sort(random.integers(1, 40, levels)).astype(float)
    distortion = random.random((buckets, 1)) * 4.0 ** -np.arange(levels) * random.uniform(0.8, 1.2, (buckets, levels))
    sizes = np.outer(random.integers(1, 5, buckets), bits)
    return Offer(distortion, sizes, random.integers(0, 30, levels).astype(float))


def distortion(offers: list[Offer], chosen: list[np.ndarray]) -> float:
    return sum(
        float(offer.distortion[np.arange(len(each)), each].sum()) for offer, each in zip(offers, chosen, strict=True)
    )


def every_choice(offers: list[Offer]) -> list[tuple[float, float]]:
    """(bits, distortion) of all assignments."""
    shapes = [range(offer.bits.shape[1]) for offer in offers for _ in offer.bits]
    ends = np.cumsum([len(offer.bits) for offer in offers])[:-1]
    found = []
    for flat in product(*shapes):
        chosen = np.split(np.array(flat), ends)
        found.append((spent(offers, chosen), distortion(offers, chosen)))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_budget_holds_and_no_more_than_one_bucket_s_step_is_lost(seed):
    """Without fixed prices: the multiplier's choice differs from the best one by less than one step along a hull."""
    random = np.random.default_rng(seed)
    offers = [replace(random_offer(random, 3, 3), fixed=np.zeros(3)) for _ in range(2)]
    choices = every_choice(offers)
    cheapest, dearest = min(bits for bits, _ in choices), max(bits for bits, _ in choices)
    step = max(float(np.ptp(offer.distortion, axis=1).max()) for offer in offers)
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        budget = cheapest + share * (dearest - cheapest)
        chosen = allocate(offers, budget)
        assert spent(offers, chosen) <= budget
        best = min(each for bits, each in choices if bits <= budget)
        assert best - 1e-12 <= distortion(offers, chosen) <= best + step


@pytest.mark.parametrize("seed", range(12))
def test_codebooks_count_in_the_budget_and_nothing_that_is_as_cheap_is_much_better(seed):
    random = np.random.default_rng(seed)
    offers = [random_offer(random, 6, 3)]
    choices = every_choice(offers)
    cheapest, dearest = min(bits for bits, _ in choices), max(bits for bits, _ in choices)
    for share in (0.3, 0.6, 0.9):
        budget = cheapest + share * (dearest - cheapest)
        chosen = allocate(offers, budget)
        assert spent(offers, chosen) <= budget
        assert distortion(offers, chosen) <= 1.3 * min(each for bits, each in choices if bits <= spent(offers, chosen))


def test_at_a_price_single_levels_are_the_minimum_of_the_lagrangian():
    random = np.random.default_rng(0)
    offer = random_offer(random, 5, 2)
    for price in (1e-4, 1e-3, 1e-2, 1e-1):
        chosen = at_price([offer], price)
        value = distortion([offer], chosen) + price * spent([offer], chosen)
        assert value == pytest.approx(min(d + price * bits for bits, d in every_choice([offer])))


def test_a_budget_below_the_cheapest_levels_is_refused():
    offer = Offer(np.ones((2, 1)), np.full((2, 1), 8.0), np.array([16.0]))
    assert [each.tolist() for each in allocate([offer], 32.0)] == [[0, 0]]
    with pytest.raises(InputError, match=r"^the levels take at least 4 bytes, which is more than 3$"):
        allocate([offer], 24.0)


def test_what_is_free_of_distortion_costs_no_more_bits_than_it_must():
    """Rows that nothing depends on get the cheapest level, however large the budget is."""
    offer = Offer(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 9.0], [1.0, 9.0]]), np.zeros(2))
    assert allocate([offer], 1000.0)[0].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_the_cheapest_levels_are_the_fewest_bits_of_all_choices(seed):
    random = np.random.default_rng(seed)
    offers = [replace(random_offer(random, 3, 3), fixed=np.zeros(3)) for _ in range(2)]
    assert spent(offers, cheapest(offers)) == min(bits for bits, _ in every_choice(offers))
