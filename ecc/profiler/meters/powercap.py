"""RAPL counters in the kernel's powercap tree; readable by root only unless the administrator opens them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecc.core.errors import MeterError

__all__ = ["TREE", "Zone", "find_zones"]

TREE = Path("/sys/class/powercap")
"""Where Linux has it."""

_LARGEST_W = 500.0  # of a package whose limits are not told


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter of the tree.

    Attributes:
        name: As the kernel calls it, ``package-0``.
        domain: ``package`` or ``dram``.
        path: Its folder.
        range_uj: Where it wraps around.
        wrap_s: How soon it can do so.
    """

    name: str
    domain: str
    path: Path
    range_uj: int
    wrap_s: float

    def read(self) -> int:
        """Microjoules.

        Raises:
            MeterError: If it cannot be read.
        """
        return _integer(self.path / "energy_uj")

    def spent_j(self, before: int, after: int) -> float:
        """Joules between two readings that are less than ``wrap_s`` apart."""
        return (after - before if after >= before else after - before + self.range_uj) * 1e-6


def find_zones(tree: Path = TREE) -> tuple[Zone, ...]:
    """The package and DRAM zones, each read once; none where the tree has no package.

    Only ``intel-rapl:`` is searched (AMD uses that name too): ``intel-rapl-mmio:`` counts the same packages again, and
    ``psys``, the whole platform, overlaps with both.

    Raises:
        MeterError: If a zone is there and cannot be read; says how to mend it.
    """
    zones: list[Zone] = []
    for path in sorted(tree.glob("intel-rapl:*")):
        name = _text(path / "name")
        if name.startswith(("package", "dram")):
            range_uj = _integer(path / "max_energy_range_uj")
            domain = "package" if name.startswith("package") else "dram"
            zones.append(Zone(name, domain, path, range_uj, range_uj * 1e-6 / _most_w(path)))
    if not any(zone.domain == "package" for zone in zones):
        return ()
    for zone in zones:
        zone.read()
    return tuple(zones)


def _most_w(path: Path) -> float:
    """The highest power limit of a package, or of that which a zone is in."""
    package = path if path.name.count(":") == 1 else path.parent / path.name.rpartition(":")[0]
    files = [*package.glob("constraint_*_power_limit_uw"), *package.glob("constraint_*_max_power_uw")]
    return max(map(_limit_w, files), default=0.0) or _LARGEST_W


def _limit_w(file: Path) -> float:
    try:
        return max(0.0, int(file.read_text()) * 1e-6)
    except (OSError, ValueError):
        return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise MeterError(
            f"{path} can be read by root only; allow it until the next boot with "
            f"`sudo chmod -R a+r {path.parent.parent}/intel-rapl*`, or run as root"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f"{path} cannot be read ({error}); measure latency instead") from error


def _integer(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise MeterError(f"{path} holds {text[:40]!r}, not a number; measure latency instead") from None
