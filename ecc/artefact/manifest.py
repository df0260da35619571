"""Manifest: what an artefact is, as a value and as JSON.

The *slim recipe* in it is portable: the dense network (spec, options, fingerprint) and the unit indices kept per group
are enough to build the compact module again, anywhere, before its weights are loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.artefact.stages import Edit, StageRecord, edit_from_json
from ecc.core.errors import InputError
from ecc.core.fields import Fields, Scalar
from ecc.core.verdict import BudgetCheck
from ecc.core.widths import Kept, Widths

__all__ = ["FILE_NAME", "KIND", "SCHEMA", "FileRecord", "Manifest"]

SCHEMA = 1
"""Version of the manifest's form; raised when an older reader could misread it."""

KIND = "ecc-artefact"
"""Value of ``kind`` in every manifest."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""What a file of an artefact may be called: one plain component, never a path."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHERE = "manifest.json"
_MOST_ELEMENTS = 1 << 31  # of one input batch: a hostile shape must not ask for terabytes


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must hold: its SHA-256 in hex and its size in bytes."""

    sha256: str
    bytes: int

    @classmethod
    def from_json(cls, fields: Fields) -> FileRecord:
        """From a JSON object of the same names.

        Raises:
            InputError: If it is not such a record.
        """
        record = cls(fields.text("sha256"), fields.whole("bytes"))
        if not _SHA256.fullmatch(record.sha256):
            raise InputError("a file's sha256 in the manifest is not 64 hex digits; the manifest is damaged")
        return record


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """What was made, of what, how and where.

    Attributes:
        method: Name of the solver; empty where secondary stages alone made the network smaller.
        model: How the dense network is made, a MODEL of the command line; empty when it was given as an object.
        options: KEY=VALUE pairs of its factory.
        weights: Where the dense weights came from, for people.
        data: The DATA of the command line that it was trained and scored on; empty when loaders were given.
        network: Name for people.
        fingerprint: Hash of the dense architecture (``WidthGraph.fingerprint``).
        input_shapes: Shapes of the example inputs, batch axis included.
        input_dtypes: Their dtypes (``float32``, ``int64`` …).
        dense: Channels per prunable group of the dense network.
        widths: Channels kept per prunable group; groups that went with a removed block are not named.
        kept: Unit indices kept; a group that is not named keeps all of its units.
        budgets: How each budget ended.
        counts: ``macs``, ``params`` and ``memory`` (bytes) of the result, ``macs_dense`` … of the dense network.
        accuracy_dense: Score of the dense network on the test data, in [0, 1]; None when it was not computed.
        accuracy: Score of the result; None when it was not computed.
        nonzero_fraction: Parameters left as a fraction of dense.
        rounds: Epochs or steps that the method took.
        seconds: Wall time of the compression.
        seed: Of every random choice.
        device: Name of the device that the budgets are for.
        device_fingerprint: Hash of it and its settings; empty when no device was involved.
        runtime: How the network was run on it; empty when no device was involved.
        threads: Intra-op threads of a CPU runtime; 0 on an accelerator or without a device.
        environment: Versions and settings that may matter.
        settings: Settings of the method and of training.
        created: When, in ISO 8601 with its zone.
        groups: That the user declared, each with the parameter axes that it ``writes`` and ``reads``.
        renormalise: Whether channels may go that norms take their statistics over.
        removed: Residual blocks that went whole.
        weight_method: What pruned single weights; empty where nothing did.
        masked: Layers whose inputs are masked, each with a buffer ``input_mask`` in the state.
        stages: The secondary stages that have packed the weights, in their order; empty where none has.
        edits: Changes of the compact network's structure that its packed state needs, in their order.
    """

    method: str
    model: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    data: str = ""
    network: str
    fingerprint: str
    input_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    dense: Widths
    widths: Widths
    kept: Kept
    budgets: tuple[BudgetCheck, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    accuracy_dense: float | None = None
    accuracy: float | None = None
    nonzero_fraction: float | None = None
    rounds: int = 0
    seconds: float = 0.0
    seed: int = 0
    device: str = ""
    device_fingerprint: str = ""
    runtime: str = ""
    threads: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    created: str = ""
    groups: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    renormalise: bool = False
    removed: tuple[str, ...] = ()
    weight_method: str = ""
    masked: tuple[str, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        if len(self.input_shapes) != len(self.input_dtypes):
            raise InputError("the manifest must give one dtype per input shape")
        for shape in self.input_shapes:
            if min(shape, default=1) < 1 or math.prod(shape) > _MOST_ELEMENTS:
                raise InputError(f"the manifest's input shape {shape} is empty or too large")
        gone = set(self.dense) - set(self.widths)
        if not set(self.widths) <= set(self.dense) or (gone and not self.removed):
            raise InputError("the manifest's dense widths and kept widths must name the same groups")
        for name in self.kept:
            if name not in self.widths:
                raise InputError(f"the manifest keeps units of {name!r}, which is not one of its groups")
        for name, width in self.widths.items():
            _check_group(name, self.dense[name], width, self.kept.get(name))

    @property
    def made_by(self) -> str:
        """The method and the stages behind it: ``admm + deep-compression``."""
        return " + ".join(filter(None, [self.method, *dict.fromkeys(stage.name for stage in self.stages)]))

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse."""
        value = {name: getattr(self, name) for name in (one.name for one in fields(self))}
        for name in ("options", "dense", "widths", "counts", "environment", "settings"):
            value[name] = dict(value[name])
        value["groups"] = {
            name: {side: list(axes) for side, axes in sides.items()} for name, sides in self.groups.items()
        }
        value["input_shapes"] = [list(shape) for shape in self.input_shapes]
        for name in ("input_dtypes", "removed", "masked"):
            value[name] = list(value[name])
        value["kept"] = {name: units.tolist() for name, units in self.kept.items()}
        value["budgets"] = [check.to_json() for check in self.budgets]
        value["stages"] = [stage.to_json() for stage in self.stages]
        value["edits"] = [dict(edit) for edit in self.edits]
        return {"kind": KIND, "schema": SCHEMA, **value}

    @classmethod
    def from_json(cls, fields: Fields) -> Manifest:
        """The inverse of ``to_json``; names that this version does not know are ignored.

        Raises:
            InputError: If it is not the manifest of an artefact, is of a newer schema, or is damaged.
        """
        if fields.text("kind", "") != KIND:
            raise InputError(
                "manifest.json is not that of an artefact; give a folder that ecc compress or ecc stage has written"
            )
        if (schema := fields.whole("schema")) != SCHEMA:
            raise InputError(f"the artefact has schema {schema} and this program reads {SCHEMA}; upgrade ecc-compress")
        kept, dense, widths = fields.inner("kept"), fields.inner("dense"), fields.inner("widths")
        groups = fields.inner("groups") if "groups" in fields else Fields({}, _WHERE)  # not in those of early versions
        options, environment, counts = (fields.inner(name) for name in ("options", "environment", "counts"))
        return cls(
            method=fields.text("method"),
            model=fields.text("model"),
            options={name: options.text(name) for name in options},
            weights=fields.text("weights"),
            data=fields.text("data"),
            network=fields.text("network"),
            fingerprint=fields.text("fingerprint"),
            input_shapes=tuple(
                Fields({"input": shape}, _WHERE).wholes("input") for shape in fields.items("input_shapes")
            ),
            input_dtypes=fields.texts("input_dtypes"),
            dense={name: dense.whole(name, 1) for name in dense},
            widths={name: widths.whole(name, 1) for name in widths},
            kept={name: np.array(kept.wholes(name), dtype=np.int64) for name in kept},
            budgets=tuple(BudgetCheck.from_json(budget) for budget in fields.items("budgets")),
            counts={name: counts.whole(name) for name in counts},
            accuracy_dense=fields.optional_number("accuracy_dense"),
            accuracy=fields.optional_number("accuracy"),
            nonzero_fraction=fields.optional_number("nonzero_fraction"),
            rounds=fields.whole("rounds"),
            seconds=fields.number("seconds"),
            seed=fields.whole("seed", -(1 << 62)),
            device=fields.text("device"),
            device_fingerprint=fields.text("device_fingerprint"),
            runtime=fields.text("runtime"),
            threads=fields.whole("threads"),
            environment={name: environment.text(name) for name in environment},
            settings=fields.scalars("settings"),
            created=fields.text("created"),
            groups={name: _sides(groups.inner(name)) for name in groups},
            renormalise=bool(fields.optional_flag("renormalise")),
            removed=fields.texts("removed") if "removed" in fields else (),
            weight_method=fields.text("weight_method", ""),
            masked=fields.texts("masked") if "masked" in fields else (),
            stages=tuple(StageRecord.from_json(Fields(stage, _WHERE)) for stage in _listed(fields, "stages")),
            edits=tuple(edit_from_json(edit, _WHERE) for edit in _listed(fields, "edits")),
        )


def _listed(fields: Fields, name: str) -> list[Any]:
    """A list that the manifests of early versions do not have."""
    return fields.items(name) if name in fields else []


def _sides(fields: Fields) -> dict[str, tuple[str, ...]]:
    return {side: fields.texts(side) for side in fields}


def _check_group(name: str, dense: int, width: int, kept: NDArray[np.int64] | None) -> None:
    """Refuse widths and kept units that cannot belong together."""
    if kept is None:
        if width != dense:
            raise InputError(f"the manifest does not say which units of group {name!r} are kept")
        return
    step = width // len(kept) if len(kept) else 0
    if step < 1 or step * len(kept) != width or dense % step or width > dense:
        raise InputError(f"the manifest keeps {len(kept)} units of group {name!r}, but its width is {width} of {dense}")
    if kept[0] < 0 or kept[-1] >= dense // step or bool((np.diff(kept) <= 0).any()):
        raise InputError(f"the manifest's kept units of group {name!r} are not distinct, sorted and within the group")
