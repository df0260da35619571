"""An SQLite file of ours: opened with suspicion, written durably, its errors in one sentence.

Format 2 added columns to ``rows``: ``conditions``, ``purpose`` and ``extras``. A file without them is read as it is
(nothing is known of the device's state, all rows were drawn at random) and gets them, in one transaction, with the next
row that is written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ecc.core.errors import InputError, StorageError

__all__ = ["SCHEMA_VERSION", "Database"]

SCHEMA_VERSION = 2
"""Format of the tables that is written; those before it are read and brought up to it, later ones are refused."""

_APPLICATION_ID = 0x65636370  # "eccp", in the file's header
_LARGEST_VALUE_BYTES = 64 << 20  # no honest value comes near it; a hostile one is refused before it is read
_MAGIC = b"SQLite format 3\0"
_BUSY_S = 10.0
_CHECKPOINT_PAGES = 16  # of the log, some twenty rows: what a copy of the file without its log may lack
_SCHEMA = {
    "devices": "CREATE TABLE devices (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL)",
    "networks": (
        "CREATE TABLE networks (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, name TEXT NOT NULL, "
        "input_shape TEXT NOT NULL, space TEXT NOT NULL, layers TEXT NOT NULL, UNIQUE (fingerprint, input_shape))"
    ),
    "runs": (
        "CREATE TABLE runs (id INTEGER PRIMARY KEY, network INTEGER NOT NULL REFERENCES networks (id), "
        "device INTEGER NOT NULL REFERENCES devices (id), runtime TEXT NOT NULL, threads INTEGER NOT NULL, "
        "provenance TEXT NOT NULL, protocol TEXT NOT NULL, seed INTEGER NOT NULL, started REAL NOT NULL)"
    ),
    "rows": (
        "CREATE TABLE rows (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), "
        "config TEXT NOT NULL, widths TEXT NOT NULL, block INTEGER NOT NULL, position INTEGER NOT NULL, "
        "metric TEXT NOT NULL, n INTEGER NOT NULL, ratio REAL NOT NULL, ratio_low REAL, "
        "ratio_high REAL, value REAL NOT NULL, reference REAL NOT NULL, cpu_s REAL NOT NULL, "
        "pairs TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, steal_s REAL, switches INTEGER, "
        "flags TEXT NOT NULL, conditions TEXT NOT NULL DEFAULT '{}', purpose TEXT NOT NULL DEFAULT 'random', "
        "extras TEXT, UNIQUE (config, block, metric))"
    ),
}
_ADDED = ("conditions TEXT NOT NULL DEFAULT '{}'", "purpose TEXT NOT NULL DEFAULT 'random'", "extras TEXT")


def _without(*columns: str) -> Mapping[str, str]:
    rows = _SCHEMA["rows"]
    for column in columns:
        rows = rows.replace(f"{column}, ", "")
    return {**_SCHEMA, "rows": rows}


_SCHEMAS: Mapping[int, tuple[Mapping[str, str], ...]] = {
    1: (_without(*_ADDED),),
    SCHEMA_VERSION: (_SCHEMA, _without("extras TEXT")),  # the latter was written before anything was released
}


class Database:
    """A connection to a profile store's file.

    Args:
        connection: In autocommit mode.
        path: Of the file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._identity: tuple[int, int] | None = None  # of the file that is written; None where nobody can take it away

    @classmethod
    def to_read(cls, path: Path) -> Database:
        """Open a file without writing anything, also in a read-only folder, where SQLite cannot make its side files.

        Raises:
            InputError: If it cannot be opened or is not a profile store.
        """
        try:
            return cls._opened_to_read(path, "mode=ro")
        except InputError as error:
            if "unable to open" not in str(error.__cause__) and "readonly" not in str(error.__cause__):
                raise
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise InputError(
                f"profile store {str(path)!r} has rows in {log.name!r} that cannot be read without write permission; "
                "copy both files to a folder of yours"
            )
        return cls._opened_to_read(path, "immutable=1")

    @classmethod
    def _opened_to_read(cls, path: Path, mode: str) -> Database:
        address = f"file:{quote(str(path.absolute()))}?{mode}"
        with _translated(path):
            database = cls(sqlite3.connect(address, uri=True, isolation_level=None, timeout=_BUSY_S), path)
        try:
            database._harden()
            if database._empty():
                raise InputError(f"profile store {str(path)!r} is empty; run `ecc profile` on it")
            database._check()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def to_write(cls, path: Path | None) -> Database:
        """Open a file for writing, or make it; in memory for None.

        Raises:
            InputError: If it cannot be written or is not a profile store; a file that was not there is not left behind.
        """
        name = path or Path(":memory:")
        if path is not None and path.is_dir():
            raise InputError(f"profile store {str(path)!r} is a folder; give the name of a file")
        fresh = path is None or not path.exists()
        if path is not None and not fresh:
            _refuse_foreign(path)
        with _translated(name):
            database = cls(sqlite3.connect(name, isolation_level=None, timeout=_BUSY_S), name)
        try:
            database._harden()
            if database._empty():
                database._create()
            database._check()
            with database._whole():  # whether it can be written at all, known before anything is measured
                pass
            database._identity = None if path is None else _identity(path)
        except BaseException:
            database.close()
            if fresh and path is not None:
                path.unlink(missing_ok=True)
            raise
        return database

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def version(self) -> int:
        """Format of the file's tables, from 1 to SCHEMA_VERSION."""
        return int(self.read("PRAGMA user_version")[0][0])

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns of ``rows``."""
        return frozenset(str(column[1]) for column in self.read("PRAGMA table_info(rows)"))

    def read(self, statement: str) -> list[Any]:
        """All rows of a query."""
        with _translated(self._path):
            return self._connection.execute(statement).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Durable when the body ends, undone when it fails; a file of an older format is brought up to date with it.

        Raises:
            InputError: If it cannot be written or is damaged.
            StorageError: If the disk failed or is full, or the file was taken away; its rows are then rescued.
        """
        self._demand_file()
        with self._whole() as connection:
            if lacking := [column for column in _ADDED if column.split()[0] not in self.columns]:
                for column in lacking:
                    connection.execute(f"ALTER TABLE rows ADD COLUMN {column}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            yield connection
        self._demand_file()

    @contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        with _translated(self._path, writing=self._identity is not None):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _demand_file(self) -> None:
        """What is written to a file without a name is lost when it is closed, and no error tells."""
        if self._identity is None or _identity(self._path) == self._identity:
            return
        rescued = self._path.with_name(f"{self._path.name}.rescued-{os.getpid()}")
        with _translated(rescued, writing=True), closing(sqlite3.connect(rescued)) as copy:
            self._connection.backup(copy)
        self._identity = None
        raise StorageError(
            f"profile store {str(self._path)!r} was deleted or replaced while it was written; "
            f"its rows are in {str(rescued)!r}: rename that file and repeat"
        )

    def _empty(self) -> bool:
        return self.read("SELECT count(*) FROM sqlite_schema") == [(0,)]

    def _create(self) -> None:
        self.read("PRAGMA journal_mode = WAL")
        with self._whole() as connection:
            if not self._empty():
                return  # another process was faster
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in _SCHEMA.values():
                connection.execute(statement)
        self.read("PRAGMA wal_checkpoint(PASSIVE)")  # a copy of the file alone is a store from here on

    def _harden(self) -> None:
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE_BYTES)
        for pragma in (
            *("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL", "foreign_keys = ON"),
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        ):
            self.read(f"PRAGMA {pragma}")

    def _check(self) -> None:
        """Refuse what is not exactly our tables: a foreign file, another version, views or triggers slipped in."""
        path = str(self._path)
        (application,), (version,) = *self.read("PRAGMA application_id"), *self.read("PRAGMA user_version")
        if application != _APPLICATION_ID:
            raise InputError(f"{path!r} is not a profile store (an SQLite file of something else); give another file")
        if version not in _SCHEMAS:
            raise InputError(
                f"profile store {path!r} has format {version}, this ecc reads up to {SCHEMA_VERSION}; "
                "use the ecc that wrote it, or profile again"
            )
        found = dict(self.read("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_autoindex_%'"))
        if found not in _SCHEMAS[version]:
            raise InputError(f"profile store {path!r} is damaged: its tables are not those of a store; profile again")


