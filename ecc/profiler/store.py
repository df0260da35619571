"""The profile store: one SQLite file; a row is durable the moment it is measured.

A store holds one network on one device by one runtime; ``runs`` tells when and how, ``rows`` what was measured: one
record per configuration, block and metric, with both series of its pairs, so that every figure can be computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError, MeterError
from ecc.core.fields import DAMAGED
from ecc.core.layers import Layer
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.profiler.conditions import Conditions
from ecc.profiler.database import Database
from ecc.profiler.inspection import describe
from ecc.profiler.meters import ENERGY_SOURCES
from ecc.profiler.pairing import Pairs, estimate
from ecc.profiler.records import Network, Run, check_figures, check_run, network_from, run_from, visit_from
from ecc.profiler.tables import Visit, tabulate

__all__ = ["Key", "Store", "configuration"]

_MISSING = {"conditions": "'{}'", "purpose": "'random'", "extras": "NULL"}  # what rows of earlier stores hold

_FIGURES = (
    *("run", "n", "block", "position", "ratio", "ratio_low", "ratio_high", "value", "reference", "cpu_s"),
    *("started", "seconds", "steal_s", "switches"),
)

Key = tuple[str, int, str]
"""What a row is of: configuration, block, metric."""


def configuration(widths: Widths) -> str:
    """Hash that names a configuration."""
    text = json.dumps({name: int(width) for name, width in widths.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A profile store that exists, opened for reading; ``Store.open`` makes one and writes.

    Raises:
        InputError: If the file is missing, damaged or not a profile store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if str(path) and self.path.is_dir():
            raise InputError(f"profile store {str(path)!r} is a folder; give the file that `ecc profile` has written")
        if not self.path.is_file():
            raise InputError(f"profile store {str(path)!r} does not exist; make it with `ecc profile … --store {path}`")
        self._database = Database.to_read(self.path)

    @classmethod
    def open(cls, path: str | Path | None) -> Store:
        """Open a store for writing, made if it does not exist; in memory for None.

        Raises:
            InputError: If the file cannot be written or is not a profile store; nothing is left behind.
        """
        store = cls.__new__(cls)
        store.path = Path(":memory:") if path is None else Path(path)
        store._database = Database.to_write(None if path is None else store.path)
        return store

    def close(self) -> None:
        """Close the file."""
        self._database.close()

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
        source, known = provenance.energy_source, self.energy_source()
        differences = [
            f"{label} {mine} instead of {theirs}"
            for label, mine, theirs, same in (
                ("network", _named(provenance), _named(old), provenance.fingerprint == old.fingerprint),
                (*_groups(space, network.space), space == network.space),
                ("input shape", _shape(provenance), _shape(old), provenance.input_shape == old.input_shape),
                ("device", _placed(provenance), _placed(old), provenance.device_fingerprint == old.device_fingerprint),
                ("runtime", provenance.runtime, old.runtime, provenance.runtime == old.runtime),
                ("threads", provenance.threads, old.threads, provenance.threads == old.threads),
                ("cores", provenance.cores or "any", old.cores or "any", provenance.cores == old.cores),
                ("energy source", source, known, not source or not known or source == known),
            )
            if not same
        ]
        if differences:
            mend = "give another --store"
            if len(differences) == 1 and differences[0].startswith("a step"):
                mend = "give the --step that it was made with, or another --store"
            if differences[-1].startswith("energy source") and known in ENERGY_SOURCES:
                mend = f"choose --energy-source {known}, or {mend}"
            raise InputError(
                f"profile store {str(self.path)!r} belongs to another profile: this one has {', '.join(differences)}; "
                f"{mend}"
            )

    def begin_run(
        self,
        provenance: Provenance,
        space: WidthSpace,
        layers: Sequence[Layer],
        *,
        calls: Sequence[OperatorCall] = (),
        protocol: Mapping[str, Any],
        seed: int,
        started: float,
    ) -> int:
        """Record who measures what and how; the number of the run."""
        self.check(provenance, space)
        shape = json.dumps(list(provenance.input_shape))
        with self._database.transaction() as connection:
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
                    json.dumps(
                        {
                            "layers": [layer.to_json() for layer in layers],
                            "calls": [call.to_json() for call in calls],
                        }
                    ),
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
        """Make a row durable.

        Raises:
            MeterError: If a reading is not a positive number; the row is then not kept.
            InputError: If the file cannot be written; the rows before it are kept.
            StorageError: If the disk is full or failed, or the file is gone; the rows before it are kept.
        """
        pairs = visit.pairs
        series = np.stack([pairs.values, pairs.references, pairs.cpu_s], 1)
        if not np.isfinite(series).all() or (series[:, :2] <= 0).any():
            raise MeterError(
                f"the {visit.metric} meter gave a reading that is not a positive number; the rows before it are kept"
            )
        found = estimate([pairs])
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO rows (run, config, widths, block, position, metric, n, ratio, ratio_low, ratio_high, "
                "value, reference, cpu_s, pairs, started, seconds, steal_s, switches, flags, conditions, "
                f"purpose, extras) VALUES ({', '.join('?' * 22)})",
                (
                    run,
                    configuration(visit.widths),
                    json.dumps({name: int(width) for name, width in visit.widths.items()}),
                    visit.block,
                    visit.position,
                    visit.metric,
                    found.n,
                    found.ratio,
                    found.low if found.n > 1 else None,
                    found.high if found.n > 1 else None,
                    found.value,
                    found.reference,
                    float(np.median(pairs.cpu_s)),
                    json.dumps(series.tolist()),
                    visit.started,
                    visit.seconds,
                    visit.disturbance.steal_s,
                    visit.disturbance.switches,
                    " ".join(dict.fromkeys(visit.flags)),
                    _conditions_text(visit.conditions),
                    visit.purpose,
                    _extras_text(pairs),
                ),
            )

    # -- reading

    def network(self) -> Network | None:
        """What the store belongs to, by its newest run; None while it is empty."""
        found = self._database.read(
            "SELECT runs.provenance, networks.space, networks.layers, runs.runtime, runs.threads FROM runs "
            "JOIN networks ON networks.id = runs.network ORDER BY runs.id DESC LIMIT 1"
        )
        if not found:
            return None
        with self._damage():
            provenance, space, layers, runtime, threads = found[0]
            check_run(runtime, threads, provenance)
            return network_from(provenance, space, layers, f"profile store {str(self.path)!r}")

    def energy_source(self) -> str:
        """What the energy of its rows was read from; empty while none was measured."""
        sources = [str(run.environment["energy"]) for run in self.runs() if run.environment.get("energy")]
        return sources[-1] if sources else ""

    def origins(self) -> list[str]:
        """What its rows were measured on, in words: one entry, unless stores were mixed."""
        found = self._database.read(
            "SELECT DISTINCT networks.name, networks.fingerprint, networks.input_shape, devices.name, "
            "devices.fingerprint, runtime, threads FROM runs JOIN networks ON networks.id = runs.network "
            "JOIN devices ON devices.id = runs.device WHERE runs.id IN (SELECT run FROM rows)"
        )
        return [
            f"{name} ({str(of)[:8]}) with input {shape} on {device} ({str(where)[:8]}), {runtime}, {threads} thread(s)"
            for name, of, shape, device, where, runtime, threads in found
        ]

    def last_run(self) -> int | None:
        """Number of the newest run; None while there is none."""
        return self._database.read("SELECT max(id) FROM runs")[0][0]  # type: ignore[no-any-return]

    def visits(self) -> list[Visit]:
        """All rows, in the order in which they were measured."""
        there = self._database.columns
        added = ", ".join(name if name in there else default for name, default in _MISSING.items())
        found = self._database.read(
            "SELECT run, widths, block, position, metric, pairs, n, started, seconds, steal_s, switches, flags, "
            f"{added} FROM rows ORDER BY id"
        )
        cells = self._database.read(f"SELECT {', '.join(_FIGURES)} FROM rows ORDER BY id")
        runs = {number for (number,) in self._database.read("SELECT id FROM runs")}
        network = self.network()
        with self._damage():
            for row in cells:
                check_figures(dict(zip(_FIGURES, row, strict=True)), runs)
            visits = [visit_from(*record) for record in found]
            names = set() if network is None else set(network.space.names)
            if any(names > set(visit.widths) for visit in visits):
                raise InputError("its widths lack a group")
            return visits

    def runs(self) -> list[Run]:
        """All runs, in the order in which they began."""
        found = self._database.read(
            "SELECT id, started, seed, protocol, provenance, runtime, threads FROM runs ORDER BY id"
        )
        with self._damage():
            for *_, provenance, runtime, threads in found:
                check_run(runtime, threads, provenance)
            return [run_from(*record[:5]) for record in found]

    def table(self) -> ProfileTable:
        """All rows as a table, one row per configuration.

        Raises:
            InputError: If nothing has been measured yet, or the file is damaged.
        """
        network, visits = self.network(), self.visits()
        if network is None or not visits:
            raise InputError(f"profile store {str(self.path)!r} holds no measured row yet; run `ecc profile` on it")
        with self._damage():
            table = tabulate(network.provenance, network.space, network.layers, visits)
        return replace(table, calls=network.calls)

    def inspect(self) -> dict[str, Any]:
        """What is in the store, as a JSON value: whom it belongs to, runs, rows, noise, drift, flags, slowest rows."""
        visits = self.visits()
        return {
            "kind": "profile store",
            "schema": self._database.version,
            **describe(self.network(), self.runs(), visits, self.table() if visits else None),
        }

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """A value that cannot be read means that the file was altered."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError) as error:
            why = f" ({str(error).removesuffix(DAMAGED)})" if isinstance(error, ValueError) else ""  # else Python's
            raise InputError(
                f"profile store {str(self.path)!r} is damaged: a stored value cannot be read{why}; profile again"
            ) from error


