import gc
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import torch
from profiler_toy import DENSE, IDLE_W, INPUTS, NAMES, Dial, Host, Timed, Watch, toy_graph, true_ratio
from torch import nn

from ecc.core.errors import InputError, Interrupted, MeterError
from ecc.core.meter import Reading
from ecc.profiler.conditions import Conditions
from ecc.profiler.cores import choose_cores
from ecc.profiler.design import sample
from ecc.profiler.devices import current_device
from ecc.profiler.host import Disturbance
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.pairing import median_interval
from ecc.profiler.protocol import compare, profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

GRAPH = toy_graph()
DESIGN = sample(GRAPH.space, 12)
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, pairs=10, burst=1, max_blocks=3)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Simulated seconds and real counters of the host do not go together."""
    monkeypatch.setattr(Disturbance, "now", classmethod(lambda cls: cls(0.0, 0.0, 0)))


def measure(host=None, design=DESIGN, *, watch=None, graph=GRAPH, inputs=INPUTS, window=QUICK, **options):
    host = host or Host()
    meters = [watch or Watch(host)]
    return profile(
        Timed(1.0), graph, inputs, design, meters, window=window, runtime=host, build=host.build, clock=host, **options
    )


def records(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("drift", [0.0, 0.02], ids="drift={} per s".format)
def test_on_a_host_of_two_speeds_intervals_hold_the_true_ratios_where_those_without_pairing_do_not(tmp_path, drift):
    path, design = tmp_path / "p.db", sample(GRAPH.space, 100)
    window = Window(device_warm_up_s=0.0, max_blocks=3)
    result = measure(Host(slow=1.6, jitter=0.03, drift=drift), design=design, window=window, store=path)
    truth = np.array([true_ratio(dict(zip(NAMES, row, strict=True))) for row in result.table.widths.tolist()])
    rows = result.table.rows
    assert holds(rows["latency_ratio_low"], truth, rows["latency_ratio_high"]) >= 0.9
    assert (rows["latency_ratio"] / truth - 1).abs().max() < 0.04
    dense_s = result.table.reference["latency"][0]
    with Store(path) as store:
        series = {tuple(visit.widths.values()): [] for visit in store.visits()}
        for visit in store.visits():
            series[tuple(visit.widths.values())].append(visit.pairs.values / dense_s)
    unpaired = [median_interval(np.concatenate(series[tuple(row)])) for row in result.table.widths.tolist()]
    assert holds(*np.array(unpaired).T[:1], truth, *np.array(unpaired).T[1:]) < 0.3
    assert (rows["latency_s"] / dense_s / truth - 1).abs().max() > 0.2


def holds(low, truth, high):
    """Share of intervals that hold the truth and say something: ±10 % or better."""
    return ((low <= truth) & (truth <= high) & (high < 1.2 * low)).mean()


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


def test_rows_from_before_are_those_of_the_table_also_beyond_the_design(tmp_path):
    measure(store=tmp_path / "p.db", design=DESIGN)
    shorter = measure(store=tmp_path / "p.db", design=DESIGN[:5])
    assert (shorter.measured, shorter.reused, len(shorter.table)) == (0, 12, 12)


def test_measuring_ends_with_the_row_in_work_when_its_time_is_over_and_goes_on_from_there(tmp_path):
    host = Host()
    cut = measure(host, store=tmp_path / "p.db", over=lambda: len(host.built) > 4)
    assert (cut.measured, len(cut.table)) == (4, 4)  # the first network that is built is the reference
    whole = measure(store=tmp_path / "p.db")
    assert (whole.measured, whole.reused, len(whole.table)) == (32, 4, 12)


@pytest.mark.parametrize("stop_at", [1, 19, 20, 333], ids="reading={}".format)
def test_an_interrupted_profile_keeps_every_finished_row_and_goes_on_from_there(tmp_path, stop_at):
    host = Host()
    rows = f"{stop_at // 20} new row{'' if stop_at // 20 == 1 else 's'}"
    with pytest.raises(Interrupted, match=f"^interrupted; {rows} are in the store; the same call goes on from there$"):
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
    gone = r"^the sensor is gone; 5 new rows are in the store; the same call goes on from there$"
    with pytest.raises(MeterError, match=gone):
        measure(host, watch=Watch(host, stop_at=100, error=MeterError), store=tmp_path / "p.db")
    assert len(records(tmp_path / "p.db", "SELECT * FROM rows")) == 5


def test_what_was_in_memory_only_is_not_promised_to_be_kept():
    host = Host()
    with pytest.raises(Interrupted, match=r"^interrupted; 2 new rows were kept in memory only; give a store"):
        measure(host, watch=Watch(host, stop_at=40))


def test_imprecise_configurations_are_visited_again_until_they_are_precise_or_flagged():
    window = replace(QUICK, blocks=2, max_blocks=5)
    calm, restless = (measure(Host(slow=1.0, jitter=jitter), window=window) for jitter in (0.002, 0.03))
    assert set(calm.table.rows["n"]) == {20}
    assert set(calm.table.rows["flags"]) == {""}
    assert calm.flags == {}
    rows = restless.table.rows
    half = (rows["latency_ratio_high"] - rows["latency_ratio_low"]) / 2 / rows["latency_ratio"]
    assert set(rows["n"]) > {20}
    assert (half[rows["n"] < 50] <= 0.02).all()
    assert ((rows["flags"] == "noisy") == (half > 0.02)).all()
    assert restless.flags["noisy"] == (half > 0.02).sum()


def test_noisy_configurations_get_all_visits_for_which_there_is_time_although_these_will_not_do():
    window = replace(QUICK, max_blocks=12)
    result = measure(Host(slow=1.0, jitter=0.3), window=window)
    assert set(result.table.rows["n"]) == {120}
    assert result.flags == {"noisy": 12}


def test_no_additional_visits_after_the_time_is_up():
    window = replace(QUICK, blocks=2, pairs=5, max_s=1e-9)
    assert set(measure(Host(jitter=0.3), window=window).table.rows["n"]) == {10}


def test_a_run_that_finds_the_reference_elsewhere_is_recorded_as_a_new_one(tmp_path):
    path = tmp_path / "p.db"
    measure(Host(slow=1.0), store=path, design=DESIGN[:4])
    measure(Host(slow=1.0), store=path, design=DESIGN[:8])
    assert records(path, "SELECT count(*) FROM runs") == [(1,)]
    found = measure(Host(slow=1.0, dense_s=1.2e-3), store=path)
    assert records(path, "SELECT run, count(*) FROM rows GROUP BY run") == [(1, 24), (2, 12)]
    assert found.table.rows["run"].tolist() == [1] * 8 + [2] * 4
    assert found.warnings == ("the dense network's latency is not what it was, so the new rows are a run of their own",)


def test_a_run_that_finds_old_rows_elsewhere_is_recorded_as_a_new_one(tmp_path):
    class Otherwise(Host):  # other kernels: narrow networks are slower, the dense one is not
        def build(self, widths):
            network = super().build(widths)
            return network if widths == GRAPH.space.full else Timed(1.1 * network.seconds)

    path = tmp_path / "p.db"
    measure(Host(slow=1.0), store=path, design=DESIGN[1:4])
    found = measure(Otherwise(slow=1.0), store=path, design=DESIGN[1:8])
    assert records(path, "SELECT run, count(*) FROM rows GROUP BY run") == [(1, 9), (2, 12)]
    assert found.warnings[0].startswith("the latency of a configuration measured before is not what it was")


def test_resuming_measures_the_reference_and_two_old_rows_and_keeps_no_second_reading_of_them(tmp_path):
    path = tmp_path / "p.db"
    measure(Host(slow=1.0), store=path, design=DESIGN[:6])
    host = Host(slow=1.0)
    measure(host, store=path, design=DESIGN[:7])
    new = DESIGN[6]
    assert host.built[0] == GRAPH.space.full
    assert len(host.built) == 1 + 2 + 3
    assert [widths for widths in host.built[1:] if widths != new] == host.built[1:3]
    assert len(records(path, "SELECT DISTINCT config, block, metric FROM rows")) == 7 * 3


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
    measure(Host(slow=1.0), store=tmp_path / "p.db", design=DESIGN[:4])
    result = measure_both(Host(slow=1.0), store=tmp_path / "p.db")
    assert result.table.metrics == ("latency", "energy")
    assert result.measured == 4 * 3  # latency was there already
    assert set(result.table.rows["energy_n"]) == {3}
    assert set(result.table.rows["latency_n"]) == {30}


def measure_both(host, *, window=QUICK, **options):
    meters = [Watch(host), Watch(host, metric="energy", shortest_window_s=1.0)]
    return profile(
        *(Timed(1.0), GRAPH, INPUTS, DESIGN[:4], meters),
        **{"window": window, "runtime": host, "build": host.build, "clock": host} | options,
    )


def test_idle_power_is_measured_where_energy_is_and_not_subtracted():
    result = measure_both(Host(slow=1.0))
    assert result.idle == (pytest.approx(IDLE_W), 0.0, float("inf"))  # one measurement says nothing of its noise
    assert result.table.rows["idle_w"].tolist() == pytest.approx([IDLE_W] * 4)
    truth = [true_ratio(dict(zip(NAMES, row, strict=True))) for row in result.table.widths.tolist()]
    assert result.table.rows["energy_ratio"].tolist() == pytest.approx(truth, rel=0.05)
    assert measure_both(Host(), window=replace(QUICK, idle_s=0.0)).idle is None
    assert measure().idle is None


def test_idle_power_is_measured_again_every_so_many_visits():
    host, told = Host(), []
    host.wait = lambda seconds: (told.append(seconds), host.spend(seconds, IDLE_W + len(told)))
    result = measure_both(host, window=replace(QUICK, idle_every=4))
    assert told == [1.0, 5.0] * 3  # 12 visits of networks; each measurement comes after a rest
    assert result.idle == pytest.approx((IDLE_W + 4, *median_interval(np.array([2.0, 4.0, 6.0]) + IDLE_W)))


def test_idle_power_is_unknown_and_rows_are_kept_where_it_cannot_be_measured():
    host = Host()
    meters = [Watch(host, metric="energy", shortest_window_s=1.0, fails=(1,), error=MeterError)]
    result = profile(
        *(Timed(1.0), GRAPH, INPUTS, DESIGN[:4], meters),
        window=QUICK, runtime=host, build=host.build, clock=host,
    )  # fmt: skip
    assert result.idle is None
    assert result.measured == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(2, 3)}, "input shape 2x3 instead of 1x3"),
        ({"window": Window(device_warm_up_s=0.0, threads=2)}, r"threads 2 instead of 1(, cores .*)?"),
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


def test_a_store_of_other_cores_is_refused(tmp_path, monkeypatch):
    measure(store=tmp_path / "p.db", design=DESIGN[:2])
    monkeypatch.setattr("ecc.profiler.protocol.choose_cores", lambda threads, wanted: (5, 7))
    with pytest.raises(InputError, match="this one has cores 5,7 instead of "):
        measure(store=tmp_path / "p.db")


def test_a_network_that_does_not_take_the_inputs_is_refused_with_its_own_words():
    design = [{}]
    network = nn.Linear(4, 2)
    with pytest.raises(InputError, match=r"^the network does not run on inputs of shape \(1, 3\): mat1 and mat2"):
        profile(network, GRAPH, INPUTS, design, [CpuLatency()], window=QUICK, build=lambda widths: network)


def test_nothing_to_measure_is_refused():
    with pytest.raises(InputError, match="needs at least one configuration and one meter"):
        measure(design=[])


def test_the_state_of_the_device_is_kept_beside_each_row(tmp_path):
    host = Host(slow=1.0)
    state = lambda visit, now: Conditions(clock_hz=1e9 + visit, temperature_c=60.0, throttled=())  # noqa: E731
    result = measure(host, gauge=Dial(host, state), store=tmp_path / "p.db", design=DESIGN[:5])
    assert set(result.table.rows["temperature_c"]) == {60.0}
    assert set(result.table.rows["throttled"]) == {""}
    assert "idle_w" not in result.table.rows
    with Store(tmp_path / "p.db") as store:
        assert [visit.conditions.clock_hz for visit in store.visits()] == [1e9 + n for n in range(15)]


def test_a_row_that_was_throttled_is_measured_again_and_one_that_was_so_twice_is_flagged():
    host = Host(slow=1.0)
    throttled = {2: ("thermal",), 7: ("power-brake",), 8: ("power-brake",), 10: ("power-cap",)}
    gauge = Dial(host, lambda visit, now: Conditions(throttled=throttled.get(visit, ())))
    result = measure(host, gauge=gauge, design=DESIGN[:4])
    assert gauge.visits == 4 * 3 + 2
    assert result.flags == {"retried": 2, "throttled": 1, "power-cap": 1}


def test_most_of_the_time_is_spent_within_the_windows():
    host = Host(slow=1.0, dense_s=5e-3, prepare_s=25e-3)
    result = measure(host, design=sample(GRAPH.space, 60), window=Window())
    assert result.inside >= 0.8
    assert result.seconds == pytest.approx(host.time)
    plain = measure(Host(slow=1.0, dense_s=5e-3), design=DESIGN, window=Window(burst=1))
    assert plain.inside < 0.5  # a lead-in for each window
    assert measure(store=None, design=DESIGN).inside is not None


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
    window = replace(QUICK, rel_half_width=0.005)
    found = compare(
        Timed(1e-3), [Timed(5e-4), Timed(1e-3)], INPUTS, [Watch(host)], window=window, runtime=host, clock=host
    )
    for comparison, truth in zip(found, (0.5, 1.0), strict=True):
        estimate = comparison.estimates["latency"]
        assert estimate.ratio == pytest.approx(truth, rel=0.01)
        assert estimate.half_width <= 0.005
        assert comparison.flags["latency"] == ()
        low, high = comparison.intervals["latency"]
        assert low <= estimate.value <= high


def test_compare_says_when_time_ran_out_before_the_interval_was_narrow():
    host = Host(jitter=0.5)
    window = replace(QUICK, blocks=1, pairs=5, rel_half_width=1e-5, max_s=0.05)
    (found,) = compare(Timed(1e-3), [Timed(5e-4)], INPUTS, [Watch(host)], window=window, runtime=host, clock=host)
    assert found.flags["latency"] == ("noisy",)


def test_compare_flags_what_the_gauge_saw():
    host = Host(slow=1.0)
    gauge = Dial(host, lambda visit, now: Conditions(foreign=int(visit == 1), throttled=("power-cap",)))
    (found,) = compare(
        *(Timed(1e-3), [Timed(5e-4)], INPUTS, [Watch(host)]), window=QUICK, runtime=host, clock=host, gauge=gauge
    )
    assert found.flags["latency"] == ("power-cap", "retried")


def test_compare_leaves_the_networks_in_the_mode_they_were_in():
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout()).train()
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, blocks=1, pairs=2, rel_half_width=0.9, max_s=5.0)
    (found,) = compare(network, [network], INPUTS, [CpuLatency()], window=window)
    assert network.training
    assert found.estimates["latency"].value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idle_s": -1}, r"Window\(idle_s=...\) must be a number of seconds from 0, got -1"),
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


def test_others_on_the_cores_before_the_start_are_told_and_flagged(monkeypatch):
    told = []
    monkeypatch.setattr("ecc.profiler.session.Load.foreign_share", lambda self, earlier: 0.35)
    result = measure(design=DESIGN[:3], progress=lambda stage, done, total, note="": told.append(note))
    sentence = "other processes take 35% of the cores to measure on; stop them for better rows"
    assert result.warnings == (sentence,)
    assert sentence in told
    assert result.flags == {"loaded": 3}
    monkeypatch.setattr("ecc.profiler.session.Load.foreign_share", lambda self, earlier: 0.15)
    assert measure(design=DESIGN[:3]).flags == {}


def test_an_accelerator_is_loaded_until_it_is_settled_and_its_host_is_not_pinned(monkeypatch):
    monkeypatch.setattr("ecc.profiler.protocol.current_device", lambda name: current_device("cpu"))
    host, begun = Host(slow=1.0, device="cuda"), []

    def state(visit, now):
        return Conditions(temperature_c=40.0 + min(now, 50.0), throttled=())

    class Late(Watch):
        def begin(self):
            begun.append(self.host.time)
            super().begin()

    result = measure(host, watch=Late(host), gauge=Dial(host, state), design=DESIGN[:3], window=None)
    assert 70 < begun[0] < 90  # the temperature stands still for most of the last 30 s
    assert result.warnings == ()
    assert result.table.provenance.cores == ""
    pinned = choose_cores(1)
    assert measure(design=DESIGN[:3]).table.provenance.cores == ",".join(map(str, pinned))


def test_an_accelerator_that_does_not_settle_is_told(monkeypatch):
    monkeypatch.setattr("ecc.profiler.protocol.current_device", lambda name: current_device("cpu"))
    host = Host(slow=1.0, device="cuda")
    gauge = Dial(host, lambda visit, now: Conditions(temperature_c=40.0 + now))
    result = measure(host, gauge=gauge, design=DESIGN[:3], window=replace(QUICK, device_warm_up_max_s=60.0))
    assert result.warnings == ("the device did not settle within 60 s of load",)


def test_a_window_suits_the_kind_of_device():
    assert Window.of("cpu") == Window()
    assert (Window.of("cuda").warm_up_runs, Window.of("cuda").warm_up_s, Window.of("cuda").blocks) == (10, 0.5, 2)


def test_two_windows_of_energy_are_enough_where_all_configurations_tell_how_they_scatter():
    class Noisy(Watch):
        def end(self):
            return Reading(super().end().value * np.exp(0.003 * self.host.rng.standard_normal()))

    host = Host(slow=1.0, jitter=0.0)
    window = replace(QUICK, blocks=2, max_blocks=4, idle_s=0.0)
    design = sample(GRAPH.space, 40)
    result = measure(host, design, watch=Noisy(host, "energy", shortest_window_s=1.0), window=window)
    assert set(result.table.rows["energy_n"]) == {2}
    assert result.flags == {}
    assert result.noise["energy"] < 0.012
    few = measure(host, design[:10], watch=Noisy(host, "energy", shortest_window_s=1.0), window=window)
    assert few.table.rows["energy_n"].max() > 2
