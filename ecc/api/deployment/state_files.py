"""State dicts: weights as safetensors, and beside them a JSON file that says what network they are of.

The JSON names how the dense network is made, what was cut from it, and what stages have changed of its structure, so
that ``load_state`` makes the network again without the artefact. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ecc.api.deployment.formats import Run, Writer
from ecc.api.deployment.targets import demand_place
from ecc.api.sparsity import with_stored_masks
from ecc.artefact.stages import edit_from_json
from ecc.core.errors import InputError
from ecc.core.fields import Fields, parse_object
from ecc.core.tying import untied
from ecc.network.copying import copy_sharing
from ecc.network.manifest import SlimManifest, rebuild
from ecc.profiler.runtimes.calling import Call, eager_outputs
from ecc.stages.edits import Edit, apply_edits
from ecc.zoo.loading import load_model

__all__ = ["KIND", "Recipe", "StateFiles", "demand_recipe_place", "load_state", "recipe_path"]

KIND = "ecc-state-dict"
"""Value of ``kind`` in every such JSON file."""

_SCHEMA = 1
_MOST_BYTES = 1 << 26  # of the JSON file


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a network is made of which only the weights are saved.

    Attributes:
        model: MODEL of the command line for the dense network; empty where it was given as an object.
        options: KEY=VALUE pairs of its factory.
        slim: The slim manifest; None where nothing was cut.
        edits: Changes of structure that stages have made.
        masked: Layers whose inputs are masked.
        about: Where the network is from, for people.
    """

    model: str = ""
    options: Mapping[str, str] | None = None
    slim: SlimManifest | None = None
    edits: tuple[Edit, ...] = ()
    masked: tuple[str, ...] = ()
    about: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``parse`` is the inverse."""
        return {
            "model": self.model,
            "options": dict(self.options or {}),
            "slim": None if self.slim is None else self.slim.to_json(),
            "edits": [dict(edit) for edit in self.edits],
            "masked": list(self.masked),
            "about": dict(self.about or {}),
        }

    @classmethod
    def parse(cls, found: Fields, slim: Any, where: str) -> Recipe:
        """From a JSON object.

        Args:
            slim: Its entry of that name.
            where: What to call it in messages.
        Raises:
            InputError: If it is not sound.
        """
        options = found.inner("options")
        return cls(
            found.text("model"),
            {name: options.text(name) for name in options},
            None if slim is None else SlimManifest.parse(json.dumps(slim).encode(), f"'slim' of {where}"),
            tuple(edit_from_json(edit, where) for edit in found.items("edits")),
            found.texts("masked"),
        )

    def build(self, dense: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
        """The network with its weights, in eval mode.

        Args:
            dense: The dense network with any weights; left as it is.
            state: Every tensor of the network.
            where: What to call the state in messages.
        Raises:
            InputError: If they do not belong together.
        """
        network = copy_sharing(dense, {}) if self.slim is None else rebuild(dense, self.slim)
        network = apply_edits(with_stored_masks(network, state, self.masked, where=where), self.edits)
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:200]
            raise InputError(f"the weights of {where} do not fit its network ({detail})") from error
        return network.eval()


@dataclass(frozen=True, slots=True, eq=False)
class StateFiles:
    """Weights as safetensors, and JSON beside them that says what they are of.

    Attributes:
        recipe: How the network is made.
        dense: The dense network, to try the file with where the recipe does not name one.
    """

    recipe: Recipe
    dense: nn.Module
    name = "state-dict"
    kind = "a file of safetensors"
    example = "network.safetensors"

    @staticmethod
    def alike(head: bytes) -> bool:
        """Whether a file that begins so is one: the length of a JSON object, and the object."""
        return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32

    def writers(
        self, network: nn.Module, call: Call, batched: Sequence[bool] | None, names: Sequence[str]
    ) -> list[Writer]:
        """The one way; weights fit batches of any size."""
        return [Writer("safetensors", partial(self._write, network), self._open)]

    def _write(self, network: nn.Module, path: Path) -> None:
        tensors, aliases = untied(network.state_dict())
        content = safetensors.torch.save(tensors, metadata={"format": "pt"})
        value = {
            "kind": KIND,
            "schema": _SCHEMA,
            "weights": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "aliases": aliases,
            **self.recipe.to_json(),
        }
        path.write_bytes(content)
        recipe_path(path).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")

    def _open(self, path: Path) -> Run:
        network = load_state(path, model=None if self.recipe.model else self.dense)
        return lambda call: eager_outputs(network, call)


def recipe_path(weights: Path) -> Path:
    """The JSON file of a file of weights: with the ending ``.json``, in the place of ``.safetensors`` or behind all."""
    return weights.with_name(f"{weights.name.removesuffix('.safetensors')}.json")


def demand_recipe_place(weights: Path) -> None:
    """Refuse a file of weights whose JSON file would take the place of something else.

    Raises:
        InputError: If so.
    """
    where = recipe_path(weights)
    demand_place(where, "the JSON file of an export", lambda head: f'"{KIND}"'.encode() in head)


def load_state(path: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The network of an exported state dict, in eval mode.

    Args:
        path: The file of safetensors; its JSON file must be beside it.
        model: The dense network with any weights, where the JSON file does not name one, or another one is meant.

    Raises:
        InputError: If a file is missing, damaged or of another network.
    """
    weights = Path(path).expanduser()
    where = recipe_path(weights)
    try:
        content = weights.read_bytes()
        if where.stat().st_size > _MOST_BYTES:
            raise InputError(f"{where} is larger than such a file can be; it is damaged")
        text = where.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}; copy both files of the export") from error
    found = parse_object(text, str(where))
    if found.text("kind", "") != KIND:
        raise InputError(f"{where} is not that of an exported state dict; give what ecc export has written")
    if (schema := found.whole("schema")) != _SCHEMA:
        raise InputError(f"{where} has schema {schema} and this program reads {_SCHEMA}; upgrade ecc-compress")
    if hashlib.sha256(content).hexdigest() != found.text("sha256"):
        raise InputError(f"{weights} does not have the SHA-256 that {where.name} gives; it was changed or damaged")
    recipe = Recipe.parse(found, json.loads(text).get("slim"), str(where))
    if model is None and not recipe.model:
        raise InputError(f"{where} names no dense network; give one: ecc.load_state(path, model=...)")
    dense = load_model(recipe.model, recipe.options, stored=True).module if model is None else model
    return recipe.build(dense, _state(content, found.inner("aliases"), weights), str(weights))


def _state(content: bytes, aliases: Fields, where: Path) -> dict[str, Tensor]:
    """Every tensor of the file; tied names share one."""
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{where} is not a readable safetensors file ({error}); export it again") from error
    for alias in aliases:
        if (name := aliases.text(alias)) not in tensors:
            raise InputError(f"{where} has no tensor {name!r}, which {alias!r} is tied to; it is damaged")
        tensors[alias] = tensors[name]
    return tensors
