import gc
import sqlite3

import numpy as np
import pytest
import torch
from profiler_toy import DENSE, INPUTS, NAMES, Host, Timed, Watch, toy_graph, true_ratio
from torch import nn

from ecc.core.errors import InputError, Interrupted, MeterError
from ecc.profiler.design import sample
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.protocol import compare, profile
from ecc.profiler.window import Window

GRAPH = toy_graph()
DESIGN = sample(GRAPH.space, 12)
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, pairs=10, max_blocks=3)


def measure(host=None, design=DESIGN, *, watch=None, graph=GRAPH, inputs=INPUTS, window=QUICK, **options):
    host = host or Host()
    meters = [watch or Watch(host)]
    return profile(Timed(1.0), graph, inputs, design, meters, window=window, runtime=host, build=host.build, **options)


def records(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_ratios_are_right_on_a_host_that_switches_speed_where_plain_medians_are_not():
    result = measure(Host(slow=1.6))
    truth = np.array([true_ratio(dict(zip(NAMES, row, strict=True))) for row in result.table.widths.tolist()])
    rows = result.table.rows
    assert np.abs(rows["latency_ratio"] / truth - 1).max() < 0.01
    assert np.abs(rows["latency_s"] / 1e-3 / truth - 1).max() > 0.2
    inside = (rows["latency_ratio_low"] <= truth) & (truth <= rows["latency_ratio_high"])
    assert inside.mean() >= 0.8


def test_every_configuration_is_visited_once_per_block_in_a_fresh_order(tmp_path):
    measure(store=tmp_path / "p.db")
    order = [
        [config for (config,) in records(tmp_path / "p.db", f"SELECT config FROM rows WHERE block = {b} ORDER BY id")]
        for b in range(3)
    ]
    assert [len(set(block)) for block in order] == [len(block) for block in order] == [12, 12, 12]
    assert order[0] != order[1] != order[2] != order[0]


def test_one_seed_gives_one_order_of_measurement(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        measure(store=tmp_path / name, seed=seed)
    order = {name: records(tmp_path / name, "SELECT config, block FROM rows ORDER BY id") for name in "abc"}
    assert order["a"] == order["b"] != order["c"]


def test_a_second_call_measures_nothing_and_builds_nothing(tmp_path):
    first = measure(store=tmp_path / "p.db")
    host = Host()
    second = measure(host, store=tmp_path / "p.db")
    assert (first.measured, first.reused) == (36, 0)
    assert (second.measured, second.reused) == (0, 12)
    assert host.built == []
    assert second.table.rows["latency_ratio"].tolist() == first.table.rows["latency_ratio"].tolist()


def test_a_longer_design_reuses_the_rows_of_a_shorter_one(tmp_path):
    measure(store=tmp_path / "p.db", design=DESIGN[:8])
    longer = measure(store=tmp_path / "p.db", design=DESIGN)
    assert (longer.measured, longer.reused, len(longer.table)) == (12, 8, 12)


@pytest.mark.parametrize("stop_at", [1, 19, 20, 333], ids="reading={}".format)
def test_an_interrupted_profile_keeps_every_finished_row_and_goes_on_from_there(tmp_path, stop_at):
    host = Host()
    with pytest.raises(Interrupted, match=f"^interrupted; {stop_at // 20} new rows are in the store$"):
        measure(host, watch=Watch(host, stop_at=stop_at), store=tmp_path / "p.db")
    kept = records(tmp_path / "p.db", "SELECT config, block FROM rows ORDER BY id")
    assert len(kept) == stop_at // 20
    result = measure(store=tmp_path / "p.db")
    everything = records(tmp_path / "p.db", "SELECT config, block FROM rows ORDER BY id")
    assert result.measured == 36 - len(kept)
    assert everything[: len(kept)] == kept
    assert len(set(everything)) == len(everything) == 36


def test_rows_before_a_meter_fails_are_kept(tmp_path):
    host = Host()
    with pytest.raises(MeterError, match=r"^the sensor is gone$"):
        measure(host, watch=Watch(host, stop_at=100, error=MeterError), store=tmp_path / "p.db")
    assert len(records(tmp_path / "p.db", "SELECT * FROM rows")) == 5


def test_imprecise_configurations_are_visited_again_until_they_are_precise_or_flagged():
    window = Window(
        device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=2, pairs=10, rel_half_width=0.02, max_blocks=5
    )
    calm, wild = measure(Host(jitter=0.002), window=window), measure(Host(jitter=0.3), window=window)
    assert set(calm.table.rows["n"]) == {20}
    assert set(calm.table.rows["flags"]) == {""}
    assert set(wild.table.rows["n"]) == {50}
    assert all("noisy" in flags for flags in wild.table.rows["flags"])
    assert wild.noise["latency"] > 0.02 > calm.noise["latency"]


def test_no_additional_visits_after_the_time_is_up():
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=2, pairs=5, max_s=1e-9)
    assert set(measure(Host(jitter=0.3), window=window).table.rows["n"]) == {10}


def test_a_run_that_finds_the_reference_elsewhere_is_recorded_as_a_new_one(tmp_path):
    path = tmp_path / "p.db"
    measure(Host(slow=1.0), store=path, design=DESIGN[:4])
    measure(Host(slow=1.0), store=path, design=DESIGN[:8])
    assert records(path, "SELECT count(*) FROM runs") == [(1,)]
    measure(Host(slow=1.0, dense_s=1.2e-3), store=path)
    assert records(path, "SELECT count(*) FROM runs") == [(2,)]
    assert records(path, "SELECT run, count(*) FROM rows GROUP BY run") == [(1, 24), (2, 12)]


def test_new_versions_of_the_software_are_recorded_as_a_new_run(tmp_path, monkeypatch):
    path = tmp_path / "p.db"
    measure(Host(slow=1.0), store=path, design=DESIGN[:4])
    monkeypatch.setattr(torch, "__version__", "9.9")
    measure(Host(slow=1.0), store=path, design=DESIGN[:5])
    assert records(path, "SELECT json_extract(provenance, '$.environment.torch') = '9.9' FROM runs") == [(0,), (1,)]


def test_drift_is_the_change_of_the_reference_over_the_profile():
    class Slowing(Watch):
        def end(self):
            reading = super().end()
            return type(reading)(reading.value * (1 + 0.3 * self.reads / 720))

    host = Host(slow=1.0)
    drift = measure(host, watch=Slowing(host)).drift["latency"]
    assert drift is not None
    assert drift.low > 0
    assert drift.significant


def test_two_metrics_share_the_networks_and_are_resumed_apart(tmp_path):
    host = Host()
    measure(host, store=tmp_path / "p.db", design=DESIGN[:4])
    again = Host()
    energy = Watch(again, metric="energy", shortest_window_s=1.0)
    result = profile(
        Timed(1.0), GRAPH, INPUTS, DESIGN[:4], [Watch(again), energy],
        window=Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, pairs=10, max_blocks=3),
        runtime=again, store=tmp_path / "p.db", build=again.build,
    )  # fmt: skip
    assert result.table.metrics == ("latency", "energy")
    assert result.measured == 4 * 3  # latency was there already
    assert set(result.table.rows["energy_n"]) == {3}
    assert set(result.table.rows["latency_n"]) == {30}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(2, 3)}, "input shape 2x3 instead of 1x3"),
        ({"window": Window(device_warm_up_s=0.0, threads=2)}, "threads 2 instead of 1"),
        ({"host": Host(name="compiled")}, "runtime compiled instead of eager"),
    ],
    ids=["shape", "threads", "runtime"],
)
def test_a_store_of_something_else_is_refused_before_anything_is_measured(tmp_path, change, message):
    measure(store=tmp_path / "p.db", design=DESIGN[:2])
    host = change.setdefault("host", Host())
    with pytest.raises(InputError, match=f"belongs to another profile: this one has {message}; give another --store$"):
        measure(**change, store=tmp_path / "p.db")
    assert host.built == []


