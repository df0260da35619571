import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from allocation_oracle import decomposition_error
from test_operator_costs import seconds, table_of
from torch import nn

from ecc.core.errors import InputError
from ecc.core.operators import CONVOLUTIONS
from ecc.core.table import ProfileTable, Provenance
from ecc.energy_models.additive import AdditiveCost
from ecc.energy_models.composition import compose
from ecc.energy_models.fusion import hosts
from ecc.energy_models.judging import judge
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.network.tracing import trace
from ecc.profiler.operator_design import choose

KINDS = ("conv", "linear", "depthwise", "batch-norm", "relu", "add", "reduce", "max-pool")


class Net(nn.Module):
    """Convolutions in a row, a residual add, a depthwise one."""

    def __init__(self, width=48):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(width, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(64, width, 1), nn.BatchNorm2d(width))
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU())
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        x = self.first(x)
        x = self.deep(torch.relu(x + self.back(self.inner(x))))
        return self.last(x.mean((2, 3)))


GRAPH = trace(Net(), torch.zeros(1, 3, 24, 24))
MINE = Provenance("net", GRAPH.fingerprint, (1, 3, 24, 24), "simulated", "d3v", environment={"dtype": "float32"})


def true_seconds(graph, widths, runtime="eager"):
    """What the made-up device needs for the network at widths of one row."""
    relative = graph.relative(graph.space.widths(widths))
    kept = hosts(graph.calls, runtime)
    return sum(seconds(call.at(relative)) for i, call in enumerate(graph.calls) if kept[i] == i)


def profile_of(graph, rows, *, extra=lambda graph, widths: 0.0, noise=0.005, seed=0, provenance=MINE, runtime="eager"):
    """Rows of the network on the made-up device, with what the sum of operators does not know."""
    generator = np.random.default_rng(seed)
    space = graph.space
    units = np.array(space.dense) // np.array(space.step)
    widths = generator.integers(1, units + 1, size=(rows, len(space))) * np.array(space.step)

    def total(each):
        return true_seconds(graph, each, runtime) + extra(graph, each)

    dense = total(space.dense)
    ratio = np.array([total(each) for each in widths]) / dense * np.exp(generator.normal(0, noise, rows))
    frame = pd.DataFrame(
        {"latency_ratio": ratio, "latency_ratio_low": ratio * 0.99, "latency_ratio_high": ratio * 1.01}
    )
    frame["latency_s"], frame["flags"], frame["n"] = ratio * dense, "", 12
    reference = {"latency": (dense, dense * 0.999, dense * 1.001)}
    return ProfileTable(
        replace(provenance, runtime=runtime), space, graph.layers, widths, frame, reference, graph.calls
    )


@pytest.fixture(scope="module")
def operators():
    return table_of([each for each in choose(900, seed=5) if each.kind in KINDS][:260])


@pytest.fixture(scope="module")
def learnt(operators):
    return OperatorCosts.of(operators, "latency")


@pytest.fixture(scope="module")
def cost(operators, learnt):
    return compose(GRAPH, operators, learnt=learnt)


def error(cost, table):
    with torch.no_grad():
        found = cost(torch.tensor(table.widths)).numpy()
    return np.abs(found / (table.rows["latency_ratio"] * table.reference["latency"][0]) - 1).to_numpy()


def test_a_network_that_was_never_profiled_has_its_cost_in_seconds(cost):
    table = profile_of(GRAPH, 60)
    assert error(cost, table).mean() < 0.1
    low, high = cost.interval(torch.tensor(table.widths))
    truth = table.rows["latency_s"].to_numpy()
    assert ((low.numpy() <= truth) & (truth <= high.numpy())).all()
    assert cost.reference[1] < table.reference["latency"][0] < cost.reference[2]


def planted(graph, widths):
    """Constant, and much more per weight than the operators cost."""
    relative = graph.relative(graph.space.widths(widths))
    return 2e-5 + 6e-9 * sum(call.at(relative).weights for call in graph.calls)


