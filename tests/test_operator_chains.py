from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_toy import run
from profiler_toy import Host, Timed, Watch
from test_additive import GRAPH, error, profile_of
from test_operator_costs import seconds, table_of

from ecc.core.errors import InputError
from ecc.core.operators import Operator
from ecc.core.table import Chain
from ecc.energy_models.cold import Cold
from ecc.energy_models.composition import compose
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.profiler import operators as module
from ecc.profiler.operator_chains import Chains, count
from ecc.profiler.operator_design import REFERENCE, choose
from ecc.profiler.operator_modules import Alone, AloneRuntime, build_chain
from ecc.profiler.operators import operator_table, profile_operators, read_operators
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.store import Store
from ecc.profiler.window import Window

QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, pairs=4, burst=1, max_blocks=1)
KINDS = ("conv", "linear", "depthwise", "batch-norm", "relu", "add", "reduce", "max-pool")
DEAR = 1.5  # times what its operators cost alone, of the toy's chains


def plain(operator):
    """What the toy's device takes."""
    return 2e-5 + 2e-10 * operator.macs + 1e-9 * (operator.reads + operator.writes + operator.weights)


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """A profile of thirty operators and five chains of them on a host whose clock is simulated."""
    monkeypatch.setattr(module, "count", lambda samples: 5)
    monkeypatch.setattr(module, "build", lambda operator, dtype: Alone(Timed(plain(operator)), ()))
    monkeypatch.setattr(
        module, "build_chain", lambda operators, dtype: Alone(Timed(DEAR * sum(map(plain, operators))), ())
    )

    def profiled(name="eager", **options):
        host = Host(jitter=0.003)
        host.name = name
        meters = [Watch(host)]
        path = tmp_path / "o.db"
        return profile_operators(meters, samples=30, runtime=host, window=QUICK, store=path, clock=host, **options)

    return profiled


# -- the design


def test_sides_of_images_are_any_number():
    """Kernels that take positions by the vector are slower at three by three than at four by four."""
    sides = Counter(each.height for each in choose(1500) if each.kind == "conv" and each.height > 1)
    assert {2, 3, 5, 6, 9, 10, 12} <= set(sides)
    assert sides[7] > sides[6]


def test_chains_follow_the_seed_and_repeat_a_few_kinds_at_all_lengths():
    chains = [Chains(3).operators(number) for number in range(40)]
    assert chains[:5] == [Chains(3).operators(number) for number in range(5)]
    assert chains[0] != Chains(4).operators(0)
    assert {len({each.kind for each in chain[:4]}) for chain in chains} == {4}
    assert all(chain[i].kind == chain[i - 4].kind for chain in chains for i in range(4, len(chain)))
    weights = [sum(each.weights for each in chain) for chain in chains]
    assert min(weights) < 1 << 18
    assert max(weights) > 1 << 22
    assert min(map(len, chains)) < 10 < 100 < max(map(len, chains))


def test_chains_are_of_operators_that_the_design_measures_alone():
    design = set(choose(1000, seed=1))
    assert {each for number in range(20) for each in Chains(1).operators(number)} <= design


def test_a_few_operators_have_no_chains():
    assert count(30) == 0
    assert count(400) >= 10
    assert count(10_000) == count(3000)


def test_a_chain_runs_every_operator_with_weights_of_its_own():
    linear = Operator("linear", batch=2, channels_in=6, channels_out=6)
    operators = (linear, Operator("embedding", length=3, channels_in=9, channels_out=4), linear)
    built = build_chain(operators, torch.bfloat16)
    chain, seen = built.operator, []
    for each in chain.operators:
        each.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs, output)))
    AloneRuntime(Eager()).prepare(built, None)(1)
    seen.clear()
    last = built()
    first, table, second = seen
    assert [layer for layer, _, _ in seen] == list(chain.operators)
    assert first[0].weight.data_ptr() != second[0].weight.data_ptr()
    assert first[1][0].data_ptr() == second[1][0].data_ptr()
    assert table[1][0].dtype == torch.int64
    assert torch.equal(last, second[2])
    assert last.dtype == torch.bfloat16


# -- the profile


def test_chains_are_kept_in_the_store_beside_the_operators(measure, tmp_path):
    found = measure()
    again = read_operators(tmp_path / "o.db")
    assert len(found.table) == len(again) == 30
    assert {chain.operators for chain in again.chains} == {Chains(0).operators(number) for number in range(5)}
    for chain in again.chains:
        expected = DEAR * sum(map(plain, chain.operators)) / plain(REFERENCE)
        assert chain.ratios["latency"] == pytest.approx(expected, rel=0.02)
    assert measure().result.measured == 0


