"""Files and folders between machines which share no disk: listed, sent in pieces, checked, and put in place.

A listing has the sha256 of every file; whoever receives compares it with what came. What arrives takes the place of
what was there as a whole, under another name until it is complete.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ecc.core.errors import InputError

__all__ = ["PIECE_BYTES", "Damaged", "Item", "Listing", "Receiver", "listing", "pieces", "place"]

PIECE_BYTES = 8 << 20
"""Most bytes that travel in one piece."""


class Damaged(Exception):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file.

    Attributes:
        name: Below what is listed, with ``/``; empty for a listed file itself.
        size: Bytes.
        sha256: Hexadecimal.
        executable: Whether its owner may run it.
    """

    name: str
    size: int
    sha256: str
    executable: bool = False

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.name).parts
        if self.name and (not parts or ".." in parts or self.name.startswith("/") or "\0" in self.name):
            raise Damaged(f"{self.name!r} is no name below a folder")


@dataclass(frozen=True, slots=True)
class Listing:
    """What is at a path.

    Attributes:
        path: Absolute.
        kind: ``file``, ``folder`` or ``absent``.
        items: Its files, sorted by name.
    """

    path: str
    kind: str
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        names = [item.name for item in self.items]
        sound = {"file": names == [""], "folder": all(names) and len({*names}) == len(names), "absent": not names}
        if not sound.get(self.kind):
            raise Damaged(f"the listing of {self.path} is damaged")

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(item.size for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        items = [[item.name, item.size, item.sha256, item.executable] for item in self.items]
        return {"path": self.path, "kind": self.kind, "items": items}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Listing:
        """The inverse of ``to_json``.

        Raises:
            Damaged: If it is none.
        """
        try:
            items = tuple(Item(*each) for each in fields["items"])
            return cls(fields["path"], fields["kind"], items)
        except (KeyError, TypeError) as error:
            raise Damaged(f"a listing is damaged: {error}") from error


def listing(path: str | Path) -> Listing:
    """What is at a path now; links are followed, and empty folders inside do not count.

    Raises:
        InputError: If it cannot be read, or is neither a file nor a folder.
    """
    place = Path(path)
    try:
        if place.is_dir():
            names = sorted(
                (Path(folder) / name).relative_to(place).as_posix()
                for folder, _, files in os.walk(place, onerror=_refuse)
                for name in files
            )
            return Listing(str(path), "folder", tuple(_item(place / name, name) for name in names))
        if place.exists():
            return Listing(str(path), "file", (_item(place, ""),))
    except OSError as error:
        raise InputError(f"{str(place)!r} cannot be sent to another machine: {error.strerror or error}") from error
    return Listing(str(path), "absent")


def pieces(what: Listing) -> Iterator[bytes]:
    """The contents of its files one after the other, each in pieces of at most PIECE_BYTES; an empty file has none.

    Raises:
        OSError: If a file cannot be read.
    """
    for item in what.items:
        with (Path(what.path) / item.name if item.name else Path(what.path)).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


class Receiver:
    """Takes the pieces of listings, in the order in which ``pieces`` gives them, into a folder of its own.

    Args:
        listings: What is to come.
        folder: An empty folder, or one that is not there yet; the contents of listing ``n`` go to ``folder/n``.
    """

    def __init__(self, listings: Sequence[Listing], folder: Path) -> None:
        self.listings = tuple(listings)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(self.listings):
            if each.kind == "folder":
                self.at(number).mkdir(exist_ok=True)
        self._files = [(number, item) for number, each in enumerate(self.listings) for item in each.items]
        self._next, self._got, self._hash = 0, 0, hashlib.sha256()
        self._finish_files()

    def at(self, number: int) -> Path:
        """Where the contents of a listing are."""
        return self.folder / str(number)

    @property
    def complete(self) -> bool:
        """Whether everything has come."""
        return self._next == len(self._files)

    def take(self, piece: bytes) -> None:
        """Take one piece.

        Raises:
            Damaged: If it is more than was announced, or a file is another one.
            OSError: If it cannot be written.
        """
        if self.complete:
            raise Damaged("more came than was announced")
        number, item = self._files[self._next]
        self._got += len(piece)
        if not piece or self._got > item.size:
            raise Damaged(f"{self._shown(number, item)} has another size than announced")
        with self._open(number, item) as file:
            file.write(piece)
        self._hash.update(piece)
        self._finish_files()

    def _finish_files(self) -> None:
        """Go on to the next file that has something to come; empty ones need nothing."""
        while not self.complete and self._got == self._files[self._next][1].size:
            number, item = self._files[self._next]
            if self._hash.hexdigest() != item.sha256:
                raise Damaged(f"{self._shown(number, item)} has another sha256 than announced")
            with self._open(number, item) as file:
                if item.executable:
                    os.fchmod(file.fileno(), 0o755)
            self._next, self._got, self._hash = self._next + 1, 0, hashlib.sha256()

    def _open(self, number: int, item: Item) -> Any:
        place = self.at(number) / item.name if item.name else self.at(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.open("ab")

    def _shown(self, number: int, item: Item) -> str:
        return f"{self.listings[number].path}{'/' + item.name if item.name else ''}"


def place(received: Path, what: Listing, target: Path) -> None:
    """Put what was received in its place, where it takes the place of what is there; remove that if nothing came.

    Args:
        received: File or folder on the same disk as the target; it moves.
        what: Its listing.
        target: Where it goes.
    Raises:
        OSError: If it cannot be moved.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.parent / f".{target.name}.{secrets.token_hex(4)}.old"
    if what.kind == "file" and not target.is_dir():
        os.replace(received, target)
        return
    with suppress(FileNotFoundError):
        target.rename(old)
    try:
        if what.kind != "absent":
            received.rename(target)
    except BaseException:
        with suppress(FileNotFoundError):
            old.rename(target)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def _item(path: Path, name: str) -> Item:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{str(path)!r} is no plain file and cannot be sent to another machine")
        digest = hashlib.file_digest(file, "sha256")
        return Item(name, os.fstat(file.fileno()).st_size, digest.hexdigest(), bool(mode & stat.S_IXUSR))


def _refuse(error: OSError) -> None:
    raise error