def _identity(path: Path) -> tuple[int, int] | None:
    """What stays the same while a path is the same file; None where there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is neither empty nor SQLite's: SQLite itself takes a few bytes for an empty database."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise InputError(f"profile store {str(path)!r} cannot be read: {error.strerror}; give another file") from error
    if start and start != _MAGIC:
        raise InputError(_meaning(str(path), "not a database"))


@contextmanager
def _translated(path: Path, *, writing: bool = False) -> Iterator[None]:
    """SQLite's errors as ours; that a disk fails is not told of a file which may be cut short instead."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        text = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:200])  # may quote the file
        failed = "full" in text or (writing and "disk I/O" in text)
        raise (StorageError if failed else InputError)(_meaning(str(path), text)) from error


def _meaning(path: str, text: str) -> str:
    """SQLite's message as a sentence with the mend."""
    if "not a database" in text:
        return f"{path!r} is not a profile store (no SQLite file); give another file"
    if "disk I/O" in text:
        return (
            f"the disk did not take a row of profile store {path!r} ({text}): it failed, or a limit on file sizes "
            "was reached; the rows written before are kept; mend that and repeat"
        )
    if "full" in text:
        return f"the disk is full: profile store {path!r} keeps the rows written before; free some space and repeat"
    if "readonly" in text or "unable to open" in text:
        return (
            f"profile store {path!r} cannot be written, and what it holds is kept; "
            "give a file in a folder that exists and is writable"
        )
    if "locked" in text:
        return f"profile store {path!r} is in use by another process; wait for it or give another file"
    if "UNIQUE" in text:
        return f"another process has written the same row to profile store {path!r}; let one profiler work on a store"
    return f"profile store {path!r} is damaged ({text}); restore it, or profile again into another file"
