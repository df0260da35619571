"""graph: which channels of a network are coupled, as a table, as JSON, and as a page with a map."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecc.cli.arguments import add_choice, add_input, add_model, example_inputs, the_model
from ecc.cli.command import Command, Outcome
from ecc.cli.outputs import add_output
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import percent, quantity
from ecc.core.errors import InputError
from ecc.core.fields import parse_object
from ecc.core.widths import Widths
from ecc.network.graph import Block, WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.report.files import PAGE
from ecc.report.tracks import macs_shares
from ecc.report.widths import write_widths

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_input(parser)
    add_choice(parser)
    parser.add_argument(
        "--step",
        type=int,
        default=1,
        metavar="N",
        help="channels that widths shall be multiples of, such as 8 or 16 (default 1, the network's own units; ecc "
        "profile takes the step of the device)",
    )
    parser.add_argument(
        "--renormalise",
        action="store_true",
        help="also prune channels that layer norms take their statistics over; the norms then take those that stay",
    )
    parser.add_argument(
        "--widths",
        metavar="WIDTHS",
        help="count MACs, parameters and memory at these widths: GROUP=N,GROUP=N… or a JSON file of them",
    )
    parser.add_argument(
        "--remove",
        metavar="BLOCK",
        action="append",
        default=[],
        help="count MACs, parameters and memory without this residual block; repeatable",
    )
    add_output(parser, "--html", kind=PAGE, metavar="FILE", help="also write a page with a map of the groups")


def _graph(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    progress.begin(f"building {arguments.model}")
    loaded = the_model(arguments)
    inputs = example_inputs(loaded, arguments.input, seed=arguments.seed)
    progress.begin(f"tracing {loaded.name}")
    graph = trace(
        loaded.module,
        inputs,
        include=arguments.include,
        exclude=arguments.exclude,
        step=arguments.step,
        renormalise=arguments.renormalise,
    )
    shares = macs_shares(graph)
    value = graph.to_json()
    for group in value["groups"]:
        group["macs_share"] = shares.get(group["name"], 0.0)
    value["blocks"] = [_block(block) for block in graph.blocks]
    text = [_groups(graph, shares)]
    if graph.blocks:
        text += ["", _blocks(graph.blocks)]
    value["device_step"] = current_device().channel_step
    text += ["", *graph.notes, f"{loaded.name}: {_total(graph)}"]
    if arguments.step == 1 and value["device_step"] > 1:
        text.append(
            f"steps are the network's own; profiles on this CPU take multiples of {value['device_step']} where groups "
            f"are wide enough: --step {value['device_step']} shows them"
        )
    widths = {} if arguments.widths is None else _widths(arguments.widths, graph)
    if widths or arguments.remove:
        counts = _counts(graph, widths, arguments.remove)
        value["at"] = {"widths": widths, "removed": arguments.remove, **counts}
        left = [percent(counts[name] / max(value[name], 1)) for name in ("macs", "params", "memory")]
        text.append(f"then left: {_shown(counts)}: {left[0]}, {left[1]} and {left[2]} of dense")
    if arguments.html is not None:
        page = write_widths(graph, loaded.name, arguments.html, widths, removed=arguments.remove)
        value["page"] = str(page)
        text.append(f"page: {page}")
    return Outcome(value, "\n".join(text))


def _groups(graph: WidthGraph, shares: dict[str, float]) -> str:
    rows = [
        [
            group.name,
            group.width,
            group.step,
            f"{percent(shares[group.name]):>7}" if group.prunable else "",
            _few(group.layers),
            "yes" if group.prunable else f"no: {group.reason}",
        ]
        for group in graph.groups
    ]
    return table(["group", "width", "step", "MACs", "layers", "prunable"], rows)


def _blocks(blocks: Sequence[Block]) -> str:
    rows = [
        [
            block.name,
            f"{quantity(block.macs, 'macs'):>10}",
            f"{block.params:>10,}",
            _few(block.layers),
            "yes" if block.removable else f"no: {block.reason}",
        ]
        for block in blocks
    ]
    return table(["block", "MACs", "parameters", "layers", "removable"], rows)


def _block(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "removable": block.removable,
        "reason": block.reason,
        "layers": list(block.layers),
        "groups": list(block.groups),
        "macs": block.macs,
        "params": block.params,
    }


def _total(graph: WidthGraph) -> str:
    removable = sum(block.removable for block in graph.blocks)
    return (
        f"{len(graph.prunable)} of {len(graph.groups)} groups prunable, "
        + (f"{removable} of {len(graph.blocks)} blocks removable, " if graph.blocks else "")
        + _shown(_counts(graph))
    )


def _counts(graph: WidthGraph, widths: Widths | None = None, removed: Sequence[str] = ()) -> dict[str, int]:
    counters: dict[str, Callable[..., int]] = {
        "macs": graph.macs,
        "params": graph.params,
        "memory": graph.memory,
        "memory_weights": graph.memory_weights,
        "memory_activations": graph.memory_activations,
    }
    return {name: count(widths, removed=removed) for name, count in counters.items()}


def _shown(counts: Mapping[str, int]) -> str:
    weights, activations, memory = (
        quantity(counts[name], "memory") for name in ("memory_weights", "memory_activations", "memory")
    )
    return (
        f"{quantity(counts['macs'], 'macs')}, {counts['params']:,} parameters, "
        f"{memory} of memory ({weights} weights, {activations} activations)"
    )


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:2]) + (f" + {len(names) - 2}" if len(names) > 2 else "")


def _widths(text: str, graph: WidthGraph) -> dict[str, int]:
    """Widths from ``GROUP=N,GROUP=N`` or from a JSON file: an object of them, or one that has such a member ``widths``.

    Raises:
        InputError: If it is neither.
    """
    widths: dict[str, int] = {}
    if "=" not in text or Path(text).is_file():
        widths = _widths_of_file(Path(text), graph)
    else:
        for part in text.split(","):
            name, _, width = part.rpartition("=")
            if not name or not width.isdecimal():
                raise InputError(f"--widths {part!r} is not GROUP=N; write for example conv1=32,layer1.0.conv1=16")
            widths[name] = int(width)
    return widths


def _widths_of_file(path: Path, graph: WidthGraph) -> dict[str, int]:
    try:
        fields = parse_object(path.read_bytes(), f"widths {path}")
    except OSError as error:
        raise InputError(
            f"--widths {str(path)!r} is neither GROUP=N,… nor a file that can be read ({error.strerror}); "
            'write {"GROUP": N} into a JSON file'
        ) from error
    inner = "widths" in set(fields) - {group.name for group in graph.groups}
    members = fields.inner("widths") if inner else fields
    return {name: members.whole(name) for name in members}


COMMANDS = (Command("graph", "ecc graph zoo:resnet50 --html resnet50.html", _arguments, _graph),)
