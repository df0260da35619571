"""profile --operators: the operators of a device instead of the widths of a network."""

from __future__ import annotations

import argparse
from typing import Any

from ecc.api.operators import measure_operators
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import interval, precision, quantity
from ecc.core.errors import InputError
from ecc.core.table import OperatorTable
from ecc.profiler.operators import DTYPES, OperatorProfile

__all__ = [
    "add_operators",
    "demand_model",
    "kinds_text",
    "measured_operators",
    "operators_text",
    "operators_value",
]

_OF_A_NETWORK = ("model", "options", "weights", "input", "batch", "include", "exclude", "step")
_OF_ITS_FIT = ("adaptive", "max_seconds")


def add_operators(parser: argparse.ArgumentParser) -> None:
    """Whether operators are measured."""
    parser.add_argument(
        "--operators",
        action="store_true",
        help="without MODEL: measure convolutions, linear layers, norms … of all sizes, once for all networks",
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), help="with --operators: type of their numbers (default float32)"
    )


def demand_model(arguments: argparse.Namespace) -> None:
    """Refuse to profile nothing, and what only operators have.

    Raises:
        InputError: If no MODEL is given, or the type of the numbers of operators is.
    """
    if arguments.model is None:
        raise InputError(
            "give a MODEL to profile, for example zoo:resnet20, or --operators to profile the device alone"
        )
    if arguments.dtype is not None:
        raise InputError("--dtype is of --operators; the numbers of a network are of the type that --input says")


def measured_operators(arguments: argparse.Namespace, progress: ProgressLine) -> OperatorProfile:
    """Measure what the arguments say.

    Raises:
        InputError: If an argument is of a network, or makes no sense.
    """
    given = vars(arguments)
    for name in (*_OF_A_NETWORK, *_OF_ITS_FIT):
        if given[name] not in (None, False) and given[name] != []:
            shown = "MODEL" if name in ("model", "options") else f"--{name.replace('_', '-')}"
            raise InputError(f"--operators measures a device, no network; leave out {shown}")
    return measure_operators(
        metrics=arguments.metric or ("latency",),
        samples=arguments.samples,
        device=arguments.device,
        runtime=arguments.runtime,
        threads=arguments.threads,
        cores=arguments.cores,
        dtype=arguments.dtype or "float32",
        store=arguments.store,
        energy_source=arguments.energy_source,
        seed=arguments.seed,
        progress=progress,
        wait=not arguments.no_wait,
    )


def operators_value(found: OperatorProfile) -> dict[str, Any]:
    """What the JSON object of such a profile says beside that of a network's; its ``dense`` is the reference's."""
    kinds = found.table.rows["kind"].value_counts()
    return {"kinds": {str(kind): int(count) for kind, count in kinds.items()}, "skipped": found.skipped}


def operators_text(found: OperatorProfile, store: str) -> str:
    """An operator profile for people."""
    result = found.result
    lines = [f"{len(found.table)} operators in {store}, {result.reused} of them from before"]
    if found.skipped:
        lines.append(f"{found.skipped} left out that would take too long here")
    for metric, (value, low, high) in found.table.reference.items():
        ends, known = interval(low, high, metric), precision(result.noise[metric])
        lines.append(f"reference convolution {metric} {quantity(value, metric)} {ends}, {known}")
    lines += result.warnings
    return "\n".join([*lines, "", kinds_text(found.table)])


def kinds_text(found: OperatorTable) -> str:
    """How many operators of each kind there are, and how fast they are."""
    rows = []
    for kind in found.rows["kind"].value_counts().index:
        mine = found.of_kind(str(kind))
        fastest, middle, slowest = mine["latency_s"].quantile([0.0, 0.5, 1.0])
        rate = (mine["macs"] / mine["latency_s"]).max() / 1e9
        moved = ((mine["read_bytes"] + mine["written_bytes"]) / mine["latency_s"]).max() / 1e9
        times = [f"{1e3 * seconds:.3g}" for seconds in (fastest, middle, slowest)]
        rows.append([str(kind), len(mine), *times, f"{rate:.1f}" if rate else "", f"{moved:.1f}"])
    return table(["kind", "operators", "least ms", "median", "most", "best GMAC/s", "best GB/s"], rows)
