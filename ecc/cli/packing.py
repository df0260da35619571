"""Packed weights as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecc.cli.text import table
from ecc.report.style import quantity

__all__ = ["tensors_text"]

_MOST_ROWS = 60


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
