"""inspect of a profile store: its manifest for people, its rows as CSV or Parquet, its page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ecc.cli.outputs import add_output
from ecc.cli.tables import table
from ecc.cli.text import interval, percent, quantity
from ecc.core.widths import WidthSpace
from ecc.profiler.exports import to_csv, to_parquet
from ecc.profiler.inspection import FLAGS, describe_state
from ecc.profiler.operator_design import REFERENCE
from ecc.profiler.operators import Subject, holds_operators, row_name
from ecc.profiler.store import Store
from ecc.report.files import CSV, PAGE, PARQUET, write_file
from ecc.report.profiles import write_profile

__all__ = ["add_exports", "exports_given", "inspect_store", "store_text"]

_EXPORTS = ("csv", "parquet", "html")


def add_exports(parser: argparse.ArgumentParser) -> None:
    """What ``ecc inspect`` writes of a profile store."""
    add_output(parser, "--csv", kind=CSV, metavar="OUT", help="also export the rows of a profile store")
    add_output(parser, "--parquet", kind=PARQUET, metavar="OUT", help="the same as Parquet")
    add_output(
        parser, "--html", kind=PAGE, metavar="OUT", help="also write a page of a profile store: drift, noise, flags"
    )


def exports_given(arguments: argparse.Namespace) -> list[str]:
    """The options among them that were given."""
    given = vars(arguments)
    return [name for name in _EXPORTS if given[name] is not None]


def inspect_store(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The manifest of a store; what was asked for is written, and named under ``written``.

    Raises:
        InputError: If the store is damaged, empty where rows are asked for, or a file cannot be written.
        UnavailableError: If Parquet is asked for and pyarrow is not installed.
    """
    with Store(path) as store:
        value = store.inspect()
        if _of_operators(value):
            value["kind"] = "operator profile"
        written = {}
        if arguments.csv is not None:
            written["csv"] = write_file(arguments.csv, to_csv(store.table()))
        if arguments.parquet is not None:
            written["parquet"] = write_file(arguments.parquet, to_parquet(store.table()))
        if arguments.html is not None:
            written["html"] = write_profile(store, arguments.html)
    return value | ({"written": {name: str(file) for name, file in written.items()}} if written else {})


def store_text(path: Path, value: Mapping[str, Any]) -> str:
    """The manifest for people."""
    if "provenance" not in value:
        return f"{path}: a profile store (format {value['schema']}) without rows; run `ecc profile` on it"
    parts = [table(["", value["kind"]], _facts(path, value)), _runs(value["runs"])]
    if value["rows"]:
        parts += [_metrics(value), _flags(value), *_slowest(value)]
    parts += [f"{name}: {file}" for name, file in value.get("written", {}).items()]
    return "\n\n".join(parts)


def _facts(path: Path, value: Mapping[str, Any]) -> list[list[str]]:
    place, dense = value["provenance"], value["space"]["dense"]
    threads = f", {place['threads']} thread{'s' if place['threads'] != 1 else ''}" if place["threads"] else ""
    network = [
        ["network", f"{place['network']} ({place['fingerprint'][:8]}), {len(dense)} groups, {sum(dense)} channels"],
        ["input", "x".join(map(str, place["input_shape"]))],
    ]
    facts = [
        ["file", f"{path} (format {value['schema']})"],
        *([["reference", str(REFERENCE)]] if _of_operators(value) else network),
        ["device", f"{place['device']} ({place['device_fingerprint'][:8]})"],
        ["runtime", f"{place['runtime']}{threads}"],
        ["rows", f"{value['rows']} configurations, {value['readings']} readings, {value.get('flagged', 0)} flagged"],
    ]
    if value["rows"]:
        runs = len(value["runs"])
        facts.append(["measured", f"{_span(value['measuring_s'])} in {runs} run{'s' if runs != 1 else ''}"])
        least, middle, most = (quantity(seconds, "latency") for seconds in value["cpu_s"])
        facts.append(["CPU time", f"{middle} of the process per run ({least} to {most})"])
        facts += [[name, text] for name, text in map(describe_state, value["conditions"].items())]
    versions = (f"{name} {text}" for name, text in place["environment"].items() if name in ("torch", "python", "dtype"))
    return [*facts, ["environment", ", ".join(versions)]]


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [run["run"], _date(run["started"]), _date(run["ended"]), run["readings"], run["environment"].get("torch", "")]
        for run in runs
    ]
    return table(["run", "began", "last reading", "readings", "torch"], rows)


def _metrics(value: Mapping[str, Any]) -> str:
    rows = []
    for metric, (dense, low, high) in value["reference"].items():
        noise, drift = value["noise"][metric], value["drift"][metric]
        rows.append(
            [
                metric,
                f"{quantity(dense, metric)} {interval(low, high, metric)}",
                "unknown" if noise is None else f"±{percent(noise)}",
                "unknown"
                if drift is None
                else f"{100 * drift[0]:+.1f} % [{100 * drift[1]:+.1f}, {100 * drift[2]:+.1f}]",
            ]
        )
    reference = Subject.of(_space(value)).reference
    return table(["metric", reference.removeprefix("the "), "noise of ratios", f"drift of {reference}"], rows)


def _flags(value: Mapping[str, Any]) -> str:
    rows = [
        [flag, counts["configurations"], counts["readings"], FLAGS.get(flag, "")]
        for flag, counts in value["flags"].items()
    ]
    return table(["flag", "configurations", "readings", ""], rows) if rows else "no row is flagged"


def _slowest(value: Mapping[str, Any]) -> list[str]:
    found = []
    for metric, rows in value["slowest"].items():
        dense = dict(zip(value["space"]["names"], value["space"]["dense"], strict=True))
        operators = _of_operators(value)
        shown = [
            [
                *_ratio(row, Subject.of(_space(value)).short),
                row_name(row["widths"]) if operators else _cut(row["widths"], dense),
                row["flags"],
            ]
            for row in rows
        ]
        what = "operator" if operators else "widths"
        found.append(table([f"greatest {metric}", "95 % interval", what, "flags"], shown))
    return found


def _ratio(row: Mapping[str, Any], reference: str) -> list[str]:
    low, high = row["ratio_low"], row["ratio_high"]
    interval = "unknown" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
    return [f"{row['ratio']:.3f} of {reference}", interval]


def _of_operators(value: Mapping[str, Any]) -> bool:
    return "space" in value and holds_operators(_space(value))


def _space(value: Mapping[str, Any]) -> WidthSpace:
    return WidthSpace.from_json(value["space"])


def _cut(widths: Mapping[str, int], dense: Mapping[str, int]) -> str:
    share = sum(widths.values()) / sum(dense.values())
    return "dense" if widths == dense else f"{percent(share)} of the channels"


def _date(instant: float | None) -> str:
    """A Unix time as the clock on the wall shows it."""
    return "none" if instant is None else f"{datetime.fromtimestamp(instant).astimezone():%Y-%m-%d %H:%M:%S}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
