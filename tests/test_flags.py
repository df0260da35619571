import numpy as np
import pytest
from profiler_toy import Dial, Host, Timed, Watch

from ecc.core.errors import MeterError, MeterReset
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.flags import Norm, Patience, bad_period, condition_flags, host_flags
from ecc.profiler.host import Disturbance
from ecc.profiler.observation import Blind, Observer
from ecc.profiler.pairing import Ready

STEADY = Conditions(clock_hz=1.5e9, temperature_c=60.0, throttled=(), foreign=0)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Simulated seconds and real counters of the host do not go together."""
    monkeypatch.setattr(Disturbance, "now", classmethod(lambda cls: cls(0.0, 0.0, 0)))


def visit(host, state, *, visits=1, watch=None, inference_s=1e-3):
    """What an observer says of so many visits, and how often it measured."""
    gauge = Dial(host, state) if state is not None else Blind()
    observer = Observer(gauge, host)
    network, reference = (Ready(host.prepare(Timed(s), None), s) for s in (inference_s, 1e-3))
    found = [
        observer.observe(network, reference, watch or Watch(host), 5, np.random.default_rng(n)) for n in range(visits)
    ]
    return [each.pairs.flags for each in found], found


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        (UNKNOWN, set()),
        (STEADY, set()),
        (Conditions(throttled=("thermal",)), {"throttled"}),
        (Conditions(throttled=("hardware-slowdown", "power-cap")), {"throttled", "power-cap"}),
        (Conditions(throttled=("power-cap", "sync-boost")), {"power-cap"}),
        (Conditions(foreign=2), {"foreign"}),
    ],
    ids=range(6),
)
def test_conditions_say_by_themselves(conditions, words):
    assert condition_flags(conditions) == words


@pytest.mark.parametrize(
    ("steal_s", "switches", "seconds", "words"),
    [
        (0.05, 50, 1.0, set()),
        (0.11, 50, 1.0, {"steal"}),
        (0.05, 101, 1.0, {"switches"}),
        (1.0, 1000, 0.1, set()),
        (None, None, 1.0, set()),
    ],
    ids=["calm", "steal", "switches", "too short", "unknown"],
)
def test_the_host_says_by_its_counters(steal_s, switches, seconds, words):
    assert host_flags(Disturbance(0.0, steal_s, switches), seconds) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clock_hz": 1.475e9}, set()),
        ({"clock_hz": 1.46e9}, {"clock"}),
        ({"clock_hz": 1.54e9}, {"clock"}),
        ({"temperature_c": 65.0}, set()),
        ({"temperature_c": 66.0}, {"temperature"}),
        ({"temperature_c": 54.0}, {"temperature"}),
    ],
    ids=str,
)
def test_clock_and_temperature_are_judged_by_the_block_so_far(change, words):
    norm = Norm()
    other = Conditions(**{"clock_hz": 1.5e9, "temperature_c": 60.0} | change)
    norm.learn(STEADY)
    norm.learn(STEADY)
    assert norm.flags(other) == set()  # two say too little
    norm.learn(STEADY)
    assert norm.flags(other) == words


def test_a_level_that_stays_becomes_the_norm():
    norm = Norm()
    for clock_hz in [1.5e9] * 5 + [1.2e9] * 6:
        norm.learn(Conditions(clock_hz=clock_hz))
    assert norm.flags(Conditions(clock_hz=1.2e9)) == set()


def test_a_second_try_is_not_worth_it_where_three_in_a_row_were_futile():
    patience = Patience()
    for _ in range(3):
        assert patience.worth(["foreign"])
        patience.learn(["foreign"], ["foreign"])
    assert not patience.worth(["foreign"])
    assert patience.worth(["foreign", "throttled"])  # of that it is not known
    assert not patience.worth([])
    assert patience.worth(["foreign"])  # it had gone meanwhile
    assert not patience.worth(["power-cap", "switches", "loaded"])


@pytest.mark.parametrize(
    ("inference_s", "bad"),
    [
        *[(0.1, True), (0.0955, True), (0.094, False), (0.05, True), (0.052, True), (0.053, False), (0.02, True)],
        *[(0.005, False), (0.033, False), (0.2, False), (0.0415, True)],
    ],
)
def test_periods_near_those_of_the_sensor_are_bad(inference_s, bad):
    assert bad_period(inference_s, 0.04) is bad


def test_a_throttled_visit_is_measured_once_more():
    (flags,), (found,) = visit(Host(), lambda n, now: STEADY if n else Conditions(throttled=("thermal",)))
    assert flags == ("retried",)
    assert found.conditions == STEADY
    (flags,), _ = visit(Host(), lambda n, now: Conditions(throttled=("thermal",)))
    assert flags == ("retried", "throttled")


def test_what_is_legitimate_is_kept_as_it_is():
    host = Host()
    gauge = lambda n, now: Conditions(throttled=("power-cap",))  # noqa: E731
    flags, _ = visit(host, gauge, visits=4)
    assert flags == [("power-cap",)] * 4


def test_a_foreign_process_that_stays_costs_three_second_tries():
    flags, _ = visit(Host(), lambda n, now: Conditions(foreign=1), visits=6)
    assert flags == [("foreign", "retried")] * 3 + [("foreign",)] * 3


def test_a_clock_that_drops_for_a_moment_is_measured_again():
    host = Host()
    flags, _ = visit(host, lambda n, now: Conditions(clock_hz=1.2e9 if n == 4 else 1.5e9), visits=6)
    assert flags == [(), (), (), (), ("retried",), ()]


def test_a_counter_that_goes_back_is_measured_once_more_and_no_more():
    host = Host()
    (flags,), _ = visit(host, None, watch=Watch(host, fails=(3,), error=MeterReset))
    assert flags == ("retried",)
    with pytest.raises(MeterReset):
        visit(host, None, watch=Watch(host, fails=(3, 5), error=MeterReset))
    with pytest.raises(MeterError):
        visit(host, None, watch=Watch(host, fails=(3,), error=MeterError))


def test_the_gauge_is_let_go_when_a_meter_fails():
    host = Host()
    gauge = Dial(host, lambda n, now: STEADY)
    observer = Observer(gauge, host)
    ready = Ready(host.prepare(Timed(1e-3), None), 1e-3)
    with pytest.raises(MeterError):
        observer.observe(ready, ready, Watch(host, fails=(2,), error=MeterError), 5, host.rng)
    assert not gauge.open


def test_inferences_in_step_with_the_sensor_of_a_board_are_flagged():
    def energy(tick_s):
        host = Host()
        return host, Watch(host, metric="energy", shortest_window_s=1.0, tick_s=tick_s)

    for tick_s, inference_s, expected in ((0.1, 0.05, ("period",)), (0.1, 0.03, ()), (None, 0.05, ())):
        host, watch = energy(tick_s)
        (flags,), _ = visit(host, None, watch=watch, inference_s=inference_s)
        assert flags == expected
