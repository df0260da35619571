"""The folder as it is written: whole or not at all.

A folder is written beside its place under another name and then renamed, so that an interrupt, a full disk or a crash
never leaves half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ecc.artefact.manifest import FILE_NAME, FileRecord, Manifest
from ecc.artefact.reading import HISTORY, MANIFEST, PACKED, WEIGHTS, Artefact, cost_name, parse
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.files import flush
from ecc.core.tying import untied

__all__ = ["check_target", "replace_files", "save", "save_packed"]


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
    tensors, aliases = untied(state)
    contents = dict(attachments or {})
    contents[HISTORY] = history.to_csv(index=False).encode()
    try:
        contents[WEIGHTS] = safetensors.torch.save(tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"the network's state cannot be saved as safetensors: {error}") from error
    with _staged(target) as folder:
        for cost in costs:
            cost.save(folder / cost_name(cost.metric))
        return _complete(folder, target, _dated(manifest), aliases, contents)


def save_packed(path: str | Path, manifest: Manifest, weights: bytes, *, files: Mapping[str, bytes]) -> Artefact:
    """Write an artefact whose weights are packed, as ``save`` does.

    Args:
        weights: The file ``weights.ecz``.
        files: The others by name, ``history.csv`` among them.

    Raises:
        InputError: As for ``save``.
    """
    target = check_target(path)
    with _staged(target) as folder:
        return _complete(folder, target, _dated(manifest), {}, {**files, PACKED: weights})


def replace_files(artefact: Artefact, files: Mapping[str, bytes]) -> Artefact:
    """Add files to an artefact, or put others in their place (a new report); the folder changes as a whole.

    Raises:
        InputError: As for ``save``, and if the files would take the place of the weights or the history.
    """
    if taken := sorted({WEIGHTS, PACKED, HISTORY} & set(files)):
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
        known = {MANIFEST, *parse(target)[2]}
    except InputError as error:
        raise InputError(f"{target} holds something else than one artefact; choose another folder") from error
    if foreign := sorted(present - known):
        raise InputError(f"{target} holds {foreign[0]!r}, which is not of its artefact; choose another folder")
    return target


def _dated(manifest: Manifest) -> Manifest:
    if manifest.created:
        return manifest
    return replace(manifest, created=datetime.now().astimezone().isoformat(timespec="seconds"))


def _complete(
    folder: Path, target: Path, manifest: Manifest, aliases: Mapping[str, str], contents: Mapping[str, bytes]
) -> Artefact:
    """Write the contents and then the manifest into the staged folder, flush all, and move it to its place."""
    for name, content in contents.items():
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise InputError(f"{name!r} cannot be a file of an artefact; use letters, digits, '.', '-' and '_'")
        (folder / name).write_bytes(content)
    files = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        files[file.name] = FileRecord(hashlib.sha256(content).hexdigest(), len(content))
    artefact = Artefact(target, manifest, files, aliases)
    try:
        text = json.dumps(artefact.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    except (TypeError, ValueError) as error:
        raise InputError(f"the manifest holds a value that JSON cannot: {error}") from error
    parse(folder)  # what could not be read back must not be written
    for file in folder.iterdir():
        flush(file)
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
        flush(target.parent)


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
