"""devices and profile: what can be measured here, and the costs of a network's widths."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ecc.api.adaptive import Adaptation, measure
from ecc.cli.arguments import add_choice, add_input, add_model, example_inputs, the_model
from ecc.cli.command import Command, Outcome
from ecc.cli.operators import add_operators, demand_model, measured_operators, operators_text, operators_value
from ecc.cli.outputs import add_output
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import interval, percent, precision, quantity
from ecc.core.errors import InputError
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device, list_devices
from ecc.profiler.meters import ENERGY_SOURCES, METRICS
from ecc.profiler.protocol import ProfileResult
from ecc.profiler.runtimes import RUNTIMES
from ecc.report.files import STORE

__all__ = ["COMMANDS"]


def _devices_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", action="store_true", help="also check the sensors against each other; half a minute for each GPU"
    )


def _devices(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    found = [device.to_json(check=arguments.check) for device in list_devices()]
    rows = [
        [entry["name"], entry["kind"], metric, _sensor_text(probe)]
        for entry in found
        for metric, probe in entry["meters"].items()
    ]
    return Outcome({"devices": found}, table(["device", "kind", "metric", "source"], rows))


def _sensor_text(probe: Mapping[str, Any]) -> str:
    """What is read and what its checks gave, or why there is nothing."""
    if not probe["available"]:
        return f"no: {probe['reason']}"
    details, words = probe["details"], [probe["source"]]
    if "tick_s" in details:
        words.append(f"ticks every {1e3 * details['tick_s']:.0f} ms")
    for stretch, ratio in details.get("counter_over_power", {}).items():
        if ratio is not None:
            words.append(f"{ratio:.2f} of integrated power when {stretch}")
    words += [f"{domain} {watts:.1f} W" for domain, watts in details.get("watts", {}).items()]
    if details.get("flag"):
        words.append(f"{details['flag']}: choose with --energy-source counter or power")
    return "; ".join(words)


def _profile_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, required=False)
    add_input(parser)
    add_choice(parser)
    parser.add_argument(
        "--metric", choices=METRICS, action="append", help="what to measure; may be repeated (default latency)"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda or cuda:N (default cpu)")
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0], help="how the network is run")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="intra-op threads of a CPU (default 1)")
    parser.add_argument(
        "--cores", type=_cores, default=(), metavar="I,J", help="cores of a CPU to measure on (default: the first ones)"
    )
    parser.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="channels that widths are multiples of, where groups are wide enough (default: what suits the device; ecc "
        "graph has 1)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="width vectors (default 200), or operators (default 3000, 1000 with energy)",
    )
    add_operators(parser)
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help="measure where the fit is least certain, and stop when its held-out error falls no more, at --samples",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        metavar="S",
        help="with --adaptive: measure no row that begins after so many seconds",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="examples per run (default: as in --input, or 1)")
    add_output(
        parser, "--store", kind=STORE, required=True, metavar="FILE", help="profile store; what it holds is not redone"
    )
    parser.add_argument(
        "--energy-source",
        choices=ENERGY_SOURCES,
        default=ENERGY_SOURCES[0],
        help="what energy is read from, where a GPU's counter and its power disagree (default auto)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="refuse, rather than wait, while another process measures on the device"
    )


def _cores(text: str) -> tuple[int, ...]:
    """Numbers apart by commas."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"give numbers of cores such as 0,1, got {text!r}")
    cores = tuple(int(part) for part in text.split(","))
    if len(set(cores)) < len(cores):
        raise argparse.ArgumentTypeError(f"name each core once, got {text!r}")
    return cores