def test_a_store_without_chains_and_a_runtime_that_merges_have_none(measure, tmp_path):
    assert measure("onnxruntime").table.chains == ()
    with Store(tmp_path / "o.db") as store:
        assert operator_table(store.table()).chains == ()


def test_chains_have_names_and_are_left_out_of_what_is_exported(measure, tmp_path):
    measure()
    said = run(f"inspect {tmp_path / 'o.db'} --csv {tmp_path / 'o.csv'} --json")
    assert said.code == 0, said.err
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert len(lines) == 31


# -- what is learnt of them


@pytest.fixture(scope="module")
def operators():
    return table_of([each for each in choose(900, seed=5) if each.kind in KINDS][:260])


@pytest.fixture(scope="module")
def learnt(operators):
    return OperatorCosts.of(operators, "latency")


def chains_of(truth, operators, seed=0, wrong=0):
    """Forty chains of measured operators, of all lengths, on a device whose calls cost more as ``truth`` says."""
    generator = np.random.default_rng(seed)
    known = operators.operators
    found = []
    for number in range(40):
        taken = [known[i] for i in generator.integers(len(known), size=round(3 * 64 ** generator.uniform()))]
        weights = sum(each.weights for each in taken)
        alone = sum(map(seconds, taken)) / seconds(REFERENCE)
        moved = max(each.reads + each.writes for each in taken)
        more = float(truth(*(torch.tensor(float(value)) for value in (alone, weights, moved)), len(set(taken))))
        ratio = (alone + more) * np.exp(generator.normal(0, 0.02)) * (4.0 if number < wrong else 1.0)
        found.append(Chain(tuple(taken), {"latency": ratio}))
    return tuple(found)


@pytest.mark.parametrize("wrong", [0, 3])
def test_what_chains_cost_more_is_found_again(operators, learnt, wrong):
    truth = Cold(3e6, 0.4, 2e-7, 3e4)
    found = Cold.of(replace(operators, chains=chains_of(truth, operators, wrong=wrong)), "latency", learnt)
    for alone, weights, moved, distinct in ((20.0, 1e5, 2e5, 5), (20.0, 1e7, 1e7, 40), (60.0, 2e7, 1e7, 90)):
        values = [*(torch.tensor(value) for value in (alone, weights, moved)), distinct]
        assert float(found(*values)) == pytest.approx(float(truth(*values)), abs=0.08 * alone)


def test_few_chains_and_those_without_the_metric_tell_nothing(operators, learnt):
    chains = chains_of(Cold(3e6, 0.4, 0.0), operators)
    assert Cold.of(replace(operators, chains=chains[:5]), "latency", learnt) == Cold()
    others = tuple(replace(chain, ratios={"energy": 1.0}) for chain in chains)
    assert not Cold.of(replace(operators, chains=others), "latency", learnt).known


def test_a_network_that_does_not_fit_into_caches_costs_what_chains_say(operators, learnt, tmp_path):
    truth = Cold(1e3, 0.5, 0.0)  # so small a cache that even this network does not fit
    told = replace(operators, chains=chains_of(truth, operators))
    plain_cost, cost = compose(GRAPH, operators, learnt=learnt), compose(GRAPH, told, learnt=learnt)

    def half_more(graph, widths):
        relative = graph.relative(graph.space.widths(widths))
        return 0.5 * sum(seconds(call.at(relative)) for call in graph.calls)

    table = profile_of(GRAPH, 60, extra=half_more)
    assert error(plain_cost, table).mean() > 0.25
    assert error(cost, table).mean() < 0.1
    assert cost.coefficients["cold"] > 0
    assert "cold" not in plain_cost.coefficients
    low, high = cost.interval(torch.tensor(table.widths))
    measured = table.rows["latency_s"].to_numpy()
    assert ((low.numpy() <= measured) & (measured <= high.numpy())).mean() > 0.9
    calibrated = cost.calibrate(profile_of(GRAPH, 12))  # what chains say does not hold of this one
    assert error(calibrated, profile_of(GRAPH, 60, seed=1)).mean() < 0.06
    for each in (cost, calibrated):
        each.save(tmp_path / "cost.json")
        assert torch.equal(load(tmp_path / "cost.json")(torch.tensor(table.widths)), each(torch.tensor(table.widths)))


def test_the_gradient_of_cold_calls_is_that_of_their_value():
    cold = Cold(3e4, 0.5, 1e-6, 1e3)
    given = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 2.0, 4.0)]
    assert torch.autograd.gradcheck(lambda alone, weights, moved: cold(alone, weights * 1e4, moved * 1e4, 5), given)


@pytest.mark.parametrize(
    "wrong", [{"capacity": -1.0}, {"share": float("nan")}, {"per_weight": float("inf")}, {"code": -1.0}]
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(InputError, match="finite and not negative"):
        Cold(**wrong)
