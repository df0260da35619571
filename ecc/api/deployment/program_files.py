"""PyTorch's own programs: pt2 files, which ``torch.export.load`` reads without the network's code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ecc.api.deployment.formats import Run, Writer
from ecc.api.deployment.programs import Way, programs, undisturbed
from ecc.network.nesting import tensors_in
from ecc.profiler.runtimes.calling import Call

__all__ = ["ABOUT", "ProgramFiles"]

ABOUT = "ecc.json"
"""What the file says of its origin, among the extra files of ``torch.export.load(..., extra_files=...)``."""


_ENTRIES = (b"/data/", b"archive_format", b"serialized_", b"version")
"""What the first entry of the archive may be called."""


@dataclass(frozen=True, slots=True, eq=False)
class ProgramFiles:
    """Files of ``torch.export.save``, called as the network is; where it cannot be traced so, with plain tensors.

    Attributes:
        about: What the file says of its origin.
    """

    about: Mapping[str, str] = field(default_factory=dict)
    name = "pt2"
    kind = "a program of torch.export"
    example = "network.pt2"

    @staticmethod
    def alike(head: bytes) -> bool:
        """Whether a file that begins so is one: a zip archive with the entries of either of the two layouts."""
        return head.startswith(b"PK") and any(mark in head for mark in _ENTRIES)

    def writers(
        self, network: nn.Module, call: Call, batched: Sequence[bool] | None, names: Sequence[str]
    ) -> list[Writer]:
        """A writer per way to trace the network."""
        ways = [(way, flat) for flat in (False, True) for way in programs(network, call, batched, flat=flat)]
        return [Writer("torch.export", partial(self._write, way), partial(_open, flat=flat)) for way, flat in ways]

    def _write(self, way: Way, path: Path) -> None:
        program = way()
        with undisturbed():
            torch.export.save(program, path, extra_files={ABOUT: json.dumps(dict(self.about))})


def _open(path: Path, *, flat: bool) -> Run:
    with undisturbed():
        program = torch.export.load(path).module()

    def run(call: Call) -> list[Tensor]:
        fresh = call.replaced(tensor.clone() for tensor in call.tensors)
        with torch.no_grad():
            return [each.detach() for each in tensors_in(program(*fresh.tensors) if flat else fresh.on(program))]

    return run
