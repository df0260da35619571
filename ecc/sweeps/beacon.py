"""How far a job is, in a small file that whoever shows progress may read."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ecc.core.errors import EccError
from ecc.core.fields import parse_object

__all__ = ["Beacon", "Stage"]

_PERIOD_S = 0.5
_FILE = "progress.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a job does at the moment.

    Attributes:
        name: Of the stage.
        share: Of it that is done, in [0, 1].
        note: For people.
    """

    name: str
    share: float
    note: str = ""

    @classmethod
    def read(cls, work: Path) -> Stage | None:
        """What the job whose checkpoints are in that folder does; None where nothing is known."""
        with suppress(OSError, EccError):
            fields = parse_object((work / _FILE).read_bytes(), _FILE)
            return cls(fields.text("name"), min(max(fields.number("share"), 0.0), 1.0), fields.text("note", ""))
        return None


class Beacon:
    """Writes it, now and then.

    Args:
        work: Folder of the job's checkpoints.
    """

    def __init__(self, work: Path) -> None:
        self._file, self._shown, self._stage = work / _FILE, 0.0, ""

    def show(self, stage: str, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` units of ``stage`` are finished; costs nothing most of the time."""
        now = time.monotonic()
        if now - self._shown < _PERIOD_S and stage == self._stage:
            return
        self._shown, self._stage = now, stage
        share = done / total if total > 0 else 0.0
        with suppress(OSError):  # nobody depends on it
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(asdict(Stage(stage, share, note))), encoding="utf-8")
