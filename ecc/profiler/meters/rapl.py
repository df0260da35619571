"""CPU energy by RAPL, read from the kernel's powercap tree.

The sum of all packages and of their DRAM where the CPU reports it; ``psys`` (the whole platform) overlaps with both and
is never added. Counters wrap around at ``max_energy_range_uj``; one wrap per window is corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecc.core.errors import MeterError
from ecc.core.meter import Probe, Reading

__all__ = ["RaplMeter"]

_TREE = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class _Zone:
    """One counter of the tree."""

    name: str
    path: Path
    range_uj: int

    def read_uj(self) -> int:
        return _integer(self.path / "energy_uj")


class RaplMeter:
    """Joules of all CPU packages and their DRAM.

    Attributes:
        metric: ``energy``.
        shortest_window_s: Half a second: 500 updates of the counters.
    """

    metric = "energy"
    shortest_window_s = 0.5

    def __init__(self, tree: Path = _TREE) -> None:
        self._tree = tree
        self._zones: tuple[_Zone, ...] = ()
        self._start: tuple[int, ...] = ()

    def probe(self) -> Probe:
        """Read every counter once."""
        try:
            zones = self._find()
        except MeterError as error:
            return Probe(False, reason=str(error))
        return Probe(True, f"RAPL powercap ({', '.join(zone.name for zone in zones)})")

    def begin(self) -> None:
        """Read the counters."""
        if not self._zones:
            self._zones = self._find()
        self._start = tuple(zone.read_uj() for zone in self._zones)

    def end(self) -> Reading:
        """Joules since ``begin``.

        Raises:
            MeterError: If a counter cannot be read or does not move.
        """
        if not self._start:
            raise MeterError("RaplMeter.end() was called without begin()")
        spent_uj = 0
        for zone, start in zip(self._zones, self._start, strict=True):
            delta = zone.read_uj() - start
            spent_uj += delta + zone.range_uj if delta < 0 else delta
        self._start = ()
        if spent_uj <= 0:
            raise MeterError(f"the RAPL counters under {self._tree} do not move; measure latency instead")
        return Reading(spent_uj * 1e-6)

    def _find(self) -> tuple[_Zone, ...]:
        """The package and DRAM zones, each read once.

        Only ``intel-rapl:`` is searched (AMD uses that name too): ``intel-rapl-mmio:`` counts the same packages again.
        """
        zones = []
        for path in sorted(self._tree.glob("intel-rapl:*")):
            name = _text(path / "name")
            if name.startswith(("package", "dram")):
                zone = _Zone(name, path, _integer(path / "max_energy_range_uj"))
                zone.read_uj()
                zones.append(zone)
        if not any(zone.name.startswith("package") for zone in zones):
            raise MeterError(
                f"no RAPL package counter under {self._tree} (virtual machines and containers hide it, and only "
                "Linux has it); measure energy on the host itself, or measure latency"
            )
        return tuple(zones)


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