def test_calibration_finds_what_was_planted(cost):
    few, rest = profile_of(GRAPH, 12, extra=planted), profile_of(GRAPH, 100, extra=planted, seed=1)
    assert error(cost, rest).mean() > 0.2
    found = cost.calibrate(few)
    assert error(found, rest).mean() < 0.05
    many = cost.calibrate(profile_of(GRAPH, 200, extra=planted, seed=2))
    assert many.coefficients["weights"] == pytest.approx(planted(GRAPH, GRAPH.space.dense) - 2e-5, rel=0.5)
    assert many.coefficients["overhead"] + many.coefficients["weights"] > 0


def test_what_one_network_tells_of_the_device_serves_another(operators, learnt):
    other = trace(Net(width=96), torch.zeros(1, 3, 16, 16))
    plain = compose(other, operators, learnt=learnt)
    mine = compose(GRAPH, operators, learnt=learnt).calibrate(profile_of(GRAPH, 60, extra=planted))
    there = profile_of(other, 60, extra=planted, provenance=replace(MINE, fingerprint=other.fingerprint))
    like = compose(other, operators, learnt=learnt, like=mine)
    assert error(like, there).mean() < 0.5 * error(plain, there).mean()


def test_more_rows_are_not_worse_and_intervals_cover(cost):
    rest = profile_of(GRAPH, 200, extra=planted, seed=1)
    found = [cost.calibrate(profile_of(GRAPH, n, extra=planted)) for n in (10, 30, 100)]
    errors = [error(each, rest).mean() for each in found]
    assert errors[2] < errors[1] * 1.1 < errors[0] * 1.3
    low, high = found[2].interval(torch.tensor(rest.widths))
    truth = rest.rows["latency_s"].to_numpy()
    assert ((low.numpy() <= truth) & (truth <= high.numpy())).mean() > 0.9


def test_the_sum_is_that_of_the_operators_at_the_widths(cost):
    widths = np.array(GRAPH.space.dense) // np.array([3, 2])[: len(GRAPH.space)]
    relative = GRAPH.relative(GRAPH.space.widths(widths))
    unit = cost.unit_cost
    with torch.no_grad():
        alone = [_alone(cost, call.at(relative)) * unit for call in GRAPH.calls]
        assert float(cost(torch.tensor(widths))) == pytest.approx(sum(alone), rel=1e-9)


def _alone(cost, operator):
    from ecc.energy_models.operator_work import sizes_of

    kind = operator.kind if operator.kind in cost.operators.kinds else "conv"
    return float(cost.operators(kind, sizes_of([operator])))


def without_steps(cost):
    """The same cost, blind to paddings, so that its value is as smooth as its gradient."""

    def blind(model):
        seen = torch.ones_like(model.process.scale)
        seen[14:26] = 0.0  # the paddings among the features
        return replace(model, process=replace(model.process, scale=model.process.scale * seen))

    return replace(cost, operators=OperatorCosts(tuple(blind(model) for model in cost.operators.models)))


def test_gradients_are_finite_differences_of_what_is_smooth(cost):
    smooth = without_steps(cost.calibrate(profile_of(GRAPH, 40, extra=planted)))
    point = (torch.tensor(GRAPH.space.dense, dtype=torch.float64) * 0.77).requires_grad_()
    assert torch.autograd.gradcheck(lambda widths: 1e4 * smooth(widths), point, eps=1e-4, atol=1e-6, rtol=1e-4)


def test_gradients_point_where_cost_falls_in_spite_of_steps(cost):
    point = (torch.tensor(GRAPH.space.dense, dtype=torch.float64) * 0.77).requires_grad_()
    (slope,) = torch.autograd.grad(cost(point), point)
    with torch.no_grad():
        gain = cost(point) - cost(point - 10 * slope / slope.abs().max())
    assert float(gain) > 0


def test_batches_of_any_shape_are_alike(cost):
    widths = torch.tensor(profile_of(GRAPH, 12).widths).reshape(3, 4, -1)
    found = cost(widths)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found[1, 2], cost(widths[1, 2]))


