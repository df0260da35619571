"""What is zero in a network, layer by layer, as text."""

from __future__ import annotations

from ecc.api.executing import SparseExecution
from ecc.api.sparsity import Sparsity
from ecc.cli.tables import table
from ecc.cli.text import percent, quantity

__all__ = ["execution_text", "sparsity_lines"]

_MOST_ROWS = 40


def sparsity_lines(sparsity: Sparsity) -> list[str]:
    """A row per layer: weights kept, and what it takes of the energy before and after where that is known."""
    layers = sparsity.layers
    header = ["layer", "weights", "kept", "inputs kept"] if sparsity.masks else ["layer", "weights", "kept"]
    if sparsity.unit:
        header += [f"energy before ({sparsity.unit})", "after", "saved"]
    rows = []
    for name, row in layers.head(_MOST_ROWS).iterrows():
        dense, kept = int(row["dense_size"]), int(row["nonzeros"])
        cells = [str(name), f"{dense:,}", percent(kept / max(dense, 1))]
        if sparsity.masks:
            mask = sparsity.masks.get(str(name))
            cells.append("" if mask is None else percent(float((mask != 0).double().mean())))
        if sparsity.unit:
            before, after = float(row["dense_total"]), float(row["total"])
            cells += [quantity(before, ""), quantity(after, ""), percent(1 - after / before) if before else ""]
        rows.append(cells)
    hidden = len(layers) - len(rows)
    return [table(header, rows), *([f"… and {hidden} layers more, in layers.csv"] if hidden > 0 else [])]


def execution_text(execution: SparseExecution) -> str:
    """A row per layer: its latency in CSR relative to dense, and which of the two it is run by."""
    rows = [
        [
            str(name),
            percent(row["nonzeros"] / row["size"]),
            row["reason"] or f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            "CSR" if row["chosen"] and execution.pays else "dense",
        ]
        for name, row in execution.layers.iterrows()
    ]
    return "\n".join([table(["layer", "kept", "latency in CSR / dense", "run"], rows), str(execution)])