def _profile(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    if arguments.energy_source != ENERGY_SOURCES[0] and "energy" not in (arguments.metric or ()):
        raise InputError("--energy-source says what energy is read from; add --metric energy, or leave it out")
    if arguments.operators:
        found = measured_operators(arguments, progress)
        value = _profiled(found.result, arguments.store) | operators_value(found)
        return Outcome(value, operators_text(found, arguments.store))
    demand_model(arguments)
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"--batch must be at least 1, got {arguments.batch}")
    progress.begin(f"building {arguments.model}")
    loaded = the_model(arguments)
    inputs = example_inputs(loaded, arguments.input, batch=arguments.batch, seed=arguments.seed)
    progress.begin(f"tracing {loaded.name}")
    graph = trace(loaded.module, inputs, include=arguments.include, exclude=arguments.exclude)
    result, adaptation = measure(
        loaded.module,
        graph,
        inputs,
        adaptive=arguments.adaptive,
        max_seconds=arguments.max_seconds,
        metrics=arguments.metric or ("latency",),
        samples=200 if arguments.samples is None else arguments.samples,
        device=arguments.device,
        runtime=arguments.runtime,
        threads=arguments.threads,
        cores=arguments.cores,
        step=arguments.step,
        store=arguments.store,
        network=loaded.name,
        energy_source=arguments.energy_source,
        seed=arguments.seed,
        progress=progress,
        wait=not arguments.no_wait,
    )
    step = current_device(arguments.device).channel_step if arguments.step is None else arguments.step
    found_by = {"step": step, "adaptive": None if adaptation is None else adaptation.to_json()}
    text = _profile_text(result, adaptation, arguments.store, step)
    return Outcome(_profiled(result, arguments.store) | found_by, text)


_SI = {"latency": "latency_s", "energy": "energy_j"}


def _profiled(result: ProfileResult, store: str) -> dict[str, Any]:
    reference = result.table.reference
    return {
        "rows": len(result.table),
        "rows_reused": result.reused,
        "dense": {name: reference[metric][0] if metric in reference else None for metric, name in _SI.items()},
        "noise": dict(zip(result.noise, _known(list(result.noise.values())), strict=True)),
        "drift": {
            metric: None
            if found is None
            else dict(zip(("change", "low", "high"), _known((found.change, found.low, found.high)), strict=True))
            for metric, found in result.drift.items()
        },
        "flags": dict(result.flags),
        "idle": None if result.idle is None else dict(zip(("watts", "low", "high"), _known(result.idle), strict=True)),
        "inside": result.inside,
        "warnings": list(result.warnings),
        "seconds": result.seconds,
        "store": store,
    }


def _known(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinity."""
    return [value if math.isfinite(value) else None for value in values]


def _profile_text(result: ProfileResult, adaptation: Adaptation | None, store: str, step: int) -> str:
    lines = [
        f"{len(result.table)} configurations in {store}, {result.reused} of them from before",
        f"widths are multiples of {step} where groups are wide enough (ecc graph --step {step} shows them)",
    ]
    for metric, (value, low, high) in result.table.reference.items():
        found = result.drift[metric]
        moved = "" if found is None else f"; the dense network drifted by {percent(found.change)} meanwhile"
        known = precision(result.noise[metric])
        lines.append(f"dense {metric} {quantity(value, metric)} {interval(low, high, metric)}, {known}{moved}")
    if result.idle is not None:
        lines.append(f"idle {result.idle[0]:.3g} W, not subtracted")
    if result.inside is not None:
        lines.append(f"{percent(result.inside)} of {result.seconds:.0f} s were spent within the windows of new rows")
    if result.flags:
        counts = ", ".join(f"{count} {word}" for word, count in sorted(result.flags.items()))
        lines.append(f"flagged configurations: {counts}")
    if adaptation is not None:
        track = ", ".join(f"{percent(batch.mape)} at {batch.rows}" for batch in adaptation.batches)
        error = f"held-out error {track} rows; " if track else ""
        lines.append(f"{error}stopped because {adaptation.stopped}")
    lines += result.warnings
    return "\n".join([*lines, f"next: ecc fit {store} --metric {next(iter(result.table.reference))} -o COST.json"])


COMMANDS = (
    Command("devices", "ecc devices --check", _devices_arguments, _devices),
    Command(
        "profile",
        "ecc profile zoo:resnet20 --input 1x3x32x32 --samples 200 --store resnet20.db",
        _profile_arguments,
        _profile,
        resumes=True,
    ),
)