def test_a_network_that_does_not_take_the_inputs_is_refused_with_its_own_words():
    design = [{}]
    network = nn.Linear(4, 2)
    with pytest.raises(InputError, match=r"^the network does not run on inputs of shape \(1, 3\): mat1 and mat2"):
        profile(network, GRAPH, INPUTS, design, [CpuLatency()], window=QUICK, build=lambda widths: network)


def test_nothing_to_measure_is_refused():
    with pytest.raises(InputError, match="needs at least one configuration and one meter"):
        measure(design=[])


def test_progress_ends_at_its_total():
    told = []
    measure(progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told[0][2] == told[-1][2] == 36
    assert [done for _, done, _ in told] == list(range(1, 37))


def test_threads_and_garbage_collection_are_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen = []

    class Spy(Watch):
        def end(self):
            seen.append((torch.get_num_threads(), gc.isenabled()))
            return super().end()

    host = Host()
    try:
        measure(host, watch=Spy(host))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {(1, False)}
    assert after == 3
    assert gc.isenabled()


def test_compare_finds_the_ratios_of_finished_networks():
    host = Host(slow=1.6)
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, rel_half_width=0.005)
    found = compare(Timed(1e-3), [Timed(5e-4), Timed(1e-3)], INPUTS, [Watch(host)], window=window, runtime=host)
    for comparison, truth in zip(found, (0.5, 1.0), strict=True):
        estimate = comparison.estimates["latency"]
        assert estimate.ratio == pytest.approx(truth, rel=0.01)
        assert estimate.half_width <= 0.005
        assert comparison.flags["latency"] == ()
        low, high = comparison.intervals["latency"]
        assert low <= estimate.value <= high


def test_compare_says_when_time_ran_out_before_the_interval_was_narrow():
    host = Host(jitter=0.5)
    window = Window(
        device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, pairs=5, rel_half_width=1e-5, max_s=0.05
    )
    (found,) = compare(Timed(1e-3), [Timed(5e-4)], INPUTS, [Watch(host)], window=window, runtime=host)
    assert found.flags["latency"] == ("noisy",)


def test_compare_leaves_the_networks_in_the_mode_they_were_in():
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout()).train()
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, blocks=1, pairs=2, rel_half_width=0.9, max_s=5.0)
    (found,) = compare(network, [network], INPUTS, [CpuLatency()], window=window)
    assert network.training
    assert found.estimates["latency"].value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, r"Window\(pairs=...\) must be at least 1, got 0"),
        ({"rel_half_width": 2}, r"Window\(rel_half_width=...\) must be in \(0, 1\), got 2"),
        ({"warm_up_s": float("nan")}, r"Window\(warm_up_s=...\) must be a number of seconds from 0, got nan"),
        ({"max_s": 0}, r"Window\(max_s=...\) must be positive, got 0"),
    ],
)
def test_a_window_refuses_nonsense(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Window(**options)


def test_dense_and_names_of_the_toy_agree_with_its_graph():
    assert GRAPH.space.full == dict(zip(NAMES, DENSE, strict=True))
