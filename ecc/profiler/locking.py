"""One measurement at a time on a device: two that run together would measure each other.

A file per device is locked with the operating system's advisory lock, which ends with the process that holds it however
that ends; the file itself stays and says, while it is locked, who holds it. Programs of other users, in other
containers or not from this package are not seen: rows tell of those by their flags.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ecc.core.errors import InputError, UnavailableError
from ecc.core.fields import parse_object
from ecc.core.problem import Progress

try:
    import fcntl
except ImportError:  # Windows has msvcrt instead
    fcntl = None  # type: ignore[assignment]

__all__ = ["Holder", "device_lock", "lock_folder", "measuring_by", "open_lock"]

_POSIX = os.name == "posix"
_LOG = logging.getLogger("ecc")
_POLL_S = 0.2
_MOST_LETTERS, _MOST_BYTES = 500, 1 << 13  # of what a holder says of itself
_LOCKED_BYTE = 1 << 20  # where Windows locks, which keeps others from reading what is locked
_HELD: ContextVar[frozenset[str]] = ContextVar("devices held", default=frozenset())  # by this chain of calls

Turn = Callable[[str], AbstractContextManager[None]]
"""Makes the device of that fingerprint quiet while the body runs."""

_TURN: ContextVar[Turn] = ContextVar("turn", default=lambda fingerprint: nullcontext())


@dataclass(frozen=True, slots=True)
class Holder:
    """Who measures on a device.

    Attributes:
        process: Its number.
        since: Unix time.
        what: What it does.
    """

    process: int
    since: float
    what: str

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.since).astimezone()
        return f"process {self.process}, since {when:%Y-%m-%d %H:%M:%S}, {self.what}"

    def to_bytes(self) -> bytes:
        """As the file holds it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Holder | None:
        """The inverse of ``to_bytes``; None where a holder has not written yet, or anything else is there."""
        with suppress(InputError, ValueError, OverflowError, OSError):
            fields = parse_object(content, "lock")
            holder = cls(fields.whole("process"), fields.number("since"), fields.text("what"))
            str(holder)  # a time that no calendar has
            return holder
        return None


@contextmanager
def device_lock(
    fingerprint: str, device: str, *, what: str, wait: bool = True, progress: Progress | None = None
) -> Iterator[None]:
    """Be alone on a device while the body runs.

    Where no lock can be had at all (no folder to write to, a file system without locks) a warning is logged and the
    body runs. Calls nest: whoever holds the lock may call what takes it. Another thread of the process may not, since
    the two would measure each other.

    Args:
        fingerprint: Of the device.
        device: Its name, for people.
        what: What the body does, told to whoever waits.
        wait: Wait for another process; refuse otherwise.
        progress: Told who is waited for.
    Raises:
        UnavailableError: If another process measures on the device and ``wait`` is off.
    """
    held = _HELD.get()
    if fingerprint in held:
        yield
        return
    with ExitStack() as stack:
        try:
            file = open_lock(lock_folder() / f"{fingerprint}.lock")
            stack.callback(os.close, file)
            free = _acquire(file)
        except OSError as error:
            _LOG.warning("whether another profiler uses %s cannot be told: %s", device, error)
        else:
            if not free:
                _wait(file, device, wait, progress)
            stack.callback(_release, file)
            _write(file, Holder(os.getpid(), time.time(), what[:_MOST_LETTERS]).to_bytes())
        token = _HELD.set(held | {fingerprint})
        stack.callback(_HELD.reset, token)
        stack.enter_context(_TURN.get()(fingerprint))
        yield


@contextmanager
def measuring_by(turn: Turn) -> Iterator[None]:
    """While the body runs, measurements begin by ``turn``: what else it knows of on the device then waits."""
    token = _TURN.set(turn)
    try:
        yield
    finally:
        _TURN.reset(token)


def _wait(file: int, device: str, wait: bool, progress: Progress | None) -> None:
    while not _acquire(file):
        holder = Holder.from_bytes(_read(file))
        told = str(holder or "another process")
        if not wait:
            raise UnavailableError(
                f"{device} is being measured on by {told}; wait for it to end, or leave out --no-wait to be next"
            )
        if progress is not None:
            progress("wait for the device", 0, 1, told)
        time.sleep(_POLL_S)
    if progress is not None:
        progress("wait for the device", 1, 1)


def lock_folder() -> Path:
    """A folder of this user alone, the same for all of the user's processes.

    Raises:
        OSError: If there is none.
    """
    if not _POSIX:
        folder = Path(tempfile.gettempdir()) / "ecc-locks"
        folder.mkdir(exist_ok=True)
        return folder
    user = os.getuid()
    for runtime in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if os.path.isabs(runtime) and _private(Path(runtime), user):
            folder = Path(runtime) / "ecc"
            break
    else:
        folder = Path(tempfile.gettempdir()) / f"ecc-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _private(folder, user):
        raise PermissionError(f"{str(folder)!r} is not a folder of this user alone; remove it")
    return folder


def _private(folder: Path, user: int) -> bool:
    """Whether it is a folder, no link to one, that nobody else can write to."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022


def open_lock(path: Path) -> int:
    """The lock's file, made if it is not there.

    Raises:
        OSError: If it cannot be opened, is a link or not a plain file.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise PermissionError(f"{str(path)!r} is not a plain file; remove it")
    return file


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, _MOST_BYTES)


def _write(file: int, content: bytes) -> None:
    """Say who holds the lock; it holds without a word, too."""
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, content)


def _flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _windows_lock(file: int) -> bool:
    import msvcrt

    os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except PermissionError:
        return False
    return True


def _release(file: int) -> None:
    """Let go at once, also where a child has inherited the file."""
    _write(file, b"")
    if _POSIX:
        fcntl.flock(file, fcntl.LOCK_UN)


_acquire: Callable[[int], bool] = _flock if _POSIX else _windows_lock
