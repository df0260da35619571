"""The folder as it is read: nothing is taken on trust.

Reading checks sizes, types, names and hashes before any value is used; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ecc.artefact.manifest import FILE_NAME, FileRecord, Manifest
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.fields import parse_object
from ecc.core.markup import card
from ecc.core.verdict import marked

__all__ = ["HISTORY", "MANIFEST", "PACKED", "WEIGHTS", "Artefact", "cost_name", "inspect", "parse", "read"]

MANIFEST, WEIGHTS, PACKED, HISTORY = "manifest.json", "weights.safetensors", "weights.ecz", "history.csv"
"""Files of an artefact; it has one of the two files of weights."""

_MANIFEST_LIMIT_BYTES = 1 << 26
_HISTORY_LIMIT_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 20
_WRITTEN = "a folder that ecc compress or ecc stage has written"


@dataclass(frozen=True, eq=False)
class Artefact:
    """An artefact on disk whose every file has been checked.

    Attributes:
        path: The folder.
        manifest: What it is.
        files: Size and hash of every file but the manifest.
        aliases: Names of tied tensors → the name under which the tensor is saved.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, FileRecord]
    aliases: Mapping[str, str]

    @property
    def costs(self) -> dict[str, Path]:
        """The cost models, metric → JSON file."""
        return {metric: self.path / cost_name(metric) for metric in METRICS if cost_name(metric) in self.files}

    @property
    def packed(self) -> bool:
        """Whether secondary stages have packed the weights."""
        return PACKED in self.files

    @property
    def weights(self) -> FileRecord:
        """The file of the weights."""
        return self.files[PACKED if self.packed else WEIGHTS]

    def state(self) -> dict[str, Tensor]:
        """State of the compact network on the CPU, every name of its ``state_dict``; tied names share one tensor.

        Raises:
            InputError: If the file is no longer what it was, or holds no tensors, or the weights are packed.
        """
        if self.packed:
            raise InputError(f"the weights of {self.path} are packed in {PACKED}; ecc.load decodes them")
        where = self.path / WEIGHTS
        try:
            tensors = safetensors.torch.load(self.content(WEIGHTS))
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{where} is not a readable safetensors file ({error}); write the artefact again"
            ) from error
        for alias, name in self.aliases.items():
            if name not in tensors:
                raise InputError(f"{where} has no tensor {name!r}, which {alias!r} is tied to; the artefact is damaged")
        return tensors | {alias: tensors[name] for alias, name in self.aliases.items()}

    def history(self) -> pd.DataFrame:
        """One row per epoch of the solve.

        Raises:
            InputError: If the file is no longer what it was, or is not a table.
        """
        where = self.path / HISTORY
        if self.files[HISTORY].bytes > _HISTORY_LIMIT_BYTES:
            raise InputError(f"{where} is larger than a history can be; write the artefact again")
        try:
            return pd.read_csv(io.BytesIO(self.content(HISTORY)))
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except ValueError as error:  # parser and decoding errors
            raise InputError(f"{where} is not a readable table ({error}); write the artefact again") from error

    def content(self, name: str) -> bytes:
        """Bytes of one file, checked again.

        Raises:
            InputError: If there is no such file, or it cannot be read or is no longer what it was.
        """
        if name not in self.files:
            raise InputError(f"{self.path} has no file {name!r}; it has {', '.join(sorted(self.files))}")
        content = b"".join(_chunks(self.path / name, self.files[name].bytes))
        _check_hash(self.path / name, hashlib.sha256(content).hexdigest(), self.files[name])
        return content

    def to_json(self) -> dict[str, Any]:
        """The manifest as it is written, with the files and the tied names."""
        files = {name: {"sha256": record.sha256, "bytes": record.bytes} for name, record in self.files.items()}
        return self.manifest.to_json() | {"aliases": dict(self.aliases), "files": files}

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"Artefact({str(self.path)!r}, {manifest.method} of {manifest.network}, {len(self.files)} files)"

    def _repr_html_(self) -> str:
        manifest, sizes = self.manifest, sum(record.bytes for record in self.files.values())
        scores = [score for score in (manifest.accuracy_dense, manifest.accuracy) if score is not None]
        facts = [
            ("folder", self.path),
            ("network", manifest.network),
            ("method", manifest.method),
            ("device", manifest.device),
            ("stages", ", ".join(stage.name for stage in manifest.stages)),
            ("accuracy", " → ".join(f"{score:.4f}" for score in scores)),
            ("files", f"{len(self.files)}, {sizes:,} bytes"),
        ]
        return card("Artefact", facts, ["", "budget"], marked(manifest.budgets))


