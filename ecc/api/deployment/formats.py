"""Formats: what each kind of file must offer, so that ``export`` can write, run and compare it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ecc.profiler.runtimes.calling import Call

__all__ = ["Format", "Run", "Writer"]

Run = Callable[[Call], list[Tensor]]
"""What a file makes of inputs."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One way to write a network.

    Attributes:
        exporter: Who does it, for people.
        write: Writes the file; raises whatever it likes where it cannot.
        open: Loads what was written, from nothing but the file and those beside it.
    """

    exporter: str
    write: Callable[[Path], None]
    open: Callable[[Path], Run]


class Format(Protocol):
    """A kind of file.

    Attributes:
        name: As on the command line.
        kind: What to call a file, with its article.
        example: A name for one.
    """

    name: str
    kind: str
    example: str

    @staticmethod
    def alike(head: bytes) -> bool:
        """Whether a file that begins so is one; no other is replaced."""

    def writers(
        self, network: nn.Module, call: Call, batched: Sequence[bool] | None, names: Sequence[str]
    ) -> list[Writer]:
        """Ways to write a network, the best first.

        Args:
            network: In eval mode, on the CPU; may be changed.
            call: Inputs to trace it with.
            batched: Of each tensor, whether its first axis is a batch of any size; None for the size of ``call`` only.
            names: Of the tensors.
        """
