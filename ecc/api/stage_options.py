"""Stages by name with their options, as they are typed; what cannot be is refused before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ecc.api.options import as_scalar, checked_options, names_of, part_of
from ecc.core.code import Stage
from ecc.core.errors import InputError
from ecc.core.factories import kind_of, suggestion
from ecc.core.fields import Scalar
from ecc.stages.methods import STAGES

__all__ = ["settings_of", "stage_options", "stages_of"]

TRAINING = "train"
"""The part of options that are of the training of all stages."""


def stages_of(
    apply: Sequence[str | Stage] | str | Stage, options: Mapping[str, Any] | None = None, *, seed: int = 0
) -> list[Stage]:
    """Stages in the order in which they are applied.

    Args:
        apply: Names, or stages as objects (``Codebook(bits=4)``).
        options: ``STAGE.OPTION`` → value, for those that are given by name.
        seed: Of those that have one among their options, where it is not given there.
    Raises:
        InputError: If a stage or an option is unknown, an option is of a wrong type, or of a stage that is not applied.
    """
    given = [apply] if isinstance(apply, str) or not isinstance(apply, Sequence) else list(apply)
    if not given:
        raise InputError(f"no stage is given; apply one or several of {', '.join(STAGES)}")
    settings = dict(options or {})
    named = [each for each in given if isinstance(each, str)]
    for name in settings:
        part, dot, _ = name.partition(".")
        if not dot:
            raise InputError(f"option {name!r} is not STAGE.OPTION; write for example codebook.bits=4")
        if part not in (*named, TRAINING):
            raise InputError(f"option {name!r} is of {_said(part)}; write {' or '.join([*named, TRAINING])}.OPTION")
    return [_stage(each, settings, seed) for each in given]


def _said(part: str) -> str:
    if part in STAGES:
        return f"stage {part}, which is not applied by name"
    return f"no stage that is applied, and {part!r} is none{suggestion(part, list(STAGES))}"


def _stage(given: str | Stage, options: Mapping[str, Any], seed: int) -> Stage:
    if not isinstance(given, str):
        if isinstance(given, type) or not callable(getattr(given, "encode", None)):
            raise InputError(f"{kind_of(given)} is no stage; give a name or a stage, such as Codebook(bits=4)")
        return given
    kind: Any = STAGES.get(given)
    if kind is None:
        raise InputError(f"stage {given!r} is unknown{suggestion(given, list(STAGES))}")
    own = {"seed": seed} if "seed" in names_of(kind) else {}
    stage: Stage = kind(**(own | checked_options(kind, given, part_of(options, given))))
    return stage


def stage_options() -> dict[str, list[str]]:
    """Names of the options of each stage."""
    return {name: names_of(kind) for name, kind in STAGES.items()}


def settings_of(stage: Stage) -> dict[str, Scalar]:
    """The options of a stage as a JSON object, for manifests; of the user's own that is no dataclass, none."""
    own: Any = stage
    if not is_dataclass(own):
        return {}
    shown = [each.name for each in fields(own) if each.init and each.name != "name"]
    return {name: as_scalar(getattr(own, name)) for name in shown}
