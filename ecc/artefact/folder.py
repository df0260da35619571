"""The folder itself: written whole or not at all, read with nothing taken on trust.

A folder is written beside its place under another name and then renamed, so that an interrupt, a full disk or a crash
never leaves half of one. Reading checks sizes, types, names and hashes before any value is used; nothing is unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ecc.artefact.manifest import FILE_NAME, FileRecord, Manifest
from ecc.core.cost import METRICS, CostModel
from ecc.core.errors import InputError
from ecc.core.fields import parse_object

__all__ = ["Artefact", "check_target", "inspect", "read", "replace_files", "save"]

_MANIFEST, _WEIGHTS, _HISTORY = "manifest.json", "weights.safetensors", "history.csv"
_MANIFEST_LIMIT_BYTES = 1 << 26
_HISTORY_LIMIT_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 20


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
        return {metric: self.path / _cost_name(metric) for metric in METRICS if _cost_name(metric) in self.files}

    def state(self) -> dict[str, Tensor]:
        """State of the compact network on the CPU, every name of its ``state_dict``; tied names share one tensor.

        Raises:
            InputError: If the file is no longer what it was, or holds no tensors.
        """
        where = self.path / _WEIGHTS
        try:
            tensors = safetensors.torch.load(self.content(_WEIGHTS))
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
        where = self.path / _HISTORY
        if self.files[_HISTORY].bytes > _HISTORY_LIMIT_BYTES:
            raise InputError(f"{where} is larger than a history can be; write the artefact again")
        try:
            return pd.read_csv(io.BytesIO(self.content(_HISTORY)))
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


def save(
    path: str | Path,
    manifest: Manifest,
    state: Mapping[str, Tensor],
    *,
    history: pd.DataFrame,
    costs: Sequence[CostModel] = (),
    attachments: Mapping[str, bytes] | None = None,
) -> Artefact:
    """Write an artefact; an older one in its place is replaced, anything else there is left alone.

    Args:
        path: The folder to write.
        manifest: What it is; an empty ``created`` becomes now.
        state: ``state_dict`` of the compact network.
        history: One row per epoch.
        costs: The cost models of the budgets, one per metric.
        attachments: Further files by name (``report.html``, figures).

    Raises:
        InputError: If the place is taken or not writable, the disk is full, or a value cannot be saved. Nothing is then
            written.
    """
    target = check_target(path)
    if not manifest.created:
        manifest = replace(manifest, created=datetime.now().astimezone().isoformat(timespec="seconds"))
    tensors, aliases = _untie(state)
    contents = dict(attachments or {})
    contents[_HISTORY] = history.to_csv(index=False).encode()
    try:
        contents[_WEIGHTS] = safetensors.torch.save(tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"the network's state cannot be saved as safetensors: {error}") from error
    with _staged(target) as folder:
        for cost in costs:
            cost.save(folder / _cost_name(cost.metric))
        return _complete(folder, target, manifest, aliases, contents)


def replace_files(artefact: Artefact, files: Mapping[str, bytes]) -> Artefact:
    """Add files to an artefact, or put others in their place (a new report); the folder changes as a whole.

    Raises:
        InputError: As for ``save``, and if the files would take the place of the weights or the history.
    """
    if taken := sorted({_WEIGHTS, _HISTORY} & set(files)):
        raise InputError(f"{taken[0]} of an artefact cannot be replaced; save a new one")
    target = check_target(artefact.path)
    with _staged(target) as folder:
        for name in artefact.files:
            if name not in files:
                (folder / name).write_bytes(artefact.content(name))
        return _complete(folder, target, artefact.manifest, artefact.aliases, files)


def check_target(path: str | Path) -> Path:
    """Refuse early a folder that ``save`` could not write; returns its absolute path.

    Raises:
        InputError: If something that is not an artefact is there, or the place is not writable.
    """
    target = Path(os.path.abspath(Path(path).expanduser()))
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not target.exists() and not target.is_symlink():
            return target
        if target.is_symlink() or not target.is_dir():
            raise InputError(f"{target} is not a folder; choose another place for the artefact")
        if not (present := {entry.name for entry in target.iterdir()}):
            return target
    try:
        known = {_MANIFEST, *_parse(target)[2]}
    except InputError as error:
        raise InputError(f"{target} holds something else than an artefact; choose another folder") from error
    if foreign := sorted(present - known):
        raise InputError(f"{target} holds {foreign[0]!r}, which is not of its artefact; choose another folder")
    return target


def read(path: str | Path) -> Artefact:
    """Open an artefact and check every file of it; tensors are loaded later, by ``Artefact.state``.

    Raises:
        InputError: If the folder is not an artefact, or a file is missing, damaged or too large.
    """
    folder = Path(path).expanduser()
    manifest, aliases, files = _parse(folder)
    for name, record in files.items():
        digest = hashlib.sha256()
        for chunk in _chunks(folder / name, record.bytes):
            digest.update(chunk)
        _check_hash(folder / name, digest.hexdigest(), record)
    return Artefact(folder, manifest, files, aliases)


def inspect(path: str | Path) -> dict[str, Any]:
    """What is in an artefact, as a JSON value: its manifest, its path, and the dtype and shape of each tensor.

    Raises:
        InputError: As for ``read``.
    """
    artefact = read(path)
    tensors = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in artefact.state().items()
    }
    return {"path": str(artefact.path), **artefact.to_json(), "tensors": tensors}


def _cost_name(metric: str) -> str:
    return f"cost-{metric}.json"


def _parse(folder: Path) -> tuple[Manifest, dict[str, str], dict[str, FileRecord]]:
    """The manifest of a folder, its aliases and its files; the files themselves are not looked at."""
    where = folder / _MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that ecc compress has written")
    if not where.is_file():
        raise InputError(f"{folder} has no manifest.json; give a folder that ecc compress has written")
    if where.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise InputError(f"{where} is larger than a manifest can be; it is damaged")
    fields = parse_object(b"".join(_chunks(where, where.stat().st_size)), str(where))
    manifest = Manifest.from_json(fields)
    alias_fields, file_fields = fields.inner("aliases"), fields.inner("files")
    files = {name: FileRecord.from_json(file_fields.inner(name)) for name in file_fields}
    if bad := [name for name in files if not FILE_NAME.fullmatch(name) or name == _MANIFEST]:
        raise InputError(f"{where} names the file {bad[0]!r}, which is not a plain name; do not trust this artefact")
    if missing := sorted({_WEIGHTS, _HISTORY} - set(files)):
        raise InputError(f"{where} does not list {missing[0]}; write the artefact again")
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


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each distinct tensor once, as an own contiguous copy on the CPU, and the further names of tied ones."""
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_meta:
            raise InputError(f"state {name!r} of the network is not a dense tensor with values and cannot be saved")
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = place if tensor.numel() else (name,)  # empty tensors have no place of their own
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases


