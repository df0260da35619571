"""Networks drawn at random, pruned at random: never wrong in silence, and counted exactly."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import judge_random_network


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 14))
def test_a_random_network_is_pruned_exactly_and_counted_exactly(seed: int, length: int) -> None:
    judgement = judge_random_network(seed, length, draws=2)
    assert judgement.status in ("exact", "dense"), judgement.detail
