"""Writes the figures of docs/processes.md, behind its heading "Measured", from what ddp.py has measured.

python experiments/ddp_page.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from records import MEASUREMENTS
from results_page import table

__all__ = ["write_page"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "processes.md"
HEADING, NEXT = "## Measured\n", "## When one ends\n"


def differences(rows: pd.DataFrame) -> str:
    """Largest difference of a weight, by network and method."""
    head = ["network", "method", "float32", "float64", "both processes", "accuracy"]
    found = []
    for (network, method), part in rows.groupby(["network", "method"], sort=False):
        by = {row["dtype"]: row for row in part.to_dict("records")}
        single = by["float32"]
        found.append(
            [
                str(network),
                str(method),
                *(_difference(by[dtype]) if dtype in by else "" for dtype in ("float32", "float64")),
                "same bits" if part["twins"].all() and part["duals"].all() else "differ",
                f"{100 * single['accuracy of two']:.1f} %, {100 * single['accuracy of one']:.1f} %",
            ]
        )
    return table(head, found)


def _difference(row: dict[str, object]) -> str:
    return f"{row['difference']:.0e}" if row["same widths"] else "other widths"


def write_page(page: Path = PAGE) -> None:
    """Replace the part between the two headings."""
    rows = pd.read_csv(MEASUREMENTS / "ddp.csv", dtype={"commit": str})
    before, _, rest = page.read_text().partition(HEADING)
    _, _, after = rest.partition(NEXT)
    text = f"""{HEADING}
By `experiments/ddp.py` (torch {rows["torch"].iloc[-1]}, gloo, {rows["date"].iloc[-1]}), in
`experiments/measurements/ddp.csv`: a trained network for digits, compressed to half its MACs (projected-sgd: to 40 % of
its parameters) in four epochs, by two processes with batches of 48 and by one with batches of 96, of 1,001 examples.
Largest difference of any weight; whether both processes hold the same weights and duals; accuracy of the two and of the
one.

{differences(rows)}

In float64 the two ways agree to the last digits; in float32 they differ by rounding, which training amplifies.

"""
    page.write_text(f"{before}{text}{NEXT}{after}")


if __name__ == "__main__":
    write_page()
