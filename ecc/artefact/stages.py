"""StageRecord: what one secondary stage did to the weights of an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ecc.core.errors import InputError
from ecc.core.fields import Fields, Scalar

__all__ = ["Edit", "StageRecord", "edit_from_json"]

Edit = Mapping[str, str | int]
"""A change of the network's structure that its packed state needs."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One secondary stage.

    Attributes:
        name: As on the command line.
        settings: Its options.
        bytes: Size of the file of the weights after it.
        accuracy: Score of the decoded network after it, in [0, 1]; None when it was not computed.
        seconds: Wall time, with its training.
        choices: By tensor, what was chosen for it instead of the stage's own options, for people.
    """

    name: str
    settings: Mapping[str, Scalar]
    bytes: int
    accuracy: float | None
    seconds: float
    choices: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "bytes": self.bytes,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
            "choices": dict(self.choices),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> StageRecord:
        """From a JSON object of the same names.

        Raises:
            InputError: If it is not such a record.
        """
        choices = fields.inner("choices")
        return cls(
            fields.text("name"),
            fields.scalars("settings"),
            fields.whole("bytes"),
            fields.optional_number("accuracy"),
            fields.number("seconds"),
            {name: choices.text(name) for name in choices},
        )


def edit_from_json(value: object, where: str) -> dict[str, str | int]:
    """An edit of a manifest: texts and whole numbers by name.

    Raises:
        InputError: If it is anything else.
    """
    scalars = Fields({"edit": value}, where).scalars("edit")
    edit = {name: item for name, item in scalars.items() if isinstance(item, str | int) and not isinstance(item, bool)}
    if len(edit) < len(scalars):
        raise InputError(f"{where} has an edit with another value than text and whole numbers; it is damaged")
    return edit