def read(path: str | Path) -> Artefact:
    """Open an artefact and check every file of it; tensors are loaded later, by ``Artefact.state``.

    Raises:
        InputError: If the folder is not an artefact, or a file is missing, damaged or too large.
    """
    folder = Path(path).expanduser()
    manifest, aliases, files = parse(folder)
    for name, record in files.items():
        digest = hashlib.sha256()
        for chunk in _chunks(folder / name, record.bytes):
            digest.update(chunk)
        _check_hash(folder / name, digest.hexdigest(), record)
    return Artefact(folder, manifest, files, aliases)


def inspect(path: str | Path) -> dict[str, Any]:
    """What is in an artefact, as a JSON value: its manifest, its path, and the dtype and shape of each tensor.

    What packed weights hold is for those to say who can decode them.

    Raises:
        InputError: As for ``read``.
    """
    artefact = read(path)
    if artefact.packed:
        return {"path": str(artefact.path), **artefact.to_json()}
    tensors = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in artefact.state().items()
    }
    return {"path": str(artefact.path), **artefact.to_json(), "tensors": tensors}


def cost_name(metric: str) -> str:
    """File of the cost model of a metric."""
    return f"cost-{metric}.json"


def parse(folder: Path) -> tuple[Manifest, dict[str, str], dict[str, FileRecord]]:
    """The manifest of a folder, its aliases and its files; the files themselves are not looked at."""
    where = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give {_WRITTEN}")
    if not where.is_file():
        inside = sorted(entry.parent for entry in folder.glob(f"*/{MANIFEST}"))
        mend = f"one of the artefacts in it, such as {inside[0]}" if inside else _WRITTEN
        raise InputError(f"{folder} has no manifest.json; give {mend}")
    if where.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise InputError(f"{where} is larger than a manifest can be; it is damaged")
    fields = parse_object(b"".join(_chunks(where, where.stat().st_size)), str(where))
    manifest = Manifest.from_json(fields)
    alias_fields, file_fields = fields.inner("aliases"), fields.inner("files")
    files = {name: FileRecord.from_json(file_fields.inner(name)) for name in file_fields}
    if bad := [name for name in files if not FILE_NAME.fullmatch(name) or name == MANIFEST]:
        raise InputError(f"{where} names the file {bad[0]!r}, which is not a plain name; do not trust this artefact")
    if HISTORY not in files or not files.keys() & {WEIGHTS, PACKED}:
        missing = HISTORY if HISTORY not in files else WEIGHTS
        raise InputError(f"{where} does not list {missing}; write the artefact again")
    if {WEIGHTS, PACKED} <= files.keys():
        raise InputError(f"{where} lists {WEIGHTS} and {PACKED}, and an artefact has one of them; write it again")
    return manifest, {alias: alias_fields.text(alias) for alias in alias_fields}, files


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a plain file that must be of that size; links are not followed."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a plain file; do not trust this artefact")
        if status.st_size != size:
            raise InputError(f"{path} has {status.st_size} bytes instead of {size}; the artefact is damaged")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; copy or write the artefact again") from error


def _check_hash(path: Path, found: str, record: FileRecord) -> None:
    if found != record.sha256:
        raise InputError(f"{path} does not have the SHA-256 of the manifest; the artefact was changed or damaged")
