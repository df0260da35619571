"""What was measured where and when, in facts for people; and what a cost model's file says of its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ecc.artefact import Manifest
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.fitted import FittedCost
from ecc.report.style import quantity

__all__ = ["ModelFacts", "model_facts", "moment", "place_facts"]

Facts = tuple[tuple[str, str], ...]


def moment(text: str) -> str:
    """An ISO time for people, in the zone that it was written in; as it is where it is none."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = when.strftime("%Z")
    return f"{when:%Y-%m-%d %H:%M}{' ' + zone if zone else ''}"


def place_facts(manifest: Manifest, costs: Sequence[CostModel]) -> Facts:
    """Where networks were run and when, and how noisy that was; nothing of a network that was never measured."""
    fitted = [cost for cost in costs if isinstance(cost, FittedCost) and cost.provenance is not None]
    facts: list[tuple[str, str]] = []
    if manifest.device:
        facts.append(("Device", f"{manifest.device}{_in_brackets(manifest.device_fingerprint)}"))
    if manifest.runtime:
        facts.append(("Run by", _runtime(manifest, fitted)))
    if manifest.device or fitted:
        facts.append(("Input", _inputs(manifest)))
    for cost in fitted:
        facts += _of_profile(cost)
    facts += [fact for check in manifest.budgets for fact in _of_check(check, moment(manifest.created))]
    return tuple(facts)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _runtime(manifest: Manifest, fitted: Sequence[FittedCost]) -> str:
    cores = next((cost.provenance.cores for cost in fitted if cost.provenance is not None), "")
    threads = f", {manifest.threads} thread{'s' if manifest.threads != 1 else ''}" if manifest.threads else ""
    pinned = f" on core{'s' if ',' in cores else ''} {cores.replace(',', ', ')}" if cores else ""
    return f"{manifest.runtime}{threads}{pinned}"


def _inputs(manifest: Manifest) -> str:
    return "; ".join(
        f"{' × '.join(map(str, shape)) or 'one number'} {dtype}"
        for shape, dtype in zip(manifest.input_shapes, manifest.input_dtypes, strict=True)
    )


def _of_profile(cost: FittedCost) -> Facts:
    """When and how well the rows of a cost model were measured."""
    value, low, high = cost.reference
    parts = [f"{cost.samples} configurations"]
    first, last = cost.made.get("measured_from"), cost.made.get("measured_to")
    if isinstance(first, str) and isinstance(last, str):
        begun, ended = moment(first), moment(last)
        same = begun[:10] == ended[:10]
        parts.append(begun if begun == ended else f"{begun[:16] if same else begun} to {ended[11:] if same else ended}")
    noise = cost.made.get("noise")
    if isinstance(noise, int | float):
        parts.append(f"noise ± {100 * noise:.1f} % (half of a row's 95 % interval, median)")
    source = cost.provenance.energy_source if cost.provenance is not None and cost.metric == "energy" else ""
    dense = f"{quantity(value, cost.unit)} [{quantity(low, cost.unit)}, {quantity(high, cost.unit)}]"
    return (
        (f"Profile of {cost.metric}", "; ".join(parts)),
        (f"Dense {cost.metric}", f"{dense} over the whole profile"),
        *([("Energy read from", source)] if source else []),
    )


def _of_check(check: BudgetCheck, when: str) -> Facts:
    """How one budget's value came about."""
    name = f"{check.metric[:1].upper()}{check.metric[1:]}"
    if check.measured is None:
        return ((name, f"not measured: {check.reason or 'no measurement was made'}"),)
    if check.source:
        return ((name, f"computed for {check.source} from the weights; not a measurement of the device"),)
    if check.low is None or check.high is None or check.low == check.high:
        return ((name, "counted, exact"),)
    half = (check.high - check.low) / 2 / check.measured
    how = "in turn with the dense network" if check.relative else "beside the dense network"
    noise = f"± {100 * half:.1f} %" if half < float("inf") else "too few runs for an interval"
    return ((name, f"verified {when}, {how}, {noise}" if when else f"verified {how}, {noise}"),)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a cost model's accuracy.

    Attributes:
        metric: That it predicts.
        facts: From the rows that it had not seen.
        here: What it said of this network, and what was found; empty where nothing was measured.
    """

    metric: str
    facts: Facts
    here: str


def model_facts(costs: Sequence[CostModel], manifest: Manifest) -> tuple[ModelFacts, ...]:
    """Per fitted cost model, what its file says of its error, and how it did at the widths that came out."""
    checks = {check.metric: check for check in manifest.budgets}
    return tuple(
        ModelFacts(cost.metric, _of_model(cost), _here(cost, checks.get(cost.metric), manifest))
        for cost in costs
        if isinstance(cost, FittedCost)
    )


def _of_model(cost: FittedCost) -> Facts:
    held: Mapping[str, Any] = cost.holdout or {}
    made = cost.made
    shares = (
        ("held-out error, mean", held.get("mape")),
        ("95 % of errors below", held.get("p95")),
        ("largest error", held.get("worst")),
        ("within ±10 %", held.get("within_10pct")),
        ("noise of the measurement alone", made.get("noise_floor")),
        ("MACs alone", made.get("macs_only")),
        ("interval coverage", made.get("interval_coverage")),
    )
    known = [(name, f"{100 * value:.1f} %") for name, value in shares if isinstance(value, int | float)]
    return (("form", cost.form), ("configurations", str(cost.samples)), *known)


def _here(cost: FittedCost, check: BudgetCheck | None, manifest: Manifest) -> str:
    if check is None or check.measured is None or check.predicted is None or check.source or not check.dense:
        return ""
    # A relative budget is judged against the dense network of the same run, and so is what was said of it.
    of_run, of_profile = (check.dense, cost.dense) if check.relative else (1.0, 1.0)
    found, said = check.measured / of_run, check.predicted / of_profile
    off = f"{100 * (found / said - 1):+.1f} %".replace("-", "−")
    dense = f" of the dense {cost.metric}" if check.relative else ""
    both = [_value(cost, check, value) for value in (said, found)]
    text = f"Of this network it said {both[0]}{dense}, and {both[1]} was measured: {off}"
    with suppress(InputError):
        low, high = (float(end) / of_profile for end in cost.interval({**cost.space.full, **_known(cost, manifest)}))
        if not manifest.removed and 0 < low <= high < float("inf"):
            inside = "inside" if low <= found <= high else "outside"
            text += f", {inside} its 95 % interval of {_value(cost, check, low)} to {_value(cost, check, high)}"
    return f"{text}."


def _value(cost: FittedCost, check: BudgetCheck, value: float) -> str:
    return f"{100 * value:.1f} %" if check.relative else quantity(value, cost.unit)


def _known(cost: FittedCost, manifest: Manifest) -> dict[str, int]:
    return {name: width for name, width in manifest.widths.items() if name in cost.space.full}
