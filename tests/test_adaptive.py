import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import made_up_cost, residual_net
from profiler_toy import INPUTS, Host, Timed, Watch, toy_graph
from torch import nn

from ecc.api.adaptive import Adaptation, Chooser, measure, measure_adaptively
from ecc.api.measuring import measure_widths
from ecc.core.errors import InputError, Interrupted
from ecc.core.table import ProfileTable, Provenance
from ecc.energy_models.bilinear import fit
from ecc.energy_models.judging import judge
from ecc.energy_models.leverage import choose_rows, leverage
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.design import plan
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

SPACE, LAYERS = residual_net()
GRAPH = toy_graph()
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, pairs=6, burst=1, max_blocks=1)


def stairs(relative):
    """A made-up device that takes as long for any width as for the next eighth."""
    return made_up_cost(np.ceil(relative * 8) / 8)


def table(points, *, noise=0.02, cost=stairs):
    """What the points would measure: the same noise for the same widths, whoever asks and when."""
    widths = np.array([SPACE.vector(point.widths) for point in points])
    drawn = [np.random.default_rng(row).standard_normal() for row in widths.tolist()]
    ratio = cost(widths / 64) * np.exp(noise * np.array(drawn))
    spread = 1.96 * max(noise, 1e-6)
    rows = pd.DataFrame({"latency_ratio": ratio, "latency_s": ratio, "n": 9, "flags": ""})
    rows = rows.assign(latency_ratio_low=ratio * np.exp(-spread), latency_ratio_high=ratio * np.exp(spread))
    rows["purpose"] = [point.purpose for point in points]
    return ProfileTable(Provenance("x", "f", (1,), "d", "e"), SPACE, LAYERS, widths, rows, {"latency": (1, 0.9, 1.1)})


def drive(chooser, points=(), **options):
    """The points measured, in order, when a profile is started or goes on from those given."""
    points = [*points, *(each for each in plan(SPACE, min(50, chooser.samples), layers=LAYERS) if each not in points)]
    while more := chooser(table(points, **options)):
        points += [each for each in more if each not in points]
    return points


def test_half_of_each_batch_goes_on_with_the_plan_and_half_is_chosen():
    chooser = Chooser("latency", 120)
    points = drive(chooser)
    planned = plan(SPACE, 120, layers=LAYERS)
    assert points[:50] == planned[:50]
    sizes = [batch.rows for batch in chooser.batches]
    assert sizes == list(range(50, len(points) + 1, 20))
    for start in sizes[:-1]:
        batch = points[start : start + 20]
        assert [each in planned for each in batch] == [True] * 10 + [False] * 10
        assert {each.purpose for each in batch[10:]} == {"adaptive"}
    assert len({tuple(point.widths.items()) for point in points}) == len(points)


