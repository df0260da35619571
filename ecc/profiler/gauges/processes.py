"""Other processes that compute on cores of this host, as far as /proc shows them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "Processes", "busy_others", "shows_whole_host"]

_KERNEL_PARENT = 2  # kthreadd, whose children are threads of the kernel


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table of processes.

    Attributes:
        parent: Its parent's number.
        cpu_ticks: CPU time that it has spent.
        core: On which it ran last.
    """

    parent: int
    cpu_ticks: int
    core: int

    @classmethod
    def parse(cls, text: str) -> Process:
        """Read a ``/proc/PID/stat``.

        Raises:
            ValueError: If it is none (or IndexError).
        """
        fields = text[text.rindex(")") + 1 :].split()  # the name before may hold anything
        return cls(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[36]))


class Processes:
    """The table of processes; threads of the kernel are looked at once, because there may be thousands.

    Args:
        proc: Where the kernel shows it.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._kernel: set[str] = set()

    def now(self) -> dict[int, Process]:
        """Number → process, threads of the kernel left out; empty where nothing is shown."""
        found = {}
        for name in self._names():
            try:
                process = Process.parse((self._proc / name / "stat").read_text())
            except (OSError, ValueError, IndexError):  # it may just have ended
                continue
            if process.parent == _KERNEL_PARENT:
                self._kernel.add(name)
            else:
                found[int(name)] = process
        return found

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._proc) if name.isdecimal() and name not in self._kernel]
        except OSError:
            return []


def busy_others(
    before: Mapping[int, Process], after: Mapping[int, Process], ticks: float, cores: Collection[int], own: int
) -> int:
    """How many processes spent that many ticks or more on the cores meanwhile; ``own`` and its offspring left out."""
    return sum(
        process.cpu_ticks - (before[number].cpu_ticks if number in before else 0) >= ticks
        and process.core in cores
        and own not in _line(number, after)
        for number, process in after.items()
    )


def _line(number: int, table: Mapping[int, Process]) -> set[int]:
    """A process and its ancestors."""
    line: set[int] = set()
    while number not in line and number in table:
        line.add(number)
        number = table[number].parent
    return line


def shows_whole_host(proc: Path = Path("/proc")) -> bool:
    """Whether numbers of processes here are those of the host: in a container, number 2 is not the kernel's."""
    try:
        return (proc / str(_KERNEL_PARENT) / "comm").read_text().strip() == "kthreadd"
    except OSError:
        return False
