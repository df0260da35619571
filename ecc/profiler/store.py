"""The profile store: one SQLite file; a row is durable the moment it is measured.

A store holds one network on one device by one runtime; ``runs`` tells when and how, ``rows`` what was measured: one
record per configuration, block and metric, with both series of its pairs, so that every figure can be computed again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy as np

from ecc.core.errors import InputError
from ecc.core.layers import Layer
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.tables import UNITS, Visit, tabulate

__all__ = ["Key", "Network", "Store", "configuration"]

_APPLICATION_ID = 0x65636370  # "eccp", in the file's header
_SCHEMA_VERSION = 1
_LARGEST_VALUE_BYTES = 64 << 20  # no honest value comes near it; a hostile one is refused before it is read
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
        "metric TEXT NOT NULL, n INTEGER NOT NULL, ratio REAL NOT NULL, value REAL NOT NULL, reference REAL NOT NULL, "
        "cpu_s REAL NOT NULL, pairs TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, steal_s REAL, "
        "switches INTEGER, flags TEXT NOT NULL, UNIQUE (config, block, metric))"
    ),
}

Key = tuple[str, int, str]
"""What a row is of: configuration, block, metric."""


def configuration(widths: Widths) -> str:
    """Hash that names a configuration."""
    text = json.dumps({name: int(width) for name, width in widths.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What a store has to know of a network so that its table can be fitted without it."""

    provenance: Provenance
    space: WidthSpace
    layers: tuple[Layer, ...]