@pytest.mark.parametrize("kept", [3, 53, 64, 90], ids="rows={}".format)
def test_an_interrupted_profile_goes_on_as_if_nothing_had_happened(kept):
    whole = Chooser("latency", 110)
    points = drive(whole)
    assert len(points) >= 90
    begun = points[:50] if kept < 50 else points[: 50 + (kept - 50) // 20 * 20]
    batch = points[len(begun) :][:20] if kept >= 50 else []
    order = np.random.default_rng(kept).permutation(len(batch))[: max(0, kept - len(begun))]
    partial = [*begun[:kept], *(batch[i] for i in order)]  # rows of a batch are measured in any order
    again = Chooser("latency", 110)
    resumed = drive(again, partial)
    assert {json.dumps(point.widths) for point in resumed} == {json.dumps(point.widths) for point in points}
    assert again.stopped == whole.stopped
    assert again.batches == whole.batches


def test_more_samples_go_on_from_where_fewer_ended():
    short, long = Chooser("latency", 61), Chooser("latency", 90)
    first = drive(short)
    assert (len(first), short.stopped) == (61, "61 samples were measured")
    assert {json.dumps(p.widths) for p in first} <= {json.dumps(p.widths) for p in drive(long)}


def test_it_stops_when_the_held_out_error_no_longer_falls():
    chooser = Chooser("latency", 1000)
    points = drive(chooser)
    assert chooser.stopped in ("the held-out error no longer falls", "the held-out error is at the noise floor")
    assert 90 <= len(points) < 400
    assert chooser.batches[-1].mape < 1.05 * chooser.batches[0].mape


def test_it_stops_at_the_noise_floor():
    chooser = Chooser("latency", 1000)
    found = table(plan(SPACE, 50, layers=LAYERS))
    rows = found.rows.assign(latency_ratio_low=found.rows["latency_ratio"] / 2)  # more noise than there is
    assert chooser(replace(found, rows=rows)) == []
    assert chooser.stopped == "the held-out error is at the noise floor"


def test_it_stops_before_a_batch_that_would_end_too_late():
    ticks = iter([0.0, 40.0, 81.0])
    chooser = Chooser("latency", 1000, max_seconds=100.0, clock=lambda: next(ticks))
    points = drive(chooser)
    assert (len(points), chooser.stopped) == (70, "the next batch would end after 100 s")


def test_a_batch_that_the_time_has_cut_short_is_not_judged(tmp_path):
    host = Stepped(slow=1.0)
    chooser = Chooser("latency", 70, max_seconds=0.5, clock=host.now)
    result = profile(
        Timed(1.0), GRAPH, INPUTS, plan(GRAPH.space, 50, layers=GRAPH.layers), [Watch(host)],
        window=QUICK, runtime=host, build=host.build, clock=host, more=chooser, over=chooser.over,
    )  # fmt: skip
    assert 1 <= len(result.table) < 50
    assert 0.5 < host.now() < 0.6
    assert (chooser.batches, chooser.stopped) == (
        [],
        "0.5 s were over before its batch was complete; the same call goes on",
    )


def test_it_stops_when_every_width_was_measured():
    chooser = Chooser("latency", 10**6)
    small = toy_graph().space
    points = plan(small, 128, layers=GRAPH.layers)
    widths = np.array([small.vector(point.widths) for point in points])
    ratio = (0.2 + 0.8 * widths.prod(1) / 128) * np.exp(0.3 * np.random.default_rng(0).standard_normal(128))
    rows = pd.DataFrame({"latency_ratio": ratio, "purpose": [p.purpose for p in points]})
    full = ProfileTable(Provenance("x", "f", (1,), "d", "e"), small, GRAPH.layers, widths, rows, {"latency": (1, 1, 1)})
    for _ in range(20):
        if not chooser(full):
            break
    assert chooser.stopped in ("all widths were measured", "the held-out error no longer falls")


def test_held_out_rows_are_those_of_the_plan():
    points = drive(Chooser("latency", 90))
    found = judge(table(points), "latency", form="bilinear")
    assert {points[row].purpose for row in found.residuals.index} == {"random"}
    assert len(found.residuals) == sum(point.purpose == "random" for point in points)


def test_json_says_what_each_batch_gave():
    chooser = Chooser("latency", 70)
    drive(chooser)
    value = json.loads(json.dumps(Adaptation(None, tuple(chooser.batches), chooser.stopped).to_json()))
    assert value["stopped"] == "70 samples were measured"
    assert [batch["rows"] for batch in value["batches"]] == [50, 70]
    assert [batch["chosen_by"] for batch in value["batches"]] == ["plan", "plan and leverage"]
    assert value["batches"][0]["noise_floor"] == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.01)


