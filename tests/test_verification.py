import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck, Measured
from ecc.verification import Verification


def measured(ratio=0.5, half=0.01, dense=0.004, value=None, value_half=0.02):
    value = ratio * dense if value is None else value
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    return Measured(ratio, low, high, dense, value, value * math.exp(-value_half), value * math.exp(value_half))


def test_budget_holds_when_the_upper_end_is_within_the_limit():
    check = BudgetCheck.of_measurement(Budget("latency", 0.51), measured(0.5, 0.0195), predicted=0.002)
    assert check.met is True
    assert check.high == pytest.approx(0.5 * math.exp(0.0195) * 0.004)
    assert (check.limit, check.measured, check.predicted) == (0.51 * 0.004, 0.5 * 0.004, 0.002)


def test_point_estimate_within_the_limit_is_not_enough():
    check = BudgetCheck.of_measurement(Budget("latency", 0.51), measured(0.5, 0.05))
    assert check.met is False
    assert 0.5 < check.confidence < 0.975
    assert "is not certain to hold" in str(check)


def test_confidence_equals_the_share_of_simulated_truths_below_the_limit():
    check = BudgetCheck.of_measurement(Budget("latency", 0.51), measured(0.5, 0.05))
    truths = 0.5 * np.exp(np.random.default_rng(0).normal(0, 0.05 / 1.96, 400_000))
    assert check.confidence == pytest.approx((truths <= 0.51).mean(), abs=0.003)


@given(
    ratio=st.floats(0.01, 2),
    below=st.floats(0, 0.5),
    above=st.floats(0, 0.5),
    limit=st.floats(0.01, 1),
)
def test_confidence_never_contradicts_the_verdict(ratio, below, above, limit):
    value = Measured(ratio, ratio * math.exp(-below), ratio * math.exp(above), 0.1, ratio, ratio, ratio)
    check = BudgetCheck.of_measurement(Budget("energy", limit), value)
    assert 0 <= check.confidence <= 1
    assert not check.met or check.confidence >= 0.975 - 1e-6
    assert check.met or check.confidence <= 0.975 + 1e-6
    json.dumps(check.to_json(), allow_nan=False)
    assert "\n" not in str(check)


def test_absolute_budget_is_judged_by_the_networks_own_value():
    value = measured(0.5, 0.001, dense=0.004, value=0.0023, value_half=0.01)
    absolute = BudgetCheck.of_measurement(Budget("latency", 0.0022, relative=False), value)
    relative = BudgetCheck.of_measurement(Budget("latency", 0.55), value)
    assert (absolute.met, relative.met) == (False, True)
    assert (absolute.measured, relative.measured) == (0.0023, 0.002)


def test_measurement_without_interval_proves_nothing():
    value = Measured(0.3, 0.0, math.inf, 0.004, 0.0012, 0.0, math.inf)
    check = BudgetCheck.of_measurement(Budget("latency", 0.5), value)
    assert (check.met, check.confidence) == (False, 0.5)
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["high"] is None
    assert BudgetCheck.of_measurement(Budget("latency", 0.2), value).met is False


@pytest.mark.parametrize(("value", "met"), [(59, True), (60, True), (61, False)])
def test_count_is_compared_exactly(value, met):
    check = BudgetCheck.of_count(Budget("macs", 0.6), dense=100, value=value)
    assert (check.met, check.low, check.high, check.confidence) == (met, value, value, float(met))


def test_what_was_not_measured_is_null_with_its_reason():
    check = BudgetCheck.unmeasured(Budget("energy", 0.6), dense=2.0, predicted=1.1, reason="no energy meter here")
    value = check.to_json()
    assert [value[name] for name in ("measured", "low", "high", "met", "confidence")] == [None] * 5
    assert (value["limit"], value["predicted"], value["reason"]) == (1.2, 1.1, "no energy meter here")
    assert str(check) == "energy 1.10 J predicted, limit 1.20 J: not measured (no energy meter here)"


def test_lines_for_people():
    value = Measured(0.55, 0.54286, 0.55952, 0.0042, 0.00231, 0.00228, 0.00235)
    line = str(BudgetCheck.of_measurement(Budget("latency", 0.0024, relative=False), value))
    assert line == "latency 2.31 ms [2.28, 2.35] ≤ 2.40 ms: holds (> 99.9 %)"
    late = str(BudgetCheck.of_measurement(Budget("latency", 0.002, relative=False), value))
    assert late == "latency 2.31 ms [2.28, 2.35] > 2.00 ms: does not hold (< 0.1 %)"
    assert str(BudgetCheck.of_count(Budget("macs", 0.5), dense=82e6, value=40e6)) == (
        "macs 40.0 MMAC ≤ 41.0 MMAC: holds"
    )
    assert (
        str(BudgetCheck.of_count(Budget("params", 0.5), dense=3000, value=1600))
        == "params 1.60k > 1.50k: does not hold"
    )
    assert str(BudgetCheck.of_measurement(Budget("energy", 0.9), measured(0.999, dense=1000.0))).startswith(
        "energy 999 J [989, 1009] > 900 J"
    )


def test_verification_holds_only_when_all_budgets_do():
    yes = BudgetCheck.of_count(Budget("macs", 0.6), dense=100, value=50)
    no = BudgetCheck.of_count(Budget("params", 0.6), dense=100, value=90)
    unknown = BudgetCheck.unmeasured(Budget("energy", 0.6), dense=2.0, predicted=None, reason="no meter")
    assert Verification((yes,)).met is True
    assert Verification((yes, unknown)).met is None
    assert Verification((yes, unknown, no)).met is False
    assert Verification((yes, no), 0.9).to_json()["accuracy"] == 0.9
    assert str(Verification((yes, no))).count("\n") == 1


@pytest.mark.parametrize("numbers", [(0.5, 0.6, 0.7), (math.nan, 0.1, 0.7), (0.0, 0.0, 0.0)])
def test_impossible_measurement_is_refused(numbers):
    ratio, low, high = numbers
    with pytest.raises(InputError, match="a measurement must have 0 ≤ low ≤ value ≤ high"):
        Measured(ratio, low, high, 1.0, 1.0, 1.0, 1.0)
