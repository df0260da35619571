"""Writes the page on hashed weights and thin factors from what was run: every figure is in a file of measurements.

python experiments/layers_page.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator
from results_page import table
from stages_page import DOCS, FOLDER, made, spread

__all__ = ["write_page"]

HASHING = ("dense", "small dense", "hashed", "hashed, 36 epochs", "multi-hash")
SHRINKING = ("deepthin", "deepthin, fitted", "rank factorisation", "pruning", "dense", "hashed")
COLOURS = dict(
    zip((*SHRINKING, "multi-hash", "product-quant", "small dense"), plt.get_cmap("tab10").colors, strict=False)
)
BARS = {
    ("digits", 8, "hashed"): "≤ 1.55",
    ("digits", 8, "hashed, 36 epochs"): "≤ 1.55",
    ("digits", 64, "hashed"): "≤ 3.2",
}
PUBLISHED = {  # an independent reproduction, tables of which the bars are made
    ("digits", 8, "hashed"): "1.52",
    ("digits", 64, "hashed"): "3.15",
    ("digits", 8, "small dense"): "1.75",
    ("digits", 64, "small dense"): "5.91",
}


def perceptrons(rows: pd.DataFrame, part: str) -> str:
    """Errors of networks of images, by method."""
    lines = []
    for (data, layers, ratio), group in rows[rows.part == part].groupby(["data", "layers", "ratio"]):
        for method in HASHING:
            found = group[group.method == method]
            if found.empty:
                continue
            key = (part, int(ratio), method)
            lines.append(
                [
                    f"{data}, {layers} layers",
                    "1" if ratio == 1 else f"1/{ratio:g}",
                    method,
                    f"{found.bytes.mean():,.0f}",
                    spread(found.error),
                    BARS.get(key, ""),
                    PUBLISHED.get(key, ""),
                    str(len(found)),
                ]
            )
    header = ["data, layers of units", "size", "method", "bytes", "test error, %", "bar", "reproduction", "seeds"]
    if part != "digits":
        header, lines = [*header[:5], "seeds"], [[*line[:5], line[-1]] for line in lines]
    chosen = rows[rows.part == part]
    return f"{table(header, lines)}\n\n{ordered(chosen)}\n\n{made(chosen)}" if lines else "Not run."


def ordered(rows: pd.DataFrame) -> str:
    """Whether multi-hash ≤ hashed ≤ small dense holds; the differences, seed by seed, where it does not."""
    cases, exceptions = 0, []
    for (data, layers, ratio), group in rows[rows.ratio > 1].groupby(["data", "layers", "ratio"]):
        errors = group.pivot(index="seed", columns="method", values="error")
        for better, worse in (("multi-hash", "hashed"), ("hashed", "small dense")):
            if {better, worse} <= set(errors.columns):
                cases += 1
                lead = (errors[better] - errors[worse]).dropna()
                if lead.mean() > 0:
                    where = f"{data}, {layers} layers, 1/{ratio:g}"
                    exceptions.append(f"{where}: {better} − {worse} {spread(lead)} points, seed by seed")
    rule = "Multi-hash ≤ hashed ≤ small dense, in the mean over seeds"
    if not exceptions:
        return f"{rule}, holds in all {cases} comparisons."
    return f"{rule}, holds in {cases - len(exceptions)} of {cases} comparisons; not for {'; '.join(exceptions)}."


def words(rows: pd.DataFrame) -> str:
    """Accuracy of classifiers of short texts from 6 to 1000 times smaller, as a table; the curve is drawn."""
    rows = rows[rows.part == "words"]
    if rows.empty:
        return "Not run."
    points = curves(rows)
    draw(
        points,
        DOCS / "layers-words.png",
        title="Classifiers of short texts, all weights in the file",
        columns=("times", "accuracy", "data"),
        labels=("times smaller than the dense file", "test accuracy, %"),
    )
    lines = [
        [str(data), str(method), f"{part.times.mean():,.1f}", spread(part.accuracy), str(len(part))]
        for (data, method, _), part in points.sort_values("times").groupby(["data", "method", "setting"], sort=False)
    ]
    lines.sort(key=lambda line: (line[0], line[1]))
    shown = table(["data", "method", "times smaller", "test accuracy, %", "seeds"], lines)
    whole = rows[rows.method == "dense"].groupby("data").error
    dense = "; ".join(f"{name} {spread(100 - errors)} %" for name, errors in whole)
    return f"![accuracy against size](layers-words.png)\n\nDense: {dense}.\n\n{shown}\n\n{made(rows)}"


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and point of a curve: data, method, setting, times smaller, accuracy in per cent."""
    dense = rows[rows.method == "dense"].groupby("data").bytes.mean()
    found = []
    for row in rows[rows.method != "dense"].to_dict("records"):
        product = row["method"].startswith("product-quant")
        common = {"data": row["data"], "seed": row["seed"], "setting": row["method"] if product else row["ratio"]}
        method = "product-quant" if product else row["method"]
        whole = dense[row["data"]]
        found.append({**common, "method": method, "times": whole / row["bytes"], "accuracy": 100 - row["error"]})
        if row.get("log_bytes", 0) > 0:
            coded = {"times": whole / row["log_bytes"], "accuracy": 100 - row["log_error"]}
            found.append({**common, "method": f"{method}, log-quant, entropy", **coded})
    points = pd.DataFrame(found)
    kept = points.groupby(["data", "method"], sort=False, group_keys=False)[points.columns].apply(undominated)
    return kept.reset_index(drop=True)


