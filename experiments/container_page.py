"""Writes the figures of docs/container.md, behind its heading "Measured", from what container_speed.py has measured.

python experiments/container_page.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from records import MEASUREMENTS
from results_page import table

__all__ = ["write_page"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "container.md"
HEADING = "## Measured\n"
CODERS = ("packed", "huffman", "rans")


def bytes_of(rows: pd.DataFrame) -> str:
    """Bytes of each stream above its entropy."""
    head = ["stream", "symbols", "entropy, bytes", *CODERS, "constriction, no table", "zstd -19"]
    found = []
    for row in rows.to_dict("records"):
        least = row["entropy_bytes"]
        over = [f"{(row[f'{name}_bytes'] / least - 1) * 100:+.2f} %" for name in (*CODERS, "constriction", "zstd")]
        found.append([row["stream"], f"{row['count']:,}", f"{least:,}", *over])
    return table(head, found)


def speeds(rows: pd.DataFrame) -> str:
    """Millions of symbols per second of CPU."""
    head = ["symbols", *[f"{name}, code / decode" for name in (*CODERS, "constriction")]]
    found = []
    for count, part in rows.groupby("count"):
        cells = []
        for name in (*CODERS, "constriction"):
            both = [part[f"{name}_{what}_symbols_per_s"].median() / 1e6 for what in ("encode", "decode")]
            cells.append(" / ".join(f"{value:.1f}" for value in both))
        found.append([f"{count:,}", *cells])
    return table(head, found)


def networks(rows: pd.DataFrame) -> str:
    """Files of a whole network."""
    head = ["network", "coding", "float32, MB", "file, MB", "encode, s", "read and decode, s", "float32, MB/s"]
    return table(
        head,
        [
            [
                row["network"],
                row["coding"]
                + (f" (zstd -19 of it: {row['zstd_bytes'] / 1e6:.2f} MB)" if row["coding"] == "packed" else ""),
                f"{row['dense_bytes'] / 1e6:.1f}",
                f"{row['file_bytes'] / 1e6:.2f}",
                f"{row['quantise_s'] + row['encode_s']:.1f}",
                f"{row['read_s'] + row['decode_s']:.2f}",
                str(row["decode_dense_mb_per_s"]),
            ]
            for row in rows.to_dict("records")
        ],
    )


def write_page(page: Path = PAGE) -> None:
    streams = pd.read_csv(MEASUREMENTS / "container_streams.csv", dtype={"commit": str})
    whole = pd.read_csv(MEASUREMENTS / "container_networks.csv", dtype={"commit": str})
    where = f"torch {whole['torch'].iloc[-1]}, one thread, CPU time, {whole['date'].iloc[-1]}"
    text = f"""{HEADING}
By `experiments/container_speed.py` ({where}); the figures are in `experiments/measurements/container_*.csv`.
Bytes above the empirical entropy of each stream, tables and lanes included; zstd has the packed bytes, constriction
needs a table besides:

{bytes_of(streams)}

Millions of symbols per second, median over the streams:

{speeds(streams)}

AlexNet with random weights, from float32 (codes with k-means where 11 % are kept) to the file and back to float32:

{networks(whole)}
"""
    before = page.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    page.write_text(f"{before}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    write_page()
