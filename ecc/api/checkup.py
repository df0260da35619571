"""examine: whether ecc can be used on this machine, what is missing, and how to mend it.

ok        as it should be
note      something that not everyone needs is missing, or figures would be better otherwise
problem   ecc cannot be used until this is mended
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecc.api.libraries import PURPOSES, Library, install_line, libraries
from ecc.api.surroundings import (
    allowed_cores,
    available_bytes,
    busy_cores,
    core_quota,
    free_bytes,
    takes_databases,
    why_not_writable,
)
from ecc.core.markup import card

__all__ = ["FOUND", "NOTE", "OK", "PROBLEM", "Check", "Checkup", "examine"]

OK, NOTE, PROBLEM = "ok", "note", "problem"

FOUND = "found"
"""What is said of a data set whose files are there."""

_OLDEST_PYTHON = (3, 11)
_GB = 10**9
_SCARCE_BYTES, _FEWEST_BYTES = 2 * _GB, _GB // 2
"""Of memory and of disk: below the first some work does not fit, below the second hardly any does."""
_QUIET = 0.25  # of the cores: more than that busy with others shows in measured latencies


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: What it belongs to: ``software``, ``devices``, ``data`` or ``machine``.
        name: What it is.
        state: OK, NOTE or PROBLEM.
        found: What is there, for people.
        mend: What to do about it, in one sentence; empty where there is nothing to do.
    """

    part: str
    name: str
    state: str
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that was looked at.

    Attributes:
        checks: In the order in which they were made.
        devices: As ``ecc devices --json`` gives them; empty where PyTorch does not work.
    """

    checks: tuple[Check, ...]
    devices: tuple[dict[str, Any], ...] = ()

    @property
    def usable(self) -> bool:
        """Whether ecc works here; notes do not count."""
        return all(check.state != PROBLEM for check in self.checks)

    def count(self, state: str) -> int:
        """How many checks ended so."""
        return sum(check.state == state for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc doctor --json``."""
        return {
            "usable": self.usable,
            "problems": self.count(PROBLEM),
            "notes": self.count(NOTE),
            "checks": [asdict(check) for check in self.checks],
            "devices": list(self.devices),
        }

    def __repr__(self) -> str:
        verdict = "usable" if self.usable else "not usable"
        return f"Checkup({verdict}, {self.count(PROBLEM)} problems, {self.count(NOTE)} notes)"

    def _repr_html_(self) -> str:
        rows = [[check.state, check.part, check.name, check.found, check.mend] for check in self.checks]
        rows.sort(key=lambda row: [PROBLEM, NOTE, OK].index(row[0]))
        return card(repr(self), header=["", "part", "what", "found", "mend"], rows=rows)


def examine(data_dir: str | Path | None = None) -> Checkup:
    """Look at everything that ecc needs or may use here; nothing is changed, and no sensor is read for long.

    Args:
        data_dir: Folder of the data sets; the environment variable ECC_DATA when None.
    """
    torch = _torch()
    checks: list[Check | None] = [_python(), torch, *_libraries(libraries()), _compiler()]
    devices: list[dict[str, Any]] = []
    if torch.state != PROBLEM:
        from ecc.profiler.devices import list_devices  # imports PyTorch, which may be what is missing

        devices = [device.to_json() for device in list_devices()]
        given = data_dir if data_dir is not None else os.environ.get("ECC_DATA") or None
        checks += [*_devices(devices), _hidden_gpu(), *_data(None if given is None else Path(given).expanduser())]
        checks += [_governor(devices[0]["settings"]), _threads(_torch_threads())]
    checks += [_load(), _memory(), *_folders()]
    return Checkup(tuple(check for check in checks if check is not None), tuple(devices))


# -- software


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Check(
            "software", "Python", PROBLEM, version, "ecc needs Python 3.11 or newer; make a virtual environment of it"
        )
    return Check("software", "Python", OK, f"{version} on {platform.system()} {platform.machine()}")


def _libraries(found: tuple[Library, ...]) -> Iterator[Check]:
    """One check for all that ecc cannot do without, and one for each extra."""
    if not found:
        yield Check(
            "software",
            "libraries",
            NOTE,
            "ecc was never installed, so what it requires is not known",
            "pip install -e .",
        )
        return
    for extra in dict.fromkeys(library.extra for library in found):
        own = [library for library in found if library.extra == extra]
        lacking = [library for library in own if not library.suits]
        text = ", ".join(map(str, lacking or own))
        if not extra:
            state, mend = (PROBLEM, f"run `{install_line()}`") if lacking else (OK, "")
            yield Check("software", "libraries", state, text, mend)
        elif lacking:
            yield Check("software", f"extra {extra}", NOTE, text, f"for {PURPOSES[extra]}: {install_line(extra)}")
        else:
            yield Check("software", f"extra {extra}", OK, text)


def _torch() -> Check:
    """Whether PyTorch can be imported, which its being installed does not say."""
    try:
        import torch
    except Exception as error:  # a damaged installation raises almost anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Check(
            "software",
            "PyTorch",
            PROBLEM,
            f"cannot be imported: {first}",
            "install it anew: pip install --force-reinstall torch",
        )
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    return Check("software", "PyTorch", OK, f"{torch.__version__}, built {built}")


