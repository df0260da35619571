"""systolic: what a network takes on a systolic array, analytically, with the weights that it has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ecc.cli.arguments import add_input, add_model, example_inputs, the_model
from ecc.cli.command import Command, Outcome
from ecc.cli.outputs import add_output
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import percent, quantity
from ecc.core.errors import InputError
from ecc.energy_models.systolic.array import PRESETS, SystolicArray
from ecc.energy_models.systolic.energy import SystolicEnergy, systolic_energy
from ecc.energy_models.systolic.indices import SparseIndex
from ecc.energy_models.systolic.layers import LeftOut
from ecc.network.tracing import trace
from ecc.report.files import PAGE
from ecc.report.systolic import amount, write_systolic

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_input(parser)
    parser.add_argument(
        "--preset",
        metavar="ARRAY",
        default="eyeriss",
        help=f"{', '.join(PRESETS)}, or a TOML file of your own array (default eyeriss)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="examples per run (default: as in --input, or 1)")
    parser.add_argument(
        "--index-bits",
        metavar="N",
        default="0",
        help="bits that say where each kept weight is, or bitmap; fetched beside the weights of layers with zeros "
        "(default 0, as in the paper)",
    )
    add_output(parser, "--html", kind=PAGE, metavar="FILE", help="also write a page with a chart of the layers")


def _systolic(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    array, index = SystolicArray.parse(arguments.preset), SparseIndex.parse(arguments.index_bits)
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"--batch must be at least 1, got {arguments.batch}")
    loaded = the_model(arguments)
    inputs = example_inputs(loaded, arguments.input, batch=arguments.batch, seed=arguments.seed)
    graph = trace(loaded.module, inputs, check=False)
    energy = systolic_energy(loaded.module, graph, array, index=index)
    value = energy.to_json() | {"input_shapes": [list(shape) for shape in graph.input_shapes]}
    text = _text(energy, loaded.name)
    if arguments.html is not None:
        page = write_systolic(energy, loaded.name, arguments.html, input_shapes=graph.input_shapes)
        value["page"] = str(page)
        text += f"\npage: {page}"
    return Outcome(value, text)


def _text(energy: SystolicEnergy, name: str) -> str:
    total = energy.total
    cycles = energy.cycles()
    rows = [
        [
            each.layer.name,
            each.layer.operator.kind,
            percent(each.nonzeros / each.layer.size),
            *(_number(part) for part in (each.mac, each.weights, each.inputs, each.outputs, each.total)),
            percent(each.total / total) if total else "",
            _number(count),
        ]
        for each, count in zip(energy.layers, cycles, strict=True)
    ]
    header = ["layer", "kind", "kept", "MAC", "weights", "inputs", "outputs", f"total ({energy.unit})", "share"]
    lines = [
        table([*header, f"cycles ({energy.array.dataflow})"], rows),
        "",
        f"{name} on {energy.array.name}: {amount(total, energy.unit)}; relaxed, an upper bound, "
        f"{amount(energy.relaxed_total, energy.unit)}, {percent(energy.relaxed_total / energy.relaxed_dense)} "
        f"of dense; {percent(energy.floor)} of dense with all weights zero",
        _cycles(energy, sum(cycles)),
        *_left_out(energy.left_out),
    ]
    if unknown := energy.assumed_dense:
        lines.append(f"counted as dense, because their weights cannot be looked at: {', '.join(unknown)}")
    return "\n".join(lines)


def _left_out(items: Sequence[LeftOut]) -> list[str]:
    """A line for each kind and reason."""
    kinds: dict[tuple[str, str], list[LeftOut]] = {}
    for each in items:
        kinds.setdefault((each.kind, each.reason), []).append(each)
    return [
        f"not counted: {kind} ({quantity(sum(each.macs for each in found), 'macs')}), {reason}: "
        f"{', '.join(each.name for each in found)}"
        for (kind, reason), found in kinds.items()
    ]


def _number(value: float) -> str:
    """A number with a prefix, in a column."""
    return f"{quantity(value, ''):>7}"


def _cycles(energy: SystolicEnergy, cycles: int) -> str:
    array = energy.array
    seconds = "" if array.frequency_hz is None else f", {quantity(cycles / array.frequency_hz, 'latency')}"
    return f"{quantity(cycles, '')} cycles by dataflow {array.dataflow}{seconds}, without stalls and with all weights"


COMMANDS = (
    Command(
        "systolic",
        "ecc systolic zoo:alexnet --preset eyeriss --html alexnet.html",
        _arguments,
        _systolic,
    ),
)