def test_a_file_gives_the_same_cost(cost, tmp_path):
    for each in (cost, cost.calibrate(profile_of(GRAPH, 20, extra=planted))):
        each.save(tmp_path / "cost.json")
        again = load(tmp_path / "cost.json")
        assert isinstance(again, AdditiveCost)
        widths = torch.tensor(profile_of(GRAPH, 5).widths)
        torch.testing.assert_close(again(widths), each(widths))
        for mine, theirs in zip(again.interval(widths), each.interval(widths), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("parts",), []),
        (("parts", 0, "kind"), "spell"),
        (("parts", 0, "shape"), [1, 2]),
        (("parts", 0, "shape"), [1 << 40] * 14),
        (("parts", 0, "factor"), -1.0),
        (("parts", 0, "count"), 0),
        (("parts", 0, "sides"), {"colour": [[1.0, []]]}),
        (("unit_cost",), 0.0),
        (("overhead",), -1.0),
        (("per_weight",), "much"),
        (("correction",), {"scale": 0.0, "per_weight": 0.0}),
        (("operators",), []),
        (("operators",), "gone"),
        (("runtime",), 7),
    ],
)
def test_a_hostile_file_gives_one_sentence(cost, tmp_path, path, value):
    cost.save(tmp_path / "cost.json")
    document = json.loads((tmp_path / "cost.json").read_text())
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (tmp_path / "cost.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="is damaged or not from this program"):
        load(tmp_path / "cost.json")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"device_fingerprint": "0ther"}, "device"),
        ({"runtime": "compile"}, "runtime"),
        ({"threads": 4}, "threads"),
        ({"environment": {"dtype": "float16"}}, "dtype"),
    ],
)
def test_rows_of_something_else_are_refused(cost, change, word):
    table = profile_of(GRAPH, 12)
    other = replace(table, provenance=replace(table.provenance, **change))
    with pytest.raises(InputError, match=f"another {word}"):
        cost.calibrate(other)


def test_a_network_without_calls_or_of_other_operators_is_refused(operators, learnt, cost):
    with pytest.raises(InputError, match="are not known"):
        compose(replace(GRAPH, calls=()), operators, learnt=learnt)
    fewer = OperatorCosts(tuple(model for model in learnt.models if "add" not in model.kinds))
    with pytest.raises(InputError, match="holds no '"):
        compose(GRAPH, operators, learnt=fewer)
    other = trace(Net(width=32), torch.zeros(1, 3, 24, 24))
    with pytest.raises(InputError, match="whose groups are not those"):
        cost.calibrate(profile_of(other, 12))


def test_a_runtime_that_merges_is_composed_of_less(operators, learnt):
    merged = compose(GRAPH, operators, runtime="onnxruntime", learnt=learnt)
    assert {part.operator.kind for part in merged.parts} & {"batch-norm"} == set()
    assert sum(part.count for part in merged.parts) < len(GRAPH.calls)
    assert any(part.operator.kind in CONVOLUTIONS for part in merged.parts)
    table = profile_of(GRAPH, 40, runtime="onnxruntime")
    assert error(merged, table).mean() < 0.1


def test_it_is_judged_as_every_form(operators):
    fit = judge(profile_of(GRAPH, 40, extra=planted), "latency", form="additive", operators=operators)
    assert fit.form == "additive"
    assert fit.holdout["mape"] < 0.03 < fit.macs_only
    assert fit.cost.interval({})[1] > fit.cost({})


def test_it_is_the_sum_of_its_tables_over_the_groups_of_each_call(cost):
    assert decomposition_error(cost, choices=4) < 1e-9


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(24, inner, 3, padding=1), nn.BatchNorm2d(inner), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(inner, 24, 1), nn.BatchNorm2d(24))

    def forward(self, x):
        return x + self.back(self.inner(x))


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_without_blocks_it_is_composed_of_what_the_shorter_network_runs(operators, learnt, runtime):
    parts = (nn.Conv2d(3, 24, 3), Block(16), Block(32), nn.ReLU(), nn.Conv2d(24, 8, 3))
    graph = trace(nn.Sequential(*parts), torch.zeros(1, 3, 16, 16))
    cost = compose(graph, operators, learnt=learnt, runtime=runtime)
    for removed in (["1"], ["2"], ["1", "2"]):
        left = graph.without(removed)
        short = compose(left, operators, learnt=learnt, runtime=runtime)
        for widths in ({}, {"0": 10}, dict.fromkeys(left.space.names, 7)):
            assert float(cost.without(graph, removed)(widths)) == pytest.approx(float(short(widths)), rel=1e-12)
    with pytest.raises(InputError, match="composed of other calls than those of this network and this batch"):
        cost.without(trace(nn.Sequential(*parts), torch.zeros(2, 3, 16, 16)), ["1"])
