"""What surrounds ecc on a machine: cores and threads, memory, disk, clocks, folders that can be written to.

Everything is read from the operating system; what it does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

__all__ = [
    "allowed_cores",
    "available_bytes",
    "busy_cores",
    "core_quota",
    "free_bytes",
    "takes_databases",
    "why_not_writable",
]

_NO_LIMIT = 1 << 60  # what control groups of the first version say where there is none


def allowed_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return os.cpu_count() or 1


def core_quota(system: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that a container grants; None where it sets no limit."""
    words = _text(system / "cpu.max").split()  # control groups, version 2
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        return int(words[0]) / int(words[1])
    quota, period = (_text(system / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return None


def busy_cores() -> float | None:
    """Cores that were busy or waited for, averaged over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def available_bytes(proc: Path = Path("/proc"), system: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that can be had without swapping: what the kernel has, or what the container has left if that is less."""
    known = [value for value in (_listed_bytes(proc / "meminfo"), _left_bytes(system)) if value is not None]
    return min(known, default=None)


def free_bytes(folder: Path) -> int | None:
    """Disk space that this user may take in a folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder, found out by trying; empty where one can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ecc-"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def takes_databases(folder: Path) -> bool:
    """Whether a folder can hold a profile store: SQLite with a write-ahead log, which disks in a network may lack."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ecc-") as place:
            with closing(sqlite3.connect(Path(place) / "try.db")) as connection:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                connection.execute("CREATE TABLE t (x)")
                connection.commit()
            return str(mode) == "wal"
    except (OSError, sqlite3.Error):
        return False


def _listed_bytes(meminfo: Path) -> int | None:
    for line in _text(meminfo).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemAvailable" and words and words[0].isdecimal():
            return 1024 * int(words[0])
    return None


def _left_bytes(system: Path) -> int | None:
    """What is left of a container's memory."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _text(system / limit), _text(system / used)
        if most.isdecimal() and now.isdecimal() and int(most) < _NO_LIMIT:
            return max(0, int(most) - int(now))
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