class Store:
    """A profile store that exists, opened for reading; ``Store.open`` makes one and writes.

    Raises:
        InputError: If the file is missing, damaged or not a profile store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"profile store {str(path)!r} does not exist; make it with `ecc profile … --store {path}`")
        self._connection = _connect_to_read(self.path)
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | Path | None) -> Store:
        """Open a store for writing, made if it does not exist; in memory for None.

        Raises:
            InputError: If the file cannot be written or is not a profile store; nothing is left behind.
        """
        store = cls.__new__(cls)
        store.path = Path(":memory:") if path is None else Path(path)
        if path is not None and store.path.is_dir():
            raise InputError(f"profile store {str(path)!r} is a folder; give the name of a file")
        fresh = path is None or not store.path.exists()
        with store._translated():
            store._connection = sqlite3.connect(store.path, isolation_level=None, timeout=10.0)
        try:
            with store._translated():
                store._harden()
                if fresh or store._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
                    store._create()
            store._check_schema()
        except BaseException:
            store.close()
            if fresh and path is not None:
                store.path.unlink(missing_ok=True)
            raise
        return store

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- writing

    def check(self, provenance: Provenance, space: WidthSpace) -> None:
        """Refuse to go on in a store of something else.

        Raises:
            InputError: If the store holds another network, input shape, device, runtime or thread count; says which.
        """
        network = self.network()
        if network is None:
            return
        old = network.provenance
        differences = [
            f"{label} {mine} instead of {theirs}"
            for label, mine, theirs, same in (
                ("network", provenance.network, old.network, provenance.fingerprint == old.fingerprint),
                ("groups", len(space), len(network.space), space == network.space),
                ("input shape", _shape(provenance), _shape(old), provenance.input_shape == old.input_shape),
                ("device", provenance.device, old.device, provenance.device_fingerprint == old.device_fingerprint),
                ("runtime", provenance.runtime, old.runtime, provenance.runtime == old.runtime),
                ("threads", provenance.threads, old.threads, provenance.threads == old.threads),
            )
            if not same
        ]
        if differences:
            raise InputError(
                f"profile store {str(self.path)!r} belongs to another profile: this one has {', '.join(differences)}; "
                "give another --store"
            )

    def begin_run(
        self,
        provenance: Provenance,
        space: WidthSpace,
        layers: Sequence[Layer],
        *,
        protocol: Mapping[str, Any],
        seed: int,
        started: float,
    ) -> int:
        """Record who measures what and how; the number of the run."""
        self.check(provenance, space)
        shape = json.dumps(list(provenance.input_shape))
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO devices (fingerprint, name) VALUES (?, ?)",
                (provenance.device_fingerprint, provenance.device),
            )
            connection.execute(
                "INSERT OR IGNORE INTO networks (fingerprint, name, input_shape, space, layers) VALUES (?, ?, ?, ?, ?)",
                (
                    provenance.fingerprint,
                    provenance.network,
                    shape,
                    json.dumps(space.to_json()),
                    json.dumps([layer.to_json() for layer in layers]),
                ),
            )
            run = connection.execute(
                "INSERT INTO runs (network, device, runtime, threads, provenance, protocol, seed, started) VALUES ("
                "(SELECT id FROM networks WHERE fingerprint = ? AND input_shape = ?), "
                "(SELECT id FROM devices WHERE fingerprint = ?), ?, ?, ?, ?, ?, ?)",
                (
                    provenance.fingerprint,
                    shape,
                    provenance.device_fingerprint,
                    provenance.runtime,
                    provenance.threads,
                    json.dumps(provenance.to_json()),
                    json.dumps(dict(protocol)),
                    seed,
                    started,
                ),
            ).lastrowid
        return int(run or 0)

    def add(self, run: int, visit: Visit) -> None:
        """Make a row durable."""
        pairs = visit.pairs
        series = np.stack([pairs.values, pairs.references, pairs.cpu_s], 1).tolist()
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO rows (run, config, widths, block, position, metric, n, ratio, value, reference, cpu_s, "
                "pairs, started, seconds, steal_s, switches, flags) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    run,
                    configuration(visit.widths),
                    json.dumps({name: int(width) for name, width in visit.widths.items()}),
                    visit.block,
                    visit.position,
                    visit.metric,
                    len(pairs.values),
                    float(np.median(pairs.ratios)),
                    float(np.median(pairs.values)),
                    float(np.median(pairs.references)),
                    float(np.median(pairs.cpu_s)),
                    json.dumps(series),
                    visit.started,
                    visit.seconds,
                    visit.disturbance.steal_s,
                    visit.disturbance.switches,
                    " ".join(pairs.flags),
                ),
            )

    # -- reading

    def network(self) -> Network | None:
        """What the store belongs to, by its newest run; None while it is empty."""
        found = self._read(
            "SELECT runs.provenance, networks.space, networks.layers FROM runs "
            "JOIN networks ON networks.id = runs.network ORDER BY runs.id DESC LIMIT 1"
        )
        if not found:
            return None
        with self._damage():
            provenance, space, layers = (json.loads(text) for text in found[0])
            return Network(
                Provenance.from_json(provenance),
                WidthSpace.from_json(space),
                tuple(Layer.from_json(layer) for layer in layers),
            )

    def last_run(self) -> int | None:
        """Number of the newest run; None while there is none."""
        return self._read("SELECT max(id) FROM runs")[0][0]  # type: ignore[no-any-return]

    def visits(self) -> list[Visit]:
        """All rows, in the order in which they were measured."""
        found = self._read(
            "SELECT widths, block, position, metric, pairs, started, seconds, steal_s, switches, flags FROM rows "
            "ORDER BY id"
        )
        with self._damage():
            return [_visit(*record) for record in found]

    def table(self) -> ProfileTable:
        """All rows as a table, one row per configuration.

        Raises:
            InputError: If nothing has been measured yet, or the file is damaged.
        """
        network, visits = self.network(), self.visits()
        if network is None or not visits:
            raise InputError(f"profile store {str(self.path)!r} holds no measured row yet; run `ecc profile` on it")
        with self._damage():
            return tabulate(network.provenance, network.space, network.layers, visits)

    def inspect(self) -> dict[str, Any]:
        """What is in the store: whom it belongs to, runs, rows, metrics, noise."""
        network, visits = self.network(), self.visits()
        manifest: dict[str, Any] = {
            "kind": "profile store",
            "schema": _SCHEMA_VERSION,
            "runs": [
                {"run": run, "started": started, "seed": seed}
                for run, started, seed in self._read("SELECT id, started, seed FROM runs ORDER BY id")
            ],
            "rows": 0,
            "readings": len(visits),
        }
        if network is not None:
            manifest["provenance"] = network.provenance.to_json()
            manifest["space"] = network.space.to_json()
        if network is not None and visits:
            table = self.table()
            manifest["rows"] = len(table)
            manifest["reference"] = {metric: list(value) for metric, value in table.reference.items()}
            manifest["flagged"] = int((table.rows["flags"] != "").sum())
        return manifest

    def export_csv(self, path: str | Path) -> None:
        """Write the table as CSV: one column per group's width, then the measured columns.

        Raises:
            InputError: If the file cannot be written.
        """
        table = self.table()
        frame = table.rows.drop(columns=[name for name in table.rows.columns if str(name).endswith("block_ratios")])
        for column, name in enumerate(table.space.names):
            frame.insert(column, f"width:{name}", table.widths[:, column])
        try:
            frame.to_csv(path, index=False)
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror}; give another path") from error

    # -- SQLite

    def _create(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        with self._transaction() as connection:
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            for statement in _SCHEMA.values():
                connection.execute(statement)

    def _harden(self) -> None:
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE_BYTES)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _check_schema(self) -> None:
        """Refuse what is not exactly our tables: a foreign file, a newer version, views or triggers slipped in."""
        application = self._read("PRAGMA application_id")[0][0]
        version = self._read("PRAGMA user_version")[0][0]
        if application != _APPLICATION_ID:
            raise InputError(f"{str(self.path)!r} is an SQLite file but not a profile store; give another --store")
        if version != _SCHEMA_VERSION:
            raise InputError(
                f"profile store {str(self.path)!r} has format {version}, this ecc reads {_SCHEMA_VERSION}; "
                "use the ecc that wrote it, or profile again"
            )
        found = dict(self._read("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_autoindex_%'"))
        if found != _SCHEMA:
            raise InputError(f"profile store {str(self.path)!r} is damaged: its tables are not those of a store")

    def _read(self, statement: str) -> list[Any]:
        with self._translated():
            return self._connection.execute(statement).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors as one sentence with the mend."""
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(_meaning(str(self.path), error)) from error

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """A value that cannot be read means that the file was altered."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError) as error:
            raise InputError(
                f"profile store {str(self.path)!r} is damaged: a stored value cannot be read ({error}); profile again"
            ) from error


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, also in a read-only folder, where SQLite cannot make its side files."""
    address = f"file:{quote(str(path.absolute()))}"
    error: sqlite3.Error | None = None
    for mode in ("mode=ro", "immutable=1"):
        connection = sqlite3.connect(f"{address}?{mode}", uri=True, isolation_level=None, timeout=10.0)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE_BYTES)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return connection
        except sqlite3.OperationalError as reason:
            connection.close()
            error = reason
        except sqlite3.Error as reason:
            connection.close()
            raise InputError(_meaning(str(path), reason)) from reason
    raise InputError(_meaning(str(path), error)) from error


