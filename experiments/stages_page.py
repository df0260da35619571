"""Writes the page on secondary stages from what was run: every figure is in a file of experiments/measurements/stages.

python experiments/stages_page.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from records import MEASUREMENTS
from results_page import table

__all__ = ["write_page"]

FOLDER = MEASUREMENTS / "stages"
DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = ("embedding_quantisation",)
STEPS = {
    "dense": "dense, 32-bit floats",
    "pruned": "pruned, trained",
    "shared": "shared values, tuned; codes of equal length",
    "huffman": "Huffman",
    "entropy": "entropy (the least of packed, Huffman, rANS)",
    "half": "entropy, biases and codebooks in 16 bits",
}
CLAIMED = (
    ("log-quant", "8 bit", "4 times, within ±0.1 points"),
    ("product-quant", "d=1, b=8", "4 times"),
    ("product-quant", "d=1, b=7", "4 times"),
    ("product-quant", "d=2, b=12", "5 times"),
    ("product-quant", "d=2, b=11", "5 times"),
    ("multilevel, outputs", "8x", "8 times, at most 0.2 points lost"),
)


def made(rows: pd.DataFrame) -> str:
    """Where and when the rows were made."""
    first = rows.iloc[0]
    commits, dates = sorted(set(rows.commit)), " to ".join(sorted({rows.date.min(), rows.date.max()}))
    return f"torch {first.torch}, Python {first.python}, one thread. Made {dates} at {', '.join(commits)}."


def spread(values: pd.Series, digits: int = 2) -> str:
    """Mean ± standard deviation over seeds."""
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def lenets(every: pd.DataFrame) -> str:
    """Bytes and error behind each step, per network."""
    sections = []
    for network, rows in every[every.network != "resnet20"].groupby("network"):
        dense = rows[rows.step == "dense"].set_index("seed").error_percent
        lines = []
        for step, said in STEPS.items():
            part = rows[rows.step == step].set_index("seed")
            if part.empty:
                continue
            change = (part.error_percent - dense).dropna()
            lines.append(
                [
                    said,
                    f"{part.bytes.mean():,.0f}",
                    f"{part.ratio.min():.1f}–{part.ratio.max():.1f}",
                    spread(part.error_percent),
                    "" if step == "dense" else f"{change.mean():+.2f} ({change.min():+.2f} to {change.max():+.2f})",
                    f"{part.entropy_bytes.mean():,.0f}",
                    f"{part.zstd_bytes.mean():,.0f}",
                ]
            )
        header = ["step", "bytes on disk", "times less", "test error, %", "change, points (range)",
                  "entropy bound + floats", "packed, zstd -19"]  # fmt: skip
        note = f"{rows.seed.nunique()} seeds. {made(rows)}"
        sections.append(f"### {network}\n\n{table(header, lines)}\n\n{note}")
    return "\n\n".join(sections)


def resnet(every: pd.DataFrame) -> str:
    """The front of ResNet-20: the last step of every recipe."""
    rows = every[(every.network == "resnet20") & every.step.isin(["dense", "half"])]
    if rows.empty:
        return "Not run."
    rows = rows[(rows.step == "half") | (rows.recipe == rows.recipe.iloc[0])]
    lines = []
    for (step, recipe), part in rows.sort_values("bytes", ascending=False).groupby(["step", "recipe"], sort=False):
        lines.append(
            [
                "dense" if step == "dense" else f"pruned and shared, {recipe}" if "density" in recipe else recipe,
                f"{part.bytes.mean():,.0f}",
                f"{part.ratio.mean():.1f}",
                spread(part.error_percent),
                spread(part.jpeg_error_percent),
                str(part.seed.nunique()),
            ]
        )
    header = ["recipe", "bytes on disk", "times less", "error on the 249 lossless images, %",
              "error on the 10,000 JPEG images, %", "seeds"]  # fmt: skip
    return f"{table(header, lines)}\n\n{made(rows)}"


def embeddings(every: pd.DataFrame) -> str:
    """The settings that claims are made of, all matrices quantised."""
    lines = []
    for data, rows in every[every.layers == "all"].groupby("data"):
        for method, setting, claim in CLAIMED:
            part = rows[(rows.method == method) & (rows.setting == setting)]
            if part.empty:
                continue
            lines.append(
                [
                    str(data),
                    f"{method}, {setting}",
                    claim,
                    f"{part.ratio.mean():.2f}",
                    f"{part.table_ratio.mean():.2f}",
                    f"{part.points.mean():+.3f} ({part.points.min():+.2f} to {part.points.max():+.2f})",
                    f"{part.points_error.mean():.2f}",
                ]
            )
    header = ["data", "stage", "bar", "file, times less", "table, times less", "accuracy, points (range over seeds)",
              "standard error of one run"]  # fmt: skip
    return f"{table(header, lines)}\n\n{every.seed.nunique()} seeds. {made(every)}"


def fixed_point(rows: pd.DataFrame) -> str:
    """Accuracy on few bits."""
    lines = []
    ordered = rows.assign(few=~rows.variant.str.contains("float32")).sort_values(["network", "data", "few", "variant"])
    for (network, data, variant), part in ordered.groupby(["network", "data", "variant"], sort=False):
        size = part.bytes.mean()
        lines.append(
            [
                f"{network}, {data} ({int(part.images.iloc[0]):,})",
                variant,
                "" if pd.isna(size) else f"{size:,.0f}",
                spread(100 * part.accuracy),
                spread(part.change_points),
                f"{100 * part.agreement.mean():.2f}",
            ]
        )
    header = ["network, test data (images)", "variant", "bytes", "accuracy, %", "change, points", "same winner, %"]
    return f"{table(header, lines)}\n\n{made(rows)}"


def latency(rows: pd.DataFrame) -> str:
    """int8 against float32, both by ONNX Runtime."""
    lines = [
        [row.network, str(row.batch), f"{1e3 * row.float_s:.3f}", f"{row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]"]
        for row in rows.itertuples()
    ]
    return f"{table(['network', 'batch', 'float32, ms', 'int8 / float32'], lines)}\n\n{made(rows)}"


def split(rows: pd.DataFrame) -> str:
    """Noise of int8 by one power of two, and of the split."""
    lines = [
        [str(name), spread(part.int8_db, 1), spread(part.split_db, 1), f"{100 * part.outliers.mean():.2f} %"]
        for name, part in rows.groupby("distribution", sort=False)
    ]
    return f"{table(['distribution', 'int8, dB', 'split, dB', 'of the high matrix not zero'], lines)}\n\n{made(rows)}"


PAGE = """# Secondary stages: what they save and what they cost

