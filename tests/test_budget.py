import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.budget import Budget
from ecc.core.cost import METRICS
from ecc.core.errors import InputError

READ = {
    "latency=0.6": Budget("latency", 0.6),
    "latency<=60%": Budget("latency", 0.6),
    "latency ≤ 60 %": Budget("latency", 0.6),
    " latency = .5 ": Budget("latency", 0.5),
    "latency=1": Budget("latency", 1.0),
    "latency=100%": Budget("latency", 1.0),
    "latency=5e-1": Budget("latency", 0.5),
    "latency=+0.5": Budget("latency", 0.5),
    "latency=5ms": Budget("latency", 5e-3, relative=False),
    "latency<= 5 ms": Budget("latency", 5e-3, relative=False),
    "latency=250us": Budget("latency", 250e-6, relative=False),
    "latency=250µs": Budget("latency", 250e-6, relative=False),
    "latency=250μs": Budget("latency", 250e-6, relative=False),
    "latency=2s": Budget("latency", 2.0, relative=False),
    "energy=12mJ": Budget("energy", 12e-3, relative=False),
    "energy=1.5J": Budget("energy", 1.5, relative=False),
    "macs=1.2GMAC": Budget("macs", 1.2e9, relative=False),
    "macs=1.2GMACs": Budget("macs", 1.2e9, relative=False),
    "macs=40e6 MAC": Budget("macs", 40e6, relative=False),
    "params=1.5M": Budget("params", 1.5e6, relative=False),
    "params=90k": Budget("params", 90e3, relative=False),
    "params=90000 params": Budget("params", 90e3, relative=False),
    "memory=50%": Budget("memory", 0.5),
    "memory<=900000 B": Budget("memory", 9e5, relative=False),
    "memory=2MB": Budget("memory", 2e6, relative=False),
    "memory=1.5 kB": Budget("memory", 1500, relative=False),
    "memory=2MiB": Budget("memory", 2 << 20, relative=False),
    "memory=1.5KiB": Budget("memory", 1536, relative=False),
    "memory=1GiB": Budget("memory", 1 << 30, relative=False),
    "memory=1TB": Budget("memory", 1e12, relative=False),
}


@pytest.mark.parametrize("text", READ)
def test_budget_is_read(text):
    budget = Budget.parse(text)
    assert (budget.metric, budget.relative) == (READ[text].metric, READ[text].relative)
    assert budget.limit == pytest.approx(READ[text].limit, rel=1e-12)


REFUSED = {
    "": "has no limit",
    "latency": "has no limit",
    "latency<0.5": "has no limit",
    "=0.5": "metric '' is unknown; choose from latency, energy, macs, params",
    "speed=0.5": "metric 'speed' is unknown",
    "Latency=0.5": "metric 'Latency' is unknown",
    "latency>=0.5": "metric 'latency>' is unknown",
    "latency=": "'' is not a number; give a fraction of dense",
    "latency=nan": "'nan' is not a number",
    "latency=inf": "'inf' is not a number",
    "latency=half": "'half' is not a number",
    "latency=ms": "'ms' is not a number",
    "latency==0.5": "'=0.5' is not a number",
    "latency=0.5 0.6": "'0.5 0.6' is not a number",
    "latency=1_000ms": "unit '_000ms' does not measure latency",
    "memory=2mB": "unit 'mB' does not measure memory; did you mean MB?",
    "memory=2KB": "unit 'KB' does not measure memory; did you mean kB?",
    "memory=2kib": "unit 'kib' does not measure memory; did you mean KiB?",
    "memory=2Mb": "unit 'Mb' does not measure memory; did you mean MB?",
    "memory=2M": "unit 'M' does not measure memory; give a fraction of dense (0.6, 60%) or an absolute value (2MB)",
    "memory=2bits": "unit 'bits' does not measure memory",
    "latency=0,5": "unit ',5' does not measure latency",
    "latency=1.2.3": "unit '.3' does not measure latency",
    "latency=5mJ": "unit 'mJ' does not measure latency",
    "latency=5m": "unit 'm' does not measure latency",
    "latency=50%%": "unit '%%' does not measure latency",
    "latency=5MS": "unit 'MS' does not measure latency",
    "energy=5ms": "unit 'ms' does not measure energy",
    "energy=5W": "unit 'W' does not measure energy",
    "macs=5M": "unit 'M' does not measure macs",
    "macs=5GFLOP": "unit 'GFLOP' does not measure macs",
    "params=5MAC": "unit 'MAC' does not measure params",
    "params=5MB": "unit 'MB' does not measure params",
    "latency=0": "must be a positive number, got 0.0",
    "latency=0%": "must be a positive number",
    "latency=0ms": "must be a positive number",
    "latency=-0.5": "must be a positive number, got -0.5",
    "latency=-5ms": "must be a positive number",
    "latency=1e999": "must be a positive number, got inf",
    "latency=1e999s": "must be a positive number, got inf",
    "latency=1e308Ts": "must be a positive number, got inf",
    "latency=1e-999": "must be a positive number, got 0.0",
    "latency=5": "is above the dense network; give a fraction of dense up to 1, or an absolute limit such as 5ms",
    "latency=101%": "is above the dense network",
    "params=90000": "or an absolute limit such as 1.5M",
}


@pytest.mark.parametrize("text", REFUSED)
def test_nonsense_is_refused_with_the_mend(text):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert REFUSED[text] in str(caught.value)
    assert caught.value.exit_code == 2


starts = st.builds(str.__add__, st.sampled_from(sorted(METRICS)), st.sampled_from(["=", "<=", " ≤ "]))


@given(st.text(max_size=40) | st.builds(str.__add__, starts, st.text("0123456789.eE+-%smJMACkGpar ", max_size=12)))
def test_any_text_is_a_sound_budget_or_one_sentence(text):
    message = ""
    try:
        budget = Budget.parse(text)
        assert budget.metric in METRICS
        assert 0 < budget.limit < math.inf
        assert not budget.relative or budget.limit <= 1
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400


def test_long_text_is_refused_quickly():
    with pytest.raises(InputError):
        Budget.parse("latency=" + "1" * 100_000 + " x y")


@given(st.sampled_from(sorted(METRICS)), st.floats(1e-6, 1))
def test_written_fraction_is_read_back(metric, limit):
    assert Budget.parse(f"{metric}={limit!r}") == Budget(metric, limit)


@pytest.mark.parametrize("limit", [math.nan, math.inf, -1.0, 0.0, 1.5])
def test_impossible_budget_is_refused_at_construction(limit):
    with pytest.raises(InputError, match="budget"):
        Budget("latency", limit)


def test_unknown_metric_is_refused_at_construction():
    with pytest.raises(InputError, match="budget metric 'beauty' is unknown; choose from latency"):
        Budget("beauty", 0.5)


def test_limit_in_the_metrics_unit():
    assert Budget("latency", 0.5).absolute(0.004) == 0.002
    assert Budget("latency", 0.003, relative=False).absolute(0.004) == 0.003
    with pytest.raises(InputError, match=r"latency ≤ 0\.005 s is above the dense network's 0\.004 s; give a smaller"):
        Budget("latency", 0.005, relative=False).absolute(0.004)


def test_budget_for_people():
    assert str(Budget("latency", 0.5)) == "latency ≤ 0.5 of dense"
    assert str(Budget("energy", 0.012, relative=False)) == "energy ≤ 0.012 J"