def _conditions_text(conditions: Conditions) -> str:
    """What is known; a number that is none is not."""
    known = conditions.to_json()
    return json.dumps({k: v for k, v in known.items() if not isinstance(v, float) or math.isfinite(v)})


def _extras_text(pairs: Pairs) -> str | None:
    """Per name, [configuration, reference] of each pair, null where it is not known; None where there is none."""
    if not pairs.extras:
        return None
    return json.dumps(
        {
            name: [[value if math.isfinite(value) else None for value in pair] for pair in values.tolist()]
            for name, values in pairs.extras.items()
        }
    )


def _groups(mine: WidthSpace, theirs: WidthSpace) -> tuple[str, str, str]:
    """What differs first between two spaces: what it is, and it on either side."""
    if len(mine) == len(theirs):
        for here, there in zip(mine.names, theirs.names, strict=True):
            if here != there:
                return "group", repr(here), repr(there)
        for label, ours, others in (("dense width", mine.dense, theirs.dense), ("step", mine.step, theirs.step)):
            for name, width, other in zip(mine.names, ours, others, strict=True):
                if width != other:
                    return f"a {label} of", f"{width} in group {name!r}", str(other)
    return "groups", str(len(mine)), str(len(theirs))


def _named(provenance: Provenance) -> str:
    return f"{provenance.network} ({provenance.fingerprint[:8]})"


def _placed(provenance: Provenance) -> str:
    return f"{provenance.device} ({provenance.device_fingerprint[:8]})"


def _shape(provenance: Provenance) -> str:
    return "x".join(map(str, provenance.input_shape))
