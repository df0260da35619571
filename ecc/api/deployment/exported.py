"""Exported: what an export has written, and how near it is to the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Exported", "Port"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input of an exported network.

    Attributes:
        name: Of the argument.
        dtype: Name as in torch: ``float32``, ``int64`` …
        shape: Sizes; ``batch`` where any does.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that other programs run.

    Attributes:
        file: Its absolute path.
        files: All files that belong together, ``file`` first.
        format: ``onnx``, ``pt2`` or ``state-dict``.
        nbytes: Size of all files.
        max_abs_diff: Largest difference of any output from the network's own, over all inputs that were tried.
        difference: The same relative to the largest value of that output.
        tolerance: Largest ``difference`` that was allowed.
        batches: Batch sizes that were tried, one for each batch of inputs.
        batch: Examples of an inference; None where any number does.
        reason: Why not any number does; empty where one does, or one was asked for.
        exporter: Who wrote it.
        opset: Of an ONNX model; None of other files.
        inputs: What the network takes.
        int8: Whether layers multiply bytes.
        agreement: On bytes, share of examples with the same largest output as in float; None elsewhere.
        examples: On bytes, what was compared, for people.
        seconds: Wall time.
    """

    file: Path
    files: tuple[Path, ...]
    format: str
    nbytes: int
    max_abs_diff: float
    difference: float
    tolerance: float
    batches: tuple[int, ...]
    batch: int | None
    reason: str
    exporter: str
    opset: int | None
    inputs: tuple[Port, ...]
    int8: bool
    agreement: float | None
    examples: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc export --json``."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return value | {
            "file": str(self.file),
            "files": [str(file) for file in self.files],
            "batches": list(self.batches),
            "inputs": [{"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in self.inputs],
        }

    def __str__(self) -> str:
        sizes = ", ".join(map(str, dict.fromkeys(self.batches)))
        near = f"outputs differ by {self.max_abs_diff:.1e} at most ({self.difference:.1e} of the largest one)"
        agreed = "" if self.agreement is None else f"; same winner in {100 * self.agreement:.1f} % of {self.examples}"
        kept = "batches of any size" if self.batch is None else f"batches of {self.batch}"
        why = f": {self.reason}" if self.reason else ""
        lines = [
            f"{self.file}: {self.format}{', int8' if self.int8 else ''}, {self.nbytes:,} bytes, by {self.exporter}",
            f"takes {'; '.join(map(str, self.inputs))}; {kept}{why}",
            f"run on {len(self.batches)} batches of {sizes}: {near}{agreed}",
        ]
        return "\n".join([*lines, *(f"belongs to it: {file}" for file in self.files[1:])])
