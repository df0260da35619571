"""A unit on a machine that may share no disk with the one that asked for it.

What the unit reads and is not here under the same path with the same contents is brought along, and put below a folder
of its own; what it writes goes there too, unless the folder of the sweep is the same here, and is sent back in the end.
The paths in its description follow. The work notices nothing of it.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ecc.core.factories import reason
from ecc.sweeps.engines.cluster import differences, releases
from ecc.sweeps.engines.parcels import Listing, Receiver, listing, pieces, place
from ecc.sweeps.engines.protocol import Unit, find_work

__all__ = ["Errand", "Sign", "carry_out", "moved"]

Fetch = Callable[[Any], bytes]
"""Gets a piece that was left with the cluster."""


@dataclass(frozen=True, slots=True)
class Sign:
    """A file by which a machine sees whether the folder of the sweep is its own, too.

    Attributes:
        path: Absolute; empty where there is no such folder.
        text: What is in it, like no other.
    """

    path: str
    text: str

    @classmethod
    def put_up(cls, folder: Path) -> Sign:
        """Make one in a folder; any that a program left there that was killed goes.

        Raises:
            OSError: If it cannot be written.
        """
        for old in folder.glob(".*.sign"):
            old.unlink(missing_ok=True)
        text = secrets.token_hex(16)
        path = folder / f".{text[:8]}.sign"
        path.write_text(text, encoding="ascii")
        return cls(str(path), text)

    def take_down(self) -> None:
        """Remove it."""
        with suppress(OSError):
            Path(self.path).unlink(missing_ok=True)

    @property
    def seen(self) -> bool:
        """Whether it is here."""
        with suppress(OSError):
            return Path(self.path).read_text(encoding="ascii", errors="replace") == self.text
        return False


@dataclass(frozen=True, slots=True)
class Errand:
    """A unit as it is sent.

    Attributes:
        unit: The unit.
        work: ``package.module:function``.
        sign: Of the folder of the sweep.
        brought: What the unit reads, and what is already there of what it writes, as it is where it comes from.
        contents: Of each of them: what ``fetch`` turns into its pieces.
        versions: ``releases()`` of the machine that asks; empty where others will do.
    """

    unit: Unit
    work: str
    sign: Sign
    brought: tuple[Listing, ...] = ()
    contents: tuple[tuple[Any, ...], ...] = ()
    versions: Mapping[str, str] | None = None


def carry_out(errand: Errand, fetch: Fetch) -> Iterator[dict[str, Any] | bytes]:
    """Run a unit here.

    Yields:
        First where it runs (``worker``); then, where the folder of the sweep is not here, ``listings`` of what it wrote
        and their pieces; last its ``value``, or ``error`` and ``detail``.
    """
    own = f"{platform.node()}, process {os.getpid()}"
    with suppress(Exception):  # what is wrong with it is told when it is called
        _work(errand.work)  # which takes seconds in a new process, before the unit counts as begun
    yield {"worker": own}
    if other := differences(releases(), {"the machine of the sweep": errand.versions or releases()}):
        yield {"error": f"{platform.node()} came to the cluster with other versions: {other}", "final": True}
        return
    scratch = Path(tempfile.mkdtemp(prefix="ecc-sweep-"))
    try:
        here = errand.sign.seen
        paths = _bring(errand, fetch, here, scratch)
        ended = _call(errand.work, moved(errand.unit.description, paths))
        if not here:
            left = [listing(paths[path]) for path in errand.unit.writes]
            yield {"listings": [each.to_json() for each in left]}
            for each in left:
                yield from pieces(each)
        yield moved_back(ended, scratch)
    except Exception as error:  # of this machine: a full disk, a piece that is lost
        told = reason(error)
        yield {"error": f"{own} could not run it: {told}", "detail": traceback.format_exc(), "retry": True}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def moved(value: Any, paths: Mapping[str, str]) -> Any:
    """A JSON value with other paths: texts that are one of them, begin with one and go on with / or :, or end in :PATH.

    Args:
        paths: From absolute path to absolute path.
    """
    if isinstance(value, str):
        for old in sorted(paths, key=len, reverse=True):
            if value == old or value.startswith((f"{old}/", f"{old}:")):
                return paths[old] + value[len(old) :]
            if value.endswith(f":{old}"):
                return value[: -len(old)] + paths[old]
        return value
    if isinstance(value, Mapping):
        return {name: moved(each, paths) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [moved(each, paths) for each in value]
    return value


def moved_back(value: Any, scratch: Path) -> Any:
    """A JSON value whose texts name no place below a folder but what was moved there."""
    if isinstance(value, str):
        return value.replace(str(scratch), "")
    if isinstance(value, Mapping):
        return {name: moved_back(each, scratch) for name, each in value.items()}
    if isinstance(value, list):
        return [moved_back(each, scratch) for each in value]
    return value


def _bring(errand: Errand, fetch: Fetch, here: bool, scratch: Path) -> dict[str, str]:
    """Make everything there that is not; gives where it is by where it was."""
    unit = errand.unit
    paths = {} if here else {path: f"{scratch}{path}" for path in (*unit.writes, *filter(None, [unit.root]))}
    needed = []
    for number, each in enumerate(errand.brought):
        if each.path in unit.writes:
            if not here:
                needed.append(number)
        elif _same(each):
            paths.pop(each.path, None)
        else:
            paths[each.path] = f"{scratch}{each.path}"
            needed.append(number)
    for path in paths.values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not here and unit.root:
        Path(paths[unit.root]).mkdir(exist_ok=True)
    receiver = Receiver([errand.brought[number] for number in needed], scratch / ".arriving")
    for number in needed:
        for content in errand.contents[number]:
            receiver.take(fetch(content))
    for place_of, number in enumerate(needed):
        each = errand.brought[number]
        if each.kind != "absent":
            place(receiver.at(place_of), each, Path(paths[each.path]))
    return paths


def _same(there: Listing) -> bool:
    """Whether the same path holds the same contents here."""
    try:
        return listing(there.path).items == there.items
    except Exception:  # unreadable counts as another one
        return False


_work = cache(find_work)  # a worker that lives on keeps what its work remembers, such as data


def _call(work: str, description: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _work(work)(description)}
    except Exception as error:
        return {"error": reason(error), "detail": traceback.format_exc()}