Written by `python experiments/stages_page.py` from the files in `experiments/measurements/stages`. Bytes are those of
the file `weights.ecz`, with every codebook, index and header.

## Deep Compression

`python experiments/deep_compression.py lenet`: dense networks trained from scratch on MNIST, pruned with retraining,
weights that share values, codes. Deep Compression (ICLR 2016) publishes 40 times for LeNet-300-100 (1.64 → 1.58 %) and
39 times for LeNet-5 (0.80 → 0.74 %); ciodar's reproduction 48 and 46 times. The recipe was chosen by validation images.

{lenets}

### ResNet-20 on CIFAR-10

`python experiments/deep_compression.py resnet20`: the pretrained network, trained on 2,000 of its images.

{resnet}

## Word embeddings without retraining

`python experiments/embedding_quantisation.py`: classifiers of short queries. All matrices are quantised, the table is
88 to 93 % of the file.

{embeddings}

{pictures}

## Fixed point

`python experiments/fixed_point.py accuracy`: no retraining; 512 training images calibrate the activations. The integer
path has whole numbers and shifts only; ONNX Runtime's int8 is what a CPU runs fast. The JPEG pack of CIFAR-10 is not
what the network was trained on, but resolves finer differences.

{fixed_point}

`python experiments/fixed_point.py latency`: both by ONNX Runtime on one thread, in turn, with 95 % intervals.

{latency}

`python experiments/fixed_point.py split`: signal to noise of 400,000 numbers on one power of two, and split into two
matrices of 8 bits of which the high one holds the outliers alone.

{split}

## The container

Bytes above the entropy, and speed, are in [its page](container.md#measured); pruning and few bits under one budget of
energy in [the guide](stages.md#one-energy-budget-for-zeros-and-bits).
"""


def write_page() -> None:
    """Write the page and its pictures; sections that were not run say so."""

    def part(name: str, show: Callable[[pd.DataFrame], str]) -> str:
        path = FOLDER / f"{name}.csv"
        return show(pd.read_csv(path, dtype={"commit": str})) if path.exists() else "Not run."

    pictures = []
    for name in PICTURES:
        if (found := FOLDER / f"{name}.png").exists():
            shutil.copyfile(found, DOCS / f"stages-{name.replace('_', '-')}.png")
            pictures.append(f"![{name.replace('_', ' ')}](stages-{name.replace('_', '-')}.png)")
    (DOCS / "stages-results.md").write_text(
        PAGE.format(
            lenets=part("deep_compression", lenets),
            resnet=part("deep_compression", resnet),
            embeddings=part("embedding_quantisation", embeddings),
            pictures="\n\n".join(pictures),
            fixed_point=part("fixed_point_accuracy", fixed_point),
            latency=part("fixed_point_latency", latency),
            split=part("fixed_point_split", split),
        )
    )


if __name__ == "__main__":
    write_page()
