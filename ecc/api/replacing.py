"""Replacing: other layers in a network, where it computes the same with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import tolerance

__all__ = ["replaced", "with_layers"]


def replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The network with another layer at a path; the layer itself where the path is empty."""
    if not name:
        return layer.eval()
    model.set_submodule(name, layer.eval())
    return model


def with_layers(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Any) -> tuple[nn.Module, dict[str, str]]:
    """A copy of a network with other layers, and by path why some of them are left out.

    A network may do more with a layer than call it, so that one which computes the same alone does not do so in there.
    If the network with all of them gives other outputs or fails, they come in one by one, and those with which it
    does are left out.

    Args:
        model: In eval mode; left as it is.
        layers: By path.
        inputs: On which outputs are compared.
    """
    expected, limit = run(model, inputs), tolerance(model)
    network = copy_sharing(model, {})
    for name, layer in layers.items():
        network = replaced(network, name, layer)
    if not _fault(network, inputs, expected, limit):
        return network, {}
    network, left = copy_sharing(model, {}), dict[str, str]()
    for name, layer in layers.items():
        own = network.get_submodule(name)
        network = replaced(network, name, layer)
        if fault := _fault(network, inputs, expected, limit):
            left[name] = fault
            network = replaced(network, name, own)
    return network, left


def _fault(network: nn.Module, inputs: Any, expected: Sequence[Tensor], limit: float) -> str:
    """What is wrong with the outputs; empty if nothing."""
    try:
        gap = difference(expected, run(network, inputs))
    except Exception as error:  # whatever a user's forward may raise
        told = str(error).strip().splitlines() or [type(error).__name__]
        return f"the network does not run with it ({told[0]})"
    return "" if gap <= limit else f"the network differs by {gap:.1e} with it"
