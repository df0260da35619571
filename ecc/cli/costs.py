"""What ``ecc inspect`` says of a cost model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecc.cli.tables import table
from ecc.cli.text import percent, quantity
from ecc.core.cost import METRICS
from ecc.energy_models.cost_files import read_cost
from ecc.energy_models.loading import load_cost
from ecc.energy_models.parts import describe

__all__ = ["cost_text", "inspect_cost"]

_MOST_PARTS = 20
_LONGEST = 70  # characters of a name in a column


def inspect_cost(path: Path) -> dict[str, Any]:
    """The manifest of a cost model's file.

    Raises:
        InputError: If it is none.
    """
    cost = load_cost(path)
    form, _ = read_cost(path)
    return describe(form, cost) | {"file": str(path), "bytes": path.stat().st_size}


def cost_text(value: Mapping[str, Any]) -> str:
    """The manifest for people: whose it is, how good it is, and what the dense network's cost is made of."""
    lines = [f"{value['form']} model of {value['metric']}: {_dense(value)}", *_place(value), *_error(value)]
    lines += [f"{name}: {text}" for name, text in value.get("words", {}).items()]
    lines.append(_groups(value))
    if parts := value.get("parts"):
        total = math.fsum(parts.values()) or 1.0
        rows = [[_short(name), _amount(cost, value), percent(cost / total)] for name, cost in parts.items() if cost]
        lines += ["", table(["part", "dense", "share"], rows[:_MOST_PARTS])]
        if left := sorted(parts.values(), reverse=True)[_MOST_PARTS : len(rows)]:
            lines.append(f"and {len(left)} more, together {percent(math.fsum(left) / total)}; --json has all")
    else:
        lines.append("it is no sum of parts")
    return "\n".join(lines)


def _dense(value: Mapping[str, Any]) -> str:
    text = f"dense {_amount(value['dense'], value)}"
    low, high = value.get("dense_interval", (0.0, 0.0))
    return text + (f" [{_amount(low, value)}, {_amount(high, value)}]" if low < high else "")


def _amount(cost: float, value: Mapping[str, Any]) -> str:
    """A cost with its unit, which may be an accelerator's own."""
    unit = value["unit"]
    return quantity(cost, value["metric"]) if unit == METRICS[value["metric"]] else f"{cost:.5g} {unit}"


def _place(value: Mapping[str, Any]) -> list[str]:
    """Of what, and where it was measured."""
    if "provenance" not in value:
        return [] if value["exact"] else ["of which network and device, the file does not say"]
    place = value["provenance"]
    threads = f", {place['threads']} thread{'s' if place['threads'] != 1 else ''}" if place["threads"] else ""
    shape = "×".join(map(str, place["input_shape"]))
    return [
        f"network {_short(place['network'])} ({place['fingerprint'][:8]}), input {shape}",
        f"device {_short(place['device'])} ({place['device_fingerprint'][:8]}), {place['runtime']}{threads}",
    ]


def _error(value: Mapping[str, Any]) -> list[str]:
    """How far it can be trusted."""
    if "array" in value:
        return [f"of the systolic array {value['array']['name']}: computed, not measured"]
    if value["exact"]:
        return ["exact: counted, not measured"]
    held = value.get("holdout")
    if held is None:
        return [f"fitted to {value['samples']} rows, error unknown: it was not judged on rows it had not seen"]
    lines = [
        f"fitted to {value['samples']} rows; held-out error {percent(held['mape'])} (mean), {percent(held['p95'])} "
        f"(95th percentile), {percent(held['worst'])} (worst)"
    ]
    if "interval_95" in value:
        lines.append(f"95 % intervals reach {percent(value['interval_95'])} above a prediction")
    return lines


def _groups(value: Mapping[str, Any]) -> str:
    groups = value["groups"].values()
    channels = sum(group["dense"] for group in groups)
    text = f"{len(groups)} groups, {channels} channels"
    lowest = [group["profiled"][0] / group["dense"] for group in groups if "profiled" in group]
    if lowest:
        refused = "predicts" if value.get("extrapolate") else "refuses"
        text += f"; profiled down to {percent(min(lowest))} of a group's channels, {refused} widths outside"
    return text


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
