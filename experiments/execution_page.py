"""Writes the page on execution: how to leave out work, and what that was measured to be worth.

python experiments/execution_page.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from results_page import table
from stages_page import DOCS, FOLDER, made, spread

__all__ = ["write_page"]

TEXT = Path(__file__).with_name("execution_page.md")


def interval(row: pd.Series, name: str = "ratio") -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def sparse_inputs(rows: pd.DataFrame) -> str:
    """A row per length, a column per share of zeros."""
    parts = []
    for (inputs, batch), group in rows.groupby(["inputs", "batch"]):
        zeros = sorted(group.zeros.unique())
        lines = []
        for (way, outputs), own in group.groupby(["way", "outputs"]):
            cells = own.set_index("zeros")
            dense = own.dense_seconds.median() * 1e6
            found = [interval(cells.loc[each]) if each in cells.index else "" for each in zeros]
            least = interval(cells.loc[0.5], "ratio_fastest_dense") if 0.5 in cells.index else ""
            lines.append([way, str(outputs), f"{dense:.0f}", *found, least])
        shares = [f"{100 * each:.0f} % zeros" for each in zeros]
        header = ["way", "row length", "dense, µs", *shares, "50 %, beside the faster dense product"]
        parts.append(f"{inputs} inputs, batch {batch}:\n\n{table(header, lines)}")
    return "\n\n".join([*parts, made(rows)])


def sparse_weights(rows: pd.DataFrame) -> str:
    kept = sorted(rows.kept.unique())
    lines = []
    for outputs, group in rows.groupby("outputs"):
        cells = group.set_index("kept")
        found = [interval(cells.loc[each]) if each in cells.index else "" for each in kept]
        lines.append([f"{outputs} × {outputs}", f"{group.dense_seconds.median() * 1e6:.0f}", *found])
    header = ["layer", "dense, µs", *[f"{100 * each:g} % kept" for each in kept]]
    return f"{table(header, lines)}\n\n{made(rows)}"


def asked(rows: pd.DataFrame) -> str:
    shares = sorted(rows.asked.unique())
    lines = []
    for (inputs, outputs, batch, way), group in rows.groupby(["inputs", "outputs", "batch", "way"]):
        cells = group.set_index("asked")
        found = [interval(cells.loc[each]) if each in cells.index else "" for each in shares]
        dense = f"{group.dense_seconds.median() * 1e6:.0f}"
        lines.append([f"{inputs} → {outputs}", str(batch), way, dense, *found])
    header = ["last layer", "batch", "way", "all outputs, µs", *[f"{100 * each:.0f} % asked" for each in shares]]
    return f"{table(header, lines)}\n\nBar: 30 % asked in at most 0.45 of the time. {made(rows)}"


def dispatched(rows: pd.DataFrame) -> str:
    lines = [
        [
            str(row.width),
            str(row.layer),
            str(row.way),
            "" if pd.isna(row.zero_inputs) else f"{100 * row.zero_inputs:.0f} %",
            interval(row),
            "yes" if row.chosen else "",
        ]
        for _, row in rows.iterrows()
    ]
    header = ["width", "layer", "way", "zero inputs", "latency beside as it is", "chosen"]
    return f"{table(header, lines)}\n\n{made(rows)}"


def skipping(rows: pd.DataFrame) -> str:
    lines = [
        [
            str(row.model),
            str(row.every),
            interval(row),
            interval(row, "stream_ratio"),
            f"{1e6 * row.frame_seconds:.0f}",
            f"{1e6 * row.stream_frame_seconds:.0f}",
        ]
        for _, row in rows.iterrows()
    ]
    header = ["model", "k", "clips at once", "frame by frame", "µs a frame, clips", "µs a frame, one by one"]
    return f"{table(header, lines)}\n\n{made(rows)}"


def frames(rows: pd.DataFrame) -> str:
    lines = []
    for (model, trained, every), group in rows.groupby(["model", "trained_every", "every"]):
        seconds = f"{group.training_seconds.median():.0f}"
        lines.append([model, f"{trained}", f"{every}", spread(group.test_error), seconds, str(len(group))])
    header = ["model", "trained with k", "run with k", "test error, %", "seconds of training", "seeds"]
    return f"{table(header, lines)}\n\n{made(rows)}"


SECTIONS: dict[str, Callable[[pd.DataFrame], str]] = {
    "sparse_inputs": sparse_inputs,
    "sparse_weights": sparse_weights,
    "asked": asked,
    "dispatch": dispatched,
    "skipping": skipping,
    "frames": frames,
}


def write_page() -> None:
    """The text of the template with a table for each name in double braces."""
    text = TEXT.read_text()
    for name, section in SECTIONS.items():
        parts = [pd.read_csv(path, dtype={"commit": str}) for path in sorted(FOLDER.glob(f"execution_{name}*.csv"))]
        said = section(pd.concat(parts)) if parts else "Not run."
        text = text.replace(f"{{{{{name}}}}}", said)
    (DOCS / "execution.md").write_text(text)


if __name__ == "__main__":
    write_page()
