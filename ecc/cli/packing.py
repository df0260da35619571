"""Packed weights as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecc.api.staged import Staged
from ecc.cli.tables import table
from ecc.report.style import quantity
from ecc.stages.candidates import LEFT

__all__ = ["staged_text", "tensors_text"]

_MOST_ROWS = 60
_MOST_NAMES = 6


def staged_text(result: Staged) -> str:
    """What secondary stages did: a row each, the bytes beside those of the dense network, and the budgets."""
    rows: list[Sequence[Any]] = [["as it was", result.bytes_before, "", _accuracy(result.accuracy_before), ""]]
    for stage in result.stages:
        ratio = f"{result.bytes_before / stage.bytes:.1f}×"
        rows.append([stage.name, stage.bytes, ratio, _accuracy(stage.accuracy), f"{stage.seconds:.1f} s"])
    dense = f"{result.dense_bytes / result.nbytes:.1f} times less than the {quantity(result.dense_bytes, 'B')}"
    summary = (
        f"{quantity(result.nbytes, 'B')} on disk, {result.ratio:.1f} times less than before and {dense} of the dense "
        "network's parameters as floats"
    )
    lines = [table(["stage", "bytes", "ratio", "accuracy", "time"], rows), *_left(result), summary]
    return "\n".join([*lines, *map(str, result.budgets)])


def _left(result: Staged) -> list[str]:
    """A line per stage that has left tensors as they were."""
    lines: list[str] = []
    for stage in result.stages:
        if names := [name for name, choice in stage.choices.items() if choice == LEFT]:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            lines.append(f"{stage.name} left as it was: {', '.join(names[:_MOST_NAMES])}{more}")
    return lines


def _accuracy(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def tensors_text(value: Mapping[str, Any]) -> str:
    """The tensors of ``inspect`` or ``inspect_packed``, a row each; of many the largest, in their order."""
    tensors: Mapping[str, Mapping[str, Any]] = value["tensors"]
    shown = set(sorted(tensors, key=lambda name: -tensors[name]["bytes"])[:_MOST_ROWS])
    rows = [
        [
            name,
            "x".join(map(str, row["shape"])) or "one number",
            row["form"],
            row["coder"] or "–",
            row["entries"],
            row["bytes"],
            f"{row['bits']:.2f}",
        ]
        for name, row in tensors.items()
        if name in shown
    ]
    left = [f"and {len(tensors) - len(shown)} smaller ones; --json has all"] if len(tensors) > len(shown) else []
    total, dense = (sum(row[part] for row in tensors.values()) for part in ("bytes", "dense_bytes"))
    ties = [f"{alias} is tied to {name}" for alias, name in value.get("tied", {}).items()]
    ratio = f"{dense / max(total, 1):.1f} times less than they take decoded"
    summary = f"{len(tensors)} tensors in {quantity(total, 'B')}, {ratio}"
    header = ["tensor", "shape", "stored as", "coder", "entries", "bytes", "bits per number"]
    return "\n".join([table(header, rows), *left, *ties, summary])