def undominated(points: pd.DataFrame) -> pd.DataFrame:
    """Points of the settings of a method than which no other is both smaller and more accurate, in the mean."""
    means = points.groupby("setting")[["times", "accuracy"]].mean().sort_values("times", ascending=False)
    best = means[means.accuracy > means.accuracy.cummax().shift(fill_value=-1.0)]
    return points[points.setting.isin(best.index)]


def draw(
    points: pd.DataFrame, path: Path, *, title: str, columns: tuple[str, str, str], labels: tuple[str, str]
) -> None:
    """Means over seeds with their range, a panel for each value of the last column."""
    x, y, panel = columns
    names = list(dict.fromkeys(points[panel]))
    figure, axes = plt.subplots(1, len(names), figsize=(5.2 * len(names), 4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for place, (method, part) in enumerate(points[points[panel] == name].groupby("method", sort=False)):
            stats = part.groupby("setting").agg({x: "mean", y: ["mean", "min", "max"]}).sort_values((x, "mean"))
            mean = stats[y]["mean"]
            spans = [(mean - stats[y]["min"]).clip(lower=0), (stats[y]["max"] - mean).clip(lower=0)]
            style = {"color": COLOURS.get(str(method)), "linestyle": "--" if "log-quant" in str(method) else "-"}
            axis.errorbar(stats[x]["mean"], mean, spans, marker="osD^vP*X"[place % 8], ms=4, label=method, **style)
        axis.set(xscale="log", xlabel=labels[0], ylabel=labels[1], title=name)
        if "error" in labels[1]:
            axis.set(yscale="log")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter("{x:g}")
            if each.get_scale() == "log":
                each.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
                each.set_minor_formatter("")
        axis.grid(alpha=0.3, which="both")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def shrunk(every: pd.DataFrame) -> str:
    """Errors of the acoustic models at equal bytes, and how much lower deepthin's are."""
    rows = every[(every.seed < 1000) & every.test_error.notna()]
    missing = every[(every.seed < 1000) & every.test_error.isna()]
    if rows.empty:
        return "Not run."
    points = rows.assign(setting=rows.share, percent=100 * rows.share)
    name = str(rows.model.iloc[0])
    draw(
        points,
        DOCS / f"layers-{name}.png",
        title="Spoken digits, files of equal size",
        columns=("percent", "test_error", "model"),
        labels=("size of the file, % of dense", "test error, %"),
    )
    means = rows.groupby(["share", "method"]).test_error.agg(["mean", "std", "count"])
    lines = []
    for method in SHRINKING:
        cells = [method]
        for share in sorted(set(rows.share)):
            part = rows[(rows.share == share) & (rows.method == method)]
            cells.append(spread(part.test_error, 1) if len(part) else "cannot be so small")
        gains = [
            1 - means.loc[(share, "deepthin"), "mean"] / means.loc[(share, method), "mean"]
            for share in sorted(set(rows.share))
            if (share, method) in means.index and (share, "deepthin") in means.index
        ]
        cells.append("" if method == "deepthin" or not gains else f"{100 * sum(gains) / len(gains):+.0f} %")
        lines.append(cells)
    header = ["method", *(f"{100 * share:g} % of the bytes" for share in sorted(set(rows.share))), "deepthin's gain"]
    dense = rows.groupby("seed").test_error_dense.first()
    why = "".join(f"\n\n{method}: {note}." for method, note in missing.groupby("method").note.first().items())
    seeds = f"{rows.seed.nunique()} seeds; the dense network's error is {spread(dense, 1)} %."
    return f"![errors](layers-{name}.png)\n\n{table(header, lines)}\n\n{seeds}{why} {made(rows)}"


def speed(rows: pd.DataFrame) -> str:
    """Dense time over the time from factors, of the faster way."""
    best = rows.loc[rows.groupby(["outputs", "inputs", "share", "batch"], sort=False).ratio.idxmax()]
    lines = []
    for (outputs, inputs, _), part in best.groupby(["outputs", "inputs", "share"], sort=False):
        cells = [f"{outputs} × {inputs}", f"{part.bytes_dense.iloc[0] / 2**20:.0f} MiB", f"{part.bytes.iloc[0]:,}"]
        for batch in (1, 4):
            one = part[part.batch == batch]
            said = [f"{r.ratio:.2f} [{r.ratio_low:.2f}, {r.ratio_high:.2f}], {r.way}" for r in one.itertuples()]
            cells.append(said[0] if said else "")
        lines.append(cells)
    header = ["outputs × inputs", "dense", "bytes of factors", "dense / factors, 1 input", "4 inputs"]
    cache = int(rows.last_cache_bytes.iloc[0])
    said = (
        f"Last-level cache: {cache / 2**20:.0f} MiB." if cache else "The system does not say how large its caches are."
    )
    return f"{table(header, lines)}\n\n{said} {made(rows)}"


def low_rank(rows: pd.DataFrame) -> str:
    """The LSTM at a third."""
    lines = []
    for (whiten, gates, epochs), part in rows.groupby(["whiten", "gates", "epochs"], sort=False):
        gap = part.largest_gap.max()
        lines.append(
            [
                "whitened by inputs" if whiten else "plain",
                str(gates),
                str(epochs),
                f"{part.ratio.mean():.2f}",
                spread(100 * part.accuracy_dense),
                spread(part.points),
                f"{part.points.min():+.2f} to {part.points.max():+.2f}",
                "" if pd.isna(gap) else f"{gap:.1e}",
            ]
        )
    header = ["SVD", "gates", "epochs", "times smaller", "dense, %", "change, points", "range", "error / dropped − 1"]
    return f"{table(header, lines)}\n\n{rows.seed.nunique()} seeds. {made(rows)}"


PAGE = """# Hashed weights, thin factors and low rank: what they save and what they cost

Written by `python experiments/layers_page.py` from the files in `experiments/measurements/stages`. Bytes are those of
the file `weights.ecz`, with every index, key and header; no method takes more than its budget. What runs faster and by
how much is on [its own page](execution.md).

## Hashing: MNIST, 784-1000-10

`python experiments/hashed_nets.py digits`: trained from scratch towards the labels, without distillation. The
reproduction is an independent one of HashedNets (ICML 2015). Small dense networks have fewer units.

{digits}

## Hashing: more depths and data

`python experiments/hashed_nets.py depth`: 1/64 of the file, hidden layers of 500. Layers count inputs and outputs, as
in the article.

{depth}

## Hashing: word embeddings

`python experiments/hashed_nets.py words`: all weights of a classifier (a table of 300 numbers per word, a hidden
layer); then codes of 8 bits in the logarithm and an entropy coder. Of product quantisation, the settings that no other
beats in size and accuracy.

{words}

## DeepThin, and four other ways to the same bytes

`python experiments/deepthin.py accuracy`: spoken digits, split by take, 300 recordings to test (one is 0.33 points).
Every method gets the same epochs and loss, and the step size that is best on validation data. The article (ICLR 2018)
reports errors that are lower on average by 60 % than rank factorisation, 57 % than pruning, 23 % than the same size
dense and 6 % than hashing for one of its models, and 28, 27, 20 and 12 % for the other. The gain here is the mean over
sizes of 1 − error / error of the other method.

### Feed-forward acoustic model

{mlp}

### GRU

{gru}

## Speed of DeepThin

`python experiments/deepthin.py speed`: a layer's product from the factors against the dense one, in turns, one thread;
geometric means of 20 pairs with 95 % intervals, the faster of two ways.

{speed}

## SVD of an LSTM

`python experiments/low_rank.py`: the zoo's `lstm-acoustic` to a third of its bytes; ranks are shared out over all
matrices. The last column is the truncation error against the root of the sum of the dropped squared singular values.

{svd}
"""


def write_page() -> None:
    """Write the page and its pictures; sections that were not run say so."""

    def part(name: str, show: Callable[[pd.DataFrame], str]) -> str:
        path = FOLDER / f"{name}.csv"
        return show(pd.read_csv(path, dtype={"commit": str})) if path.exists() else "Not run."

    (DOCS / "layers-results.md").write_text(
        PAGE.format(
            digits=part("hashed_nets", lambda rows: perceptrons(rows, "digits")),
            depth=part("hashed_nets", lambda rows: perceptrons(rows, "depth")),
            words=part("hashed_nets", words),
            mlp=part("deepthin_mlp-acoustic", shrunk),
            gru=part("deepthin_gru-acoustic", shrunk),
            speed=part("deepthin_speed", speed),
            svd=part("low_rank", low_rank),
        )
    )


if __name__ == "__main__":
    write_page()
