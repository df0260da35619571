"""fit --model: the cost of a network that was never profiled, from what operators cost on the device."""

from __future__ import annotations

import argparse
from pathlib import Path

from ecc.api.composing import compose
from ecc.cli.arguments import add_input, example_inputs
from ecc.cli.command import Outcome
from ecc.cli.tables import table
from ecc.cli.text import percent, quantity
from ecc.core.errors import InputError
from ecc.energy_models.additive import AdditiveCost
from ecc.network.tracing import trace
from ecc.zoo.loading import load_model

__all__ = ["OF_A_MODEL", "add_composition", "composed"]

OF_A_MODEL = ("input", "like")
"""Options that only such a cost has."""

_OF_ROWS = ("operators", "robust", "extrapolate", "max_error", "html")


def add_composition(parser: argparse.ArgumentParser) -> None:
    """Which network, where STORE holds operators."""
    parser.add_argument(
        "--model", metavar="MODEL", help="with a STORE of operators: compose the cost of this network, without its rows"
    )
    add_input(parser)
    parser.add_argument(
        "--like", metavar="COST.json", help="with --model: additive cost of another network profiled on the device"
    )


def composed(arguments: argparse.Namespace) -> Outcome:
    """Compose what the arguments say.

    Raises:
        InputError: If an argument is of a profile of a network, or the cost cannot be composed.
    """
    for name in _OF_ROWS:
        if getattr(arguments, name) not in (None, False):
            raise InputError(f"--model composes a cost from operators alone; leave out --{name.replace('_', '-')}")
    if arguments.form not in ("auto", "additive"):
        raise InputError(f"form {arguments.form} needs rows of the network; --model goes with --form additive")
    if arguments.like is not None and Path(arguments.like).resolve() == Path(arguments.out).resolve():
        raise InputError(f"--out would overwrite {arguments.like}, which --like reads; choose another name")
    loaded = load_model(arguments.model)
    graph = trace(loaded.module, example_inputs(loaded, arguments.input, seed=arguments.seed))
    cost = compose(graph, arguments.store, arguments.metric, network=loaded.name, like=arguments.like)
    cost.save(arguments.out)
    value, low, high = cost.reference
    shown = {
        "metric": cost.metric,
        "unit": cost.unit,
        "form": cost.form,
        "samples": 0,
        "dense": value,
        "dense_interval": [low, high],
        "like": arguments.like,
        "coefficients": cost.coefficients,
        "cost": arguments.out,
    }
    return Outcome(shown, _text(cost, arguments.out))


def _text(cost: AdditiveCost, out: str) -> str:
    """A composed cost for people."""
    value, low, high = (quantity(each, cost.metric) for each in cost.reference)
    parts = cost.coefficients
    rows = [
        [name, quantity(part, cost.metric), percent(part / cost.dense)]
        for name, part in sorted(parts.items(), key=lambda each: -each[1])
        if part
    ]
    lines = [
        f"additive model of {cost.metric} from operators alone: dense {value}, 95 % interval [{low}, {high}]",
        table(["part", "dense", "share"], rows),
        f"written to {out}; a few rows of the network make it better: "
        "ecc profile MODEL, then ecc fit STORE --form additive --operators OPS.db",
    ]
    return "\n".join(lines)