def _compiler() -> Check:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if found := next((name for name in names if name and shutil.which(name)), ""):
        return Check("software", "C++ compiler", OK, found)
    return Check("software", "C++ compiler", NOTE, "none", "for runtime compile on the CPU: install g++, or set CXX")


# -- devices


def _devices(devices: list[dict[str, Any]]) -> Iterator[Check]:
    for device in devices:
        for metric, probe in device["meters"].items():
            name = f"{metric} of {device['torch_name']}"
            if probe["available"]:
                yield Check("devices", name, OK, f"{device['name']}: {probe['source']}")
            else:
                state = PROBLEM if metric == "latency" and device["kind"] == "cpu" else NOTE
                reason, _, mend = probe["reason"].rpartition("; ")
                yield Check("devices", name, state, f"{device['name']}: {reason or mend}", mend if reason else "")


def _hidden_gpu() -> Check | None:
    """A GPU that the driver knows and PyTorch does not see."""
    import torch

    if torch.cuda.is_available() or not Path("/proc/driver/nvidia/version").exists():
        return None
    if not torch.version.cuda:
        mend = "this PyTorch is built for CPUs; install a CUDA build, see pytorch.org"
    else:
        mend = "see what CUDA_VISIBLE_DEVICES is set to, and whether nvidia-smi lists the GPU"
    return Check("devices", "NVIDIA GPU", NOTE, "there is a driver, but PyTorch sees no GPU", mend)


def _governor(settings: dict[str, str]) -> Check:
    governor = settings["governor"]
    found = f"governor {governor}, boost {settings['boost']}, SMT {settings['smt']}"
    if governor == "unknown":
        return Check(
            "machine", "clocks", NOTE, f"{found}: this system does not tell", "watch the noise that ecc profile reports"
        )
    if governor != "performance":
        return Check(
            "machine", "clocks", NOTE, found, "for steadier latencies: sudo cpupower frequency-set -g performance"
        )
    return Check("machine", "clocks", OK, found)


# -- data


def _data(folder: Path | None) -> Iterator[Check]:
    from ecc.data.presence import FILES

    yield Check("data", "digits", OK, "embedded")
    if folder is None:
        names = ", ".join(FILES)
        yield Check("data", "folder", NOTE, "none is named", f"for {names}: give --data-dir DIR, or set ECC_DATA")
        return
    if not folder.is_dir():
        yield Check("data", "folder", NOTE, f"{folder} is no folder", "give --data-dir DIR, or set ECC_DATA")
        return
    yield Check("data", "folder", OK, str(folder))
    for name, files in FILES.items():
        if lacking := files.missing(folder):
            yield Check("data", name, NOTE, f"there is no {lacking[0]}", f"put it into {folder / files.folder}")
        else:
            yield Check("data", name, OK, FOUND)


# -- machine


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _threads(threads: int) -> Check:
    """PyTorch's threads beside the cores that this process may have."""
    cores, quota = allowed_cores(), core_quota()
    room = cores if quota is None else min(cores, max(1, math.floor(quota)))
    granted = "" if quota is None or quota >= cores else f", of which a container grants {quota:.3g}"
    found = f"{threads} of PyTorch on {cores} of {os.cpu_count() or cores} cores{granted}"
    if threads > room:
        return Check("machine", "threads", NOTE, found, f"they wait for each other: set OMP_NUM_THREADS={room}")
    return Check("machine", "threads", OK, found)


def _load() -> Check | None:
    busy, cores = busy_cores(), os.cpu_count() or 1
    if busy is None:
        return None
    found = f"{busy:.1f} of {cores} cores busy in the last minute"
    if busy > _QUIET * cores:
        return Check("machine", "load", NOTE, found, "measure latency and energy while less else runs")
    return Check("machine", "load", OK, found)


def _memory() -> Check | None:
    return _amount("memory", available_bytes(), "free", "end other programs, or take smaller batches: --batch-size")


def _amount(name: str, size: int | None, word: str, mend: str) -> Check | None:
    if size is None:
        return None
    found = f"{size / _GB:.1f} GB {word}"
    if size < _SCARCE_BYTES:
        return Check("machine", name, PROBLEM if size < _FEWEST_BYTES else NOTE, found, mend)
    return Check("machine", name, OK, found)


def _folders() -> Iterator[Check | None]:
    """The folder that commands write to by default, and the one for what is temporary."""
    here = Path.cwd()
    if why := why_not_writable(here):
        yield Check(
            "machine", "current folder", PROBLEM, f"{here} cannot be written: {why}", "change to a folder of yours"
        )
    elif not takes_databases(here):
        yield Check(
            "machine",
            "current folder",
            NOTE,
            f"{here} takes no profile store",
            "give ecc profile a --store on a local disk",
        )
    else:
        yield Check("machine", "current folder", OK, f"{here} can be written")
    yield _amount(
        "disk", free_bytes(here), "free in the current folder", "remove what is not needed, or change the folder"
    )
    place = Path(tempfile.gettempdir())
    if why := why_not_writable(place):
        yield Check(
            "machine", "temporary folder", PROBLEM, f"{place} cannot be written: {why}", "set TMPDIR to one that can"
        )
    else:
        yield _amount(
            "temporary folder", free_bytes(place), f"free in {place}", "set TMPDIR to a folder with more room"
        )