def _complete(
    folder: Path, target: Path, manifest: Manifest, aliases: Mapping[str, str], contents: Mapping[str, bytes]
) -> Artefact:
    """Write the contents and then the manifest into the staged folder, flush all, and move it to its place."""
    for name, content in contents.items():
        if not FILE_NAME.fullmatch(name) or name == _MANIFEST:
            raise InputError(f"{name!r} cannot be a file of an artefact; use letters, digits, '.', '-' and '_'")
        (folder / name).write_bytes(content)
    files = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        files[file.name] = FileRecord(hashlib.sha256(content).hexdigest(), len(content))
    artefact = Artefact(target, manifest, files, aliases)
    try:
        text = json.dumps(artefact.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        (folder / _MANIFEST).write_text(text, encoding="utf-8")
    except (TypeError, ValueError) as error:
        raise InputError(f"the manifest holds a value that JSON cannot: {error}") from error
    _parse(folder)  # what could not be read back must not be written
    for file in folder.iterdir():
        _flush(file)
    _swap(folder, target)
    return artefact


def _swap(folder: Path, target: Path) -> None:
    """Put the staged folder in its place; what was there is removed last, and put back if the move fails."""
    if not target.exists():
        folder.rename(target)
    else:
        old = _beside(target, "old")
        target.rename(old)
        try:
            folder.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # not every file system lets a folder be flushed
        _flush(target.parent)


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk and not in a cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(target: Path, purpose: str) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.{purpose}"


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """An empty folder beside the target; whatever is left of it in the end is removed."""
    folder = _beside(target, "partial")
    with _writing(target):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Translate what the file system says while something is written for ``target``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space is left to write {target}; free some, or choose a folder on another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message = f"{target} cannot be written: its place is read-only; choose another folder"
        else:
            message = f"{target} cannot be written: {error.strerror or error}; choose another folder"
        raise InputError(message) from error
