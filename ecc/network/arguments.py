"""Arguments: what is given in the place of a network, a graph or a step, refused in one sentence where it is none."""

from __future__ import annotations

from typing import Any

from torch import nn

from ecc.core.errors import InputError
from ecc.network.graph import WidthGraph

__all__ = ["demand_graph", "demand_model", "demand_step"]


def demand_model(model: Any) -> None:
    """Refuse what is no module.

    Raises:
        InputError: If so.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InputError(f"the network must be a module, got the class {model.__name__}; make one with it first")
    if not isinstance(model, nn.Module):
        raise InputError(f"the network must be a torch.nn.Module, got {type(model).__name__}; give the module itself")


def demand_graph(model: Any, graph: Any) -> None:
    """Refuse what is not a module and a width graph, in this order.

    Raises:
        InputError: If so.
    """
    if isinstance(model, WidthGraph) and isinstance(graph, nn.Module):
        raise InputError("the network and its width graph are swapped; give the network first")
    demand_model(model)
    if not isinstance(graph, WidthGraph):
        raise InputError(f"the graph must be what ecc.trace returned, got {type(graph).__name__}")


def demand_step(step: Any) -> None:
    """Refuse steps that are no positive whole number of channels.

    Raises:
        InputError: If so.
    """
    if type(step) is not int or step < 1:
        raise InputError(f"the step must be a whole number of at least 1 channel, got {step!r}")
