import numpy as np
import pytest
from profiler_toy import Dial, Host, Timed

from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.pairing import Ready
from ecc.profiler.warming import settle
from ecc.profiler.window import Window


def warm(state, **options):
    """Seconds of load until the device is called settled, and whether it was."""
    host = Host(slow=1.0, jitter=0.0, dense_s=1e-2)
    reference = Ready(host.prepare(Timed(1e-2), None), 1e-2)
    found = settle(reference, host, Dial(host, state), Window(**options), host)
    return host.time, found


def heating(tau_s, rise_c=40.0, clock_hz=lambda now: 1.5e9):
    """A board that warms up exponentially; its sensor tells whole degrees."""
    return lambda visit, now: Conditions(
        temperature_c=float(np.round(30 + rise_c * (1 - np.exp(-now / tau_s)))), clock_hz=clock_hz(now)
    )


@pytest.mark.parametrize("tau_s", [5.0, 15.0, 30.0], ids="tau={}".format)
def test_a_device_is_loaded_until_it_warms_by_less_than_a_degree_in_30_s(tau_s):
    seconds, found = warm(heating(tau_s))
    assert found
    rising = 40 * (np.exp(-(seconds - 30) / tau_s) - np.exp(-seconds / tau_s))
    assert rising < 1.6  # of the true temperature, which the sensor rounds
    assert seconds < 30 + 6 * tau_s


def test_a_device_that_never_settles_is_given_up_at_the_cap():
    seconds, found = warm(heating(1000.0, rise_c=400.0), device_warm_up_max_s=120.0)
    assert not found
    assert 120 <= seconds < 122


def test_a_clock_that_falls_is_waited_for():
    assert warm(heating(1.0))[0] < 36
    seconds, found = warm(heating(1.0, clock_hz=lambda now: 1.9e9 if now < 20 else 1.5e9))
    assert found
    assert seconds > 20 + 15  # until the fall leaves the earlier half of the last 30 s
    assert seconds > 40


def test_a_device_that_tells_nothing_is_not_waited_for():
    seconds, found = warm(lambda visit, now: UNKNOWN)
    assert found
    assert seconds < 1.5


def test_a_device_that_tells_its_clock_only_is_judged_by_that():
    seconds, found = warm(lambda visit, now: Conditions(clock_hz=1e9))
    assert found
    assert 30 <= seconds < 33