def _meaning(path: str, error: sqlite3.Error | None) -> str:
    text = str(error)
    if "not a database" in text:
        return f"{path!r} is not a profile store (no SQLite file); give another --store"
    if "full" in text:
        return f"the disk is full: a row could not be written to profile store {path!r}; free some space and repeat"
    if "readonly" in text or "unable to open" in text:
        return f"profile store {path!r} cannot be written; give a --store in a folder that exists and is writable"
    if "locked" in text:
        return f"profile store {path!r} is in use by another process; wait for it or give another --store"
    if "UNIQUE" in text:
        return f"another process has written the same row to profile store {path!r}; let one profiler work on a store"
    return f"profile store {path!r} is damaged ({text}); restore it or profile again into another --store"


def _shape(provenance: Provenance) -> str:
    return "x".join(map(str, provenance.input_shape))


def _visit(
    widths: str,
    block: int,
    position: int,
    metric: str,
    pairs: str,
    started: float,
    seconds: float,
    steal_s: float | None,
    switches: int | None,
    flags: str,
) -> Visit:
    series = np.array(json.loads(pairs), dtype=np.float64)
    if series.ndim != 2 or series.shape[1] != 3 or not len(series):
        raise ValueError("pairs are not triples")
    if not (np.isfinite(series).all() and (series[:, :2] > 0).all()):
        raise ValueError("a reading is not a positive number")
    if metric not in UNITS:
        raise ValueError(f"metric {metric!r} is unknown")
    return Visit(
        widths={str(name): int(width) for name, width in json.loads(widths).items()},
        block=int(block),
        position=int(position),
        metric=metric,
        pairs=Pairs(series[:, 0], series[:, 1], series[:, 2], tuple(str(flags).split())),
        started=float(started),
        seconds=float(seconds),
        disturbance=Disturbance(float(series[:, 2].sum()), steal_s, switches),
    )
