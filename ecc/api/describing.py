"""What artefacts say of what they hold: the manifests of compressions, and of networks that nothing has compressed."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import torch
from torch import Tensor, nn

from ecc.api.result import Compression
from ecc.artefact import Manifest
from ecc.core.errors import InputError
from ecc.core.table import Provenance
from ecc.network.graph import WidthGraph
from ecc.zoo.loading import load_model

__all__ = ["Source", "environment", "manifest_of", "manifest_of_network"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a dense network came from, so that an artefact can be rebuilt from its name.

    Attributes:
        model: MODEL of the command line; empty when the network was given as an object.
        options: KEY=VALUE pairs of the factory.
        weights: Where its weights came from.
        data: DATA of the command line; empty when loaders were given.
        network: Name for people.
    """

    model: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    data: str = ""
    network: str = ""


def manifest_of(result: Compression, source: Source | None = None) -> Manifest:
    """What the artefact of a compression says of it.

    Args:
        source: Where the dense network came from; without it, a class that needs no arguments is found by itself.
    """
    origin = source or Source(model=_own_factory(result.dense), network=result.network)
    place = next((cost.provenance for cost in result.costs if cost.provenance is not None), None)
    return Manifest(
        method=result.recipe.method,
        model=origin.model,
        options=dict(origin.options),
        weights=origin.weights,
        data=origin.data,
        network=origin.network or result.network,
        fingerprint=result.graph.fingerprint,
        dense=result.graph.space.full,
        widths=dict(result.widths),
        kept=result.kept,
        budgets=result.budgets,
        counts=result.counts,
        accuracy_dense=result.accuracy_dense,
        accuracy=result.accuracy,
        nonzero_fraction=result.nonzero_fraction,
        rounds=result.rounds,
        seconds=result.seconds,
        seed=result.recipe.seed,
        environment=environment(),
        settings=result.recipe.settings,
        groups=result.graph.declared,
        renormalise=bool(result.graph.renormalised),
        removed=result.removed,
        weight_method="" if result.sparsity is None else result.sparsity.method,
        masked=() if result.sparsity is None else tuple(result.sparsity.masks),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        **_inputs(result.inputs),
        **_where(place),
    )


def manifest_of_network(
    model: nn.Module, graph: WidthGraph, inputs: Any, source: Source | None = None, *, seed: int = 0
) -> Manifest:
    """What the artefact of a network says of it that was not compressed yet.

    Args:
        graph: Its width graph.
        inputs: What it was traced with.
        source: Where it came from; without it, a class that needs no arguments is found by itself.
        seed: Of what is done with it.
    """
    origin = source or Source(model=_own_factory(model))
    counts = {"macs": graph.macs(), "params": graph.params(), "memory": graph.memory()}
    return Manifest(
        method="",
        model=origin.model,
        options=dict(origin.options),
        weights=origin.weights,
        data=origin.data,
        network=origin.network or type(model).__name__,
        fingerprint=graph.fingerprint,
        dense=graph.space.full,
        widths=graph.space.full,
        kept={},
        counts=counts | {f"{name}_dense": value for name, value in counts.items()},
        seed=seed,
        groups=graph.declared,
        renormalise=bool(graph.renormalised),
        **_inputs(inputs),
    )


def environment() -> dict[str, str]:
    """Versions that may matter."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
    }


def _inputs(inputs: Any) -> dict[str, Any]:
    """The manifest's fields of the inputs."""
    tensors = _tensors(inputs)
    return {
        "input_shapes": tuple(tuple(tensor.shape) for tensor in tensors),
        "input_dtypes": tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors),
    }


def _where(place: Provenance | None) -> dict[str, Any]:
    """The manifest's fields of the device."""
    if place is None:
        return {}
    return {
        "device": place.device,
        "device_fingerprint": place.device_fingerprint,
        "runtime": place.runtime,
        "threads": place.threads,
    }


def _tensors(inputs: Any) -> list[Tensor]:
    values = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else [inputs]
    )
    return [value for value in values if isinstance(value, Tensor)]


def _own_factory(dense: nn.Module) -> str:
    """``module:Class`` of a network whose class makes the same one without arguments; empty when it does not."""
    kind = type(dense)
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        return ""
    spec = f"{kind.__module__}:{kind.__qualname__}"
    try:
        made = load_model(spec).module
    except InputError:
        return ""
    shapes = {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
    return spec if shapes == {n: tuple(p.shape) for n, p in dense.named_parameters()} else ""
