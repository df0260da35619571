"""What the reference does is divided out as far as the configurations do it too, and no further."""

import numpy as np
import pytest
from test_store import GRAPH, WHERE

from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.steadying import Moment, shared, steadied
from ecc.profiler.tables import Visit, tabulate

SIZES = np.geomspace(0.1, 1, 60)


def moments(*, common=0.0, private=0.0, own=0.01, drift=0.0, blocks=4, sizes=SIZES, seed=0):
    """Visits on a host whose speed changes for all by ``common``, and for the reference alone by ``private``."""
    rng = np.random.default_rng(seed)
    made = []
    for block in range(blocks):
        for size in sizes:
            host = np.exp(common * rng.standard_normal() + drift * block)
            alone = np.exp(private * rng.standard_normal())
            values, references = np.exp(own * rng.standard_normal((2, 5))) * [[size * host], [host * alone]]
            made.append(Moment(size, block, Pairs(values, references, np.ones(5))))
    return made


def errors(found, references):
    ratios = [np.median(each.pairs.values / beside) for each, beside in zip(found, references, strict=True)]
    error = np.log(ratios) - np.log([each.configuration for each in found])
    return float(np.std(error))


def test_where_the_host_slows_all_alike_it_is_the_plain_ratio():
    found = moments(common=0.1)
    assert shared(found) > 0.97
    assert errors(found, steadied(found)) == pytest.approx(errors(found, [m.pairs.references for m in found]), rel=0.05)


def test_where_the_reference_alone_is_unsteady_its_noise_is_left_out():
    found = moments(private=0.1)
    assert shared(found) < 0.03
    assert errors(found, steadied(found)) < 0.2 * errors(found, [m.pairs.references for m in found])


@pytest.mark.parametrize(("common", "private"), [(0.05, 0.05), (0.02, 0.06), (0.06, 0.02)])
def test_between_these_it_is_close_to_the_weight_of_least_variance(common, private):
    found = moments(common=common, private=private, own=1e-4, blocks=8)
    assert shared(found) == pytest.approx(common**2 / (common**2 + private**2), abs=0.1)
    plain = [m.pairs.references for m in found]
    assert errors(found, steadied(found)) < errors(found, plain)


def test_drift_is_divided_out_although_the_reference_is_unsteady_beside():
    found = moments(private=0.05, drift=0.3)
    by_block = {block: [m for m in found if m.block == block] for block in range(4)}
    steady = steadied(found)
    for block, mine in by_block.items():
        ratios = [
            np.median(m.pairs.values / r) / m.configuration
            for m, r in zip(found, steady, strict=True)
            if m.block == block
        ]
        assert np.median(ratios) == pytest.approx(1, abs=0.03), (block, len(mine))


def test_a_few_wild_visits_do_not_decide():
    found = moments(common=0.05)
    wild = [
        Moment(m.configuration, m.block, Pairs(m.pairs.values, m.pairs.references * 3, m.pairs.cpu_s))
        if i % 20 == 7
        else m
        for i, m in enumerate(found)
    ]
    assert shared(wild) > 0.85


@pytest.mark.parametrize(
    "found", [moments(private=0.1, sizes=SIZES[:19]), moments(private=0.1, blocks=1), moments(own=0.0)]
)
def test_where_too_little_is_known_readings_are_divided_by_those_beside_them(found):
    assert shared(found) == 1.0
    for each, references in zip(found, steadied(found), strict=True):
        np.testing.assert_array_equal(references, each.pairs.references)


def test_a_table_is_made_of_steadied_ratios_and_tells_the_reference_as_it_was_read():
    found, calm = moments(private=0.1, sizes=np.arange(1, 41) / 40), Disturbance(0.0, 0.0, 0)
    visits = []
    for place, each in enumerate(found):
        row = place % 40
        widths = {"a": row % 16 + 1, "b": row // 16 + 1}
        visits.append(Visit(widths, each.block, row, "latency", each.pairs, float(place), 0.1, calm))
    table = tabulate(WHERE, GRAPH.space, GRAPH.layers, visits)
    error = np.log(table.rows["latency_ratio"] / (np.arange(1, 41) / 40))
    assert error.std() < 0.02  # the plain ratios are 5 % off
    assert table.reference["latency"][0] == np.median(np.concatenate([each.pairs.references for each in found]))
