"""Sources: what can be exported, an artefact, a compression, what stages have made, or any module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.compressing import Compression
from ecc.api.deployment.state_files import Recipe
from ecc.api.keeping import CUT, Loaded, load
from ecc.api.staged import Staged
from ecc.core.errors import InputError
from ecc.network.arguments import demand_model
from ecc.network.manifest import SlimManifest

__all__ = ["FIXED_POINT", "Exportable", "source_of"]

FIXED_POINT = "fixed-point"
"""Name of the stage whose networks are exported on bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Exportable:
    """A network to export.

    Attributes:
        network: With its weights, decoded where stages have packed them; not to be changed.
        inputs: What to trace it with.
        recipe: How it is made.
        dense: The dense network of the recipe, with any weights.
        data: DATA that it was trained on; empty where that is not known.
        fixed_point: Whether its weights are whole numbers times a step, by the last stage that was applied.
    """

    network: nn.Module
    inputs: Any
    recipe: Recipe
    dense: nn.Module
    data: str = ""
    fixed_point: bool = False


def source_of(source: Any, inputs: Any = None, *, model: nn.Module | None = None) -> Exportable:
    """What there is to export.

    Args:
        source: An artefact's folder, what ``load`` made of it, a compression, a staged network, or a module.
        inputs: Of one inference; what the source knows if None.
        model: The dense network of an artefact that does not name it.
    Raises:
        InputError: If it is none of these, or nothing is known of its inputs.
    """
    if isinstance(source, str | Path):
        source = load(source, model=model)
    if isinstance(source, Loaded):
        found = _of_artefact(source)
    elif isinstance(source, Compression):
        found = _of_compression(source)
    elif isinstance(source, Staged):
        found = _of_staged(source)
    else:
        demand_model(source)
        about = {"network": type(source).__name__}
        found = Exportable(source, None, Recipe(about=about), source)
    given = found.inputs if inputs is None else inputs
    if given is None:
        raise InputError("nothing is known of the network's inputs; give inputs=")
    return Exportable(found.network, given, found.recipe, found.dense, found.data, found.fixed_point)


def _of_artefact(loaded: Loaded) -> Exportable:
    artefact, manifest = loaded.artefact, loaded.manifest
    if CUT in artefact.files:
        slim = SlimManifest.parse(artefact.content(CUT), f"{CUT} of artefact {artefact.path}")
    else:  # written before there were slim manifests
        slim = SlimManifest.of(loaded.dense, loaded.graph, manifest.kept, remove=manifest.removed)
    about = {"network": manifest.network, "method": manifest.made_by, "created": manifest.created}
    recipe = Recipe(manifest.model, manifest.options, slim, tuple(manifest.edits), manifest.masked, about)
    fixed = bool(manifest.stages) and manifest.stages[-1].name == FIXED_POINT
    return Exportable(loaded.model, loaded.inputs, recipe, loaded.dense, manifest.data, fixed)


def _of_compression(result: Compression) -> Exportable:
    slim = SlimManifest.of(result.dense, result.graph, result.kept, remove=result.removed)
    masked = () if result.sparsity is None else tuple(result.sparsity.masks)
    about = {"network": result.network, "method": result.recipe.method}
    recipe = Recipe(slim=slim, masked=masked, about=about)
    return Exportable(result.model, result.inputs, recipe, result.dense)


def _of_staged(result: Staged) -> Exportable:
    start, names = result.start, [stage.name for stage in result.stages]
    fixed = bool(names) and names[-1] == FIXED_POINT
    if start.loaded is not None:
        found = _of_artefact(start.loaded)
        base, dense, data = found.recipe, found.dense, found.data
    else:
        base, dense, data = Recipe(about={"network": type(result.model).__name__}), start.model, ""
    about = {**(base.about or {}), "method": " + ".join(filter(None, [(base.about or {}).get("method"), *names]))}
    recipe = Recipe(base.model, base.options, base.slim, tuple(result.code.edits), base.masked, about)
    return Exportable(result.model, start.inputs or None, recipe, dense, data, fixed)