class Stepped(Host):
    """A host that takes as long for any width as for the next multiple of four."""

    def build(self, widths):
        return super().build({name: -(-width // 4) * 4 for name, width in widths.items()})


def host_profile(store, *, stop_at=10**9):
    """A profile on a simulated host, its chooser, and how often the meter was read before each of its choices."""
    host, reads = Stepped(slow=1.0), []
    watch, chooser = Watch(host, stop_at=stop_at), Chooser("latency", 70)

    def more(table):
        reads.append(watch.reads)
        return chooser(table)

    result = profile(
        Timed(1.0), GRAPH, INPUTS, plan(GRAPH.space, 50, layers=GRAPH.layers), [watch],
        window=QUICK, runtime=host, build=host.build, clock=host, store=store, more=more,
    )  # fmt: skip
    return result, chooser, reads


def test_batches_are_stored_as_they_are_measured_and_found_again(tmp_path):
    result, chooser, _ = host_profile(tmp_path / "p.db")
    assert len(result.table) == chooser.batches[-1].rows
    with Store(tmp_path / "p.db") as store:
        rows = store.table().rows
        assert rows["purpose"].tolist() == result.table.rows["purpose"].tolist()
        assert len(store.runs()) == 1
    assert {"random", "corner", "adaptive"} <= set(rows["purpose"])
    again, replayed, _ = host_profile(tmp_path / "p.db")
    assert (again.measured, again.reused) == (0, len(result.table))
    assert (len(replayed.batches), replayed.stopped) == (len(chooser.batches), chooser.stopped)
    assert [b.mape for b in replayed.batches] == pytest.approx([b.mape for b in chooser.batches], rel=1e-12)


def test_an_interrupt_within_a_batch_does_not_change_what_is_chosen(tmp_path):
    _, _, (first, second, *_) = host_profile(tmp_path / "whole.db")
    with pytest.raises(Interrupted, match="are in the store"):
        host_profile(tmp_path / "p.db", stop_at=(2 * first + second) // 3)
    with Store(tmp_path / "p.db") as store:
        begun = len(store.table())
    assert 50 < begun <= 70
    host_profile(tmp_path / "p.db")
    with Store(tmp_path / "p.db") as store, Store(tmp_path / "whole.db") as whole:
        found, expected = (each.table().widths[:70].tolist() for each in (store, whole))
    assert sorted(found) == sorted(expected)


def test_leverage_is_the_variance_of_predictions():
    # Oracle: refit with fresh noise many times, without the constraint to be active.
    points = plan(SPACE, 60, layers=LAYERS)
    fresh = np.array([SPACE.vector(point.widths) for point in plan(SPACE, 40, layers=LAYERS, seed=5)])
    found = table(points, noise=0.03, cost=made_up_cost)
    lever = leverage(Samples.of(found, "latency"), fresh)
    rng = np.random.default_rng(0)
    logs = []
    for _ in range(60):
        ratio = made_up_cost(found.widths / 64) * np.exp(0.03 * rng.standard_normal(60))
        rows = found.rows.assign(latency_ratio=ratio)
        rows = rows.assign(latency_ratio_low=ratio * np.exp(-1.96 * 1e-6), latency_ratio_high=ratio * np.exp(1.96e-6))
        logs.append(fit(replace(found, rows=rows), "latency")(torch.tensor(fresh)).log().numpy())
    spread = np.std(logs, axis=0)
    assert np.corrcoef(np.log(spread[1:]), np.log(lever[1:]))[0, 1] > 0.6


def test_each_row_is_chosen_where_the_fit_would_be_least_certain_after_those_before():
    points = plan(SPACE, 50, layers=LAYERS)
    candidates = np.array([SPACE.vector(point.widths) for point in plan(SPACE, 200, layers=LAYERS, seed=5)])[2:]
    samples = Samples.of(table(points), "latency")
    chosen = choose_rows(samples, candidates, 12)
    assert len(set(chosen)) == 12
    assert chosen[:5] == choose_rows(samples, candidates, 5)
    assert chosen[0] == int(np.argmax(leverage(samples, candidates)))
    before = leverage(samples, candidates).max()
    more = Samples.of(table([*points, *plan_of(candidates[chosen])]), "latency")
    other = Samples.of(table([*points, *plan_of(candidates[50:62])]), "latency")
    assert leverage(more, candidates).max() < leverage(other, candidates).max() < before


def plan_of(widths):
    template = plan(SPACE, 1)[0]
    return [replace(template, widths=SPACE.widths(row), purpose="adaptive") for row in widths]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive": True, "samples": 19}, "^an adaptive profile needs at least 20 samples, got 19$"),
        ({"adaptive": True, "max_seconds": 0.0}, "^the seconds that an adaptive profile may take must be positive"),
        ({"adaptive": False, "max_seconds": 5.0}, "^only an adaptive profile has a limit of seconds"),
    ],
    ids=["samples", "seconds", "plain"],
)
def test_nonsense_is_refused_before_anything_is_measured(options, message):
    with pytest.raises(InputError, match=message):
        measure(Timed(1.0), WidthGraph((), (), {}, ((1, 3),)), INPUTS, **({"max_seconds": None} | options))


def test_the_metric_that_counts_is_the_first():
    with pytest.raises(InputError, match="give each metric once, at least one"):
        measure_adaptively(Timed(1.0), GRAPH, INPUTS, metrics=())


@pytest.mark.parametrize(("step", "mend"), [(16, True), (1, False)])
def test_fewer_widths_than_samples_are_said_with_the_mend(step, mend):
    network = nn.Sequential(nn.Conv2d(1, 16 if mend else 2, 1), nn.Conv2d(16 if mend else 2, 2, 1))
    inputs = torch.zeros(1, 1, 4, 4)
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, pairs=2, burst=1, max_blocks=3)
    found = measure_widths(network, trace(network, inputs), inputs, samples=12, step=step, window=window)
    (said,) = (warning for warning in found.warnings if "samples asked for" in warning)
    assert said.startswith(f"the network has only {len(found.table)} different widths, fewer than the 12 samples")
    assert said.endswith("steps are up to 4 channels; measure with --step 1 for finer ones") == mend
