"""What a network runs, as operators with shapes: the key to what each of them costs on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ecc.core.operators import Operator
from ecc.core.widths import Widths
from ecc.network.capture import Capture, capture, is_item, operator_name
from ecc.network.copying import copy_sharing
from ecc.network.examining import is_meta
from ecc.network.following import follow
from ecc.network.graph import WidthGraph
from ecc.network.opaque import Opaque
from ecc.network.operator_rules import translate
from ecc.network.slimming import outline

__all__ = ["Inventory", "operators_at", "operators_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """What one forward runs.

    Attributes:
        operators: In order of execution, one per call; for recurrent layers one per layer and direction.
        modules: Path of the module that makes each of these calls.
        free: Names of operators that move no data, such as views, with the number of calls.
        unknown: Names of operators that are none of KINDS, or in a form that is not understood, and of modules that
            cannot be followed inside, with the number of calls. What they cost is not in ``operators``.
    """

    operators: tuple[Operator, ...]
    modules: tuple[str, ...]
    free: Mapping[str, int]
    unknown: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch."""
        return sum(operator.macs for operator in self.operators)


def operators_of(model: nn.Module, inputs: Any) -> Inventory:
    """The operators of one forward in eval mode; the model is neither run nor changed.

    Args:
        inputs: A tensor, a tuple of positional arguments, or a dict of keyword arguments, as ``trace`` takes them.
    Raises:
        InputError: If the model's own forward cannot be recorded.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}

    def fresh() -> nn.Module:
        return copy_sharing(model, shared).eval()

    return _inventory(capture(fresh, inputs) if is_meta(model) else follow(fresh, inputs))


def operators_at(model: nn.Module, graph: WidthGraph, inputs: Any, widths: Widths) -> Inventory:
    """The operators of the network at given widths.

    Raises:
        InputError: If the widths are not admissible, or the forward cannot be recorded.
    """
    return operators_of(outline(model, graph, widths), inputs)


def _inventory(captured: Capture) -> Inventory:
    operators: list[Operator] = []
    modules: list[str] = []
    free, unknown = Counter[str](), Counter[str]()
    for node in captured.graph.nodes:
        if node.op != "call_function" or is_item(node):
            continue
        if isinstance(node.args[0] if node.args else None, Opaque):
            unknown[node.args[0].path] += 1
            continue
        name = operator_name(node)
        made = translate(node, lambda source: source.meta["val"])
        if made is None:
            unknown[name] += 1
        elif not made:
            free[name] += 1
        else:
            operators += made
            modules += [captured.modules.get(node, "")] * len(made)
    return Inventory(tuple(operators), tuple(modules), dict(free), dict(unknown))
