"""A network that trains in a moment, its data, and job files about them; and an engine without processes."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from ecc.api.describing import manifest_of
from ecc.api.keeping import save as save_plain
from ecc.api.staged import Staged
from ecc.cli import sweep as command
from ecc.report.saving import save
from ecc.sweeps import running
from ecc.sweeps.engines.protocol import Ended, Event, Started, Unit, find_work
from ecc.sweeps.verb import Prepared

__all__ = ["InlineEngine", "run_inline", "weights_of", "write_job"]

_NETWORK = """
import torch
from torch import nn
from ecc.data.values import TensorBatches


def net(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def blobs(batch_size):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(240) % 3
    inputs = torch.randn(240, 8, generator=generator) + 3 * torch.eye(8)[targets]
    parts = [slice(0, 160), slice(160, 200), slice(200, 240)]
    return tuple(TensorBatches(inputs[p], targets[p], batch_size, shuffle=p.start == 0) for p in parts)
"""

_JOB = """
seeds = [0]
budgets = ["macs=0.5"]
methods = ["uniform", "magnitude"]

[training]
epochs = 2
batch_size = 32
device = "cpu"

[[networks]]
name = "tiny"
model = "tiny.py:net"
data = "tiny.py:blobs"
pretrain = 4
"""


def write_job(folder: Path, text: str = _JOB) -> Path:
    """A job file beside the network that it is about."""
    (folder / "tiny.py").write_text(_NETWORK)
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


class InlineEngine:
    """Runs units here, one by one."""

    name = "inline"
    workers = 1

    def __init__(self) -> None:
        self.ran: list[str] = []
        self._works: dict[str, Any] = {}

    def run(self, units: Sequence[Unit], work: str) -> Generator[Event | None, None, None]:
        made = self._works.setdefault(work, find_work(work))
        for unit in units:
            yield Started(unit.id, "here")
            self.ran.append(unit.id)
            yield Ended(unit.id, made(dict(unit.description)), worker="here")

    def close(self) -> None:
        """Nothing lives on."""


def run_inline(patch: Any) -> InlineEngine:
    """An engine without processes, artefacts without pictures and sweeps without a front."""
    made = InlineEngine()
    patch.setattr(Prepared, "_engine", lambda *given: made)
    patch.setattr(running, "save", _save_plain)
    patch.setattr(command, "_front", lambda *given: (None, "", None))
    return made


def _save_plain(result: Any, path: Path, *, source: Any = None) -> Any:
    if isinstance(result, Staged):
        return save(result, path, source=source)
    return save_plain(result, path, manifest_of(result, source))


def weights_of(folder: Path) -> dict[str, str]:
    """Hash of the weights of each artefact, by its id."""
    found = {}
    for manifest in sorted(folder.glob("jobs/*/manifest.json")):
        found[manifest.parent.name] = json.loads(manifest.read_text())["files"]["weights.safetensors"]["sha256"]
    return found
