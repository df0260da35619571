"""Systolic arrays: what an analytic model knows of an accelerator.

The energies are those of one access or one multiply-accumulate. Normalised ones (in units of a register access, or of
a MAC) say how designs compare and never how many joules they take; joules come out where joules were put in, in a TOML
file of one's own.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from ecc.core.errors import InputError

__all__ = ["DATAFLOWS", "PRESETS", "UNITS", "Dataflow", "SystolicArray"]

Dataflow = Literal["os", "ws", "is"]
"""What stays in the array while the rest streams by: outputs, weights or inputs."""

DATAFLOWS: tuple[Dataflow, ...] = get_args(Dataflow)

UNITS: Mapping[str, str] = {"e_RF": "e_rf", "e_MAC": "e_mac", "J": ""}
"""Units of energy, and the field that is 1 in them."""

_MOST_BYTES = 1 << 16  # of a TOML file
_MOST_SIDE = 1 << 16  # rows or columns
_MOST_CACHE = 1 << 40  # elements
_MOST_UNITS = 1e9  # of a normalised energy
_MOST_JOULES = 1e-6  # of one access: no memory takes that much
_ENERGIES = ("e_rf", "e_mac", "e_cache", "e_dram")


@dataclass(frozen=True, slots=True)
class SystolicArray:
    """An accelerator of rows × columns processing elements with caches between them and DRAM.

    The defaults are those of the analytic model of Yang, Zhu, Liu (ICLR 2019), which takes them from Eyeriss.

    Attributes:
        name: For people.
        rows: Output positions that are computed at once (m).
        columns: Output channels that are computed at once (n).
        input_cache: Elements of inputs that are kept on chip.
        weight_cache: Elements of weights that are kept on chip.
        output_cache: Elements of partial sums that are kept on chip outside the array; a dataflow that keeps outputs in
            the array needs none.
        e_rf: Energy of one access to a register file.
        e_mac: Energy of one multiply-accumulate with its own two register accesses.
        e_cache: Energy of one access to a cache.
        e_dram: Energy of one access to DRAM.
        unit: Of all energies: ``e_RF`` (one register access), ``e_MAC`` (one multiply-accumulate) or ``J``.
        dataflow: ``os``, ``ws`` or ``is``: whether outputs, weights or inputs stay in the array.
        bits: Of one element.
        frequency_hz: Of the clock; None where it is not known, and cycles are then not turned into seconds.
        e_multiply: Part of ``e_mac`` that is in proportion to the bits of a weight, the multiplier's; 0 where it is not
            known, and multiply-accumulates then cost the same with few bits.
    """

    name: str = "eyeriss"
    rows: int = 12
    columns: int = 14
    input_cache: int = 51200
    weight_cache: int = 4096
    output_cache: int = 0
    e_rf: float = 1
    e_mac: float = 3
    e_cache: float = 6
    e_dram: float = 200
    unit: str = "e_RF"
    dataflow: Dataflow = "os"
    bits: int = 16
    frequency_hz: float | None = None
    e_multiply: float = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not 0 < len(self.name) <= 200:
            raise InputError(f"SystolicArray(name=...) must be a short text, got {self.name!r:.80}")
        for name, least, most in (
            ("rows", 1, _MOST_SIDE),
            ("columns", 1, _MOST_SIDE),
            ("input_cache", 1, _MOST_CACHE),
            ("weight_cache", 1, _MOST_CACHE),
            ("output_cache", 0, _MOST_CACHE),
            ("bits", 1, 64),
        ):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= most:
                raise InputError(
                    f"SystolicArray({name}=...) must be a whole number from {least} to {most}, got {size!r:.80}"
                )
        if self.dataflow not in DATAFLOWS:
            raise InputError(
                f"SystolicArray(dataflow=...) must be one of {', '.join(DATAFLOWS)}, got {self.dataflow!r:.80}"
            )
        self._demand_energies()
        frequency = self.frequency_hz
        if frequency is not None and not (_is_number(frequency) and 0 < frequency <= 1e12):
            raise InputError(f"SystolicArray(frequency_hz=...) must be in Hz, at most 1e12, got {frequency!r:.80}")

    def _demand_energies(self) -> None:
        if self.unit not in list(UNITS):  # a list: what comes from TOML may have no hash
            raise InputError(f"SystolicArray(unit=...) must be one of {', '.join(UNITS)}, got {self.unit!r:.80}")
        most = _MOST_JOULES if self.unit == "J" else _MOST_UNITS
        for name in (*_ENERGIES, "e_multiply"):
            energy = getattr(self, name)
            if not _is_number(energy) or not 0 <= energy <= most:
                raise InputError(
                    f"SystolicArray({name}=...) must be from 0 to {most:g} {self.unit}, got {energy!r:.80}"
                )
        if (one := UNITS[self.unit]) and getattr(self, one) != 1:
            raise InputError(
                f"SystolicArray(unit={self.unit!r}) means that {one} is 1, got {getattr(self, one)!r}; "
                'divide all energies by it, or give joules and unit "J"'
            )
        if self.e_multiply > self.e_mac:
            raise InputError(
                f"SystolicArray(e_multiply=...) is a part of e_mac={self.e_mac!r}, and cannot be {self.e_multiply!r}"
            )
        if self.e_mac == 0 and self.e_dram == 0:
            raise InputError("SystolicArray(e_mac=..., e_dram=...) must not both be 0")

    @classmethod
    def preset(cls, name: str) -> SystolicArray:
        """The array of that name in PRESETS.

        Raises:
            InputError: If there is none.
        """
        if name not in PRESETS:
            raise InputError(f"there is no systolic array {name!r}; {_choices(name, list(PRESETS))}")
        return PRESETS[name]

    @classmethod
    def from_toml(cls, path: str | Path) -> SystolicArray:
        """An array from a TOML file whose keys are the attributes of this class.

        What the file leaves out is as in the preset that its key ``base`` names, Eyeriss without one; its name is the
        file's. Joules are believed only where all four energies are given.

        Raises:
            InputError: If the file cannot be read, has an unknown key, or describes no possible array.
        """
        where = f"systolic array {str(path)!r}"
        try:
            with Path(path).open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{where} cannot be read: {reason}; give a preset ({', '.join(PRESETS)}) or a TOML file"
            ) from error
        if len(text) > _MOST_BYTES:
            raise InputError(f"{where} is larger than {_MOST_BYTES >> 10} KiB; give one array, a line per number")
        try:
            given = tomllib.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not readable TOML ({error!s:.200})") from error
        return cls._from_keys(given, where, Path(path).stem)

    @classmethod
    def _from_keys(cls, given: Mapping[str, Any], where: str, stem: str) -> SystolicArray:
        known = [field.name for field in fields(cls)]
        for key in given:
            if key != "base" and key not in known:
                raise InputError(f"{where} has the unknown key {key!r:.80}; {_choices(key, [*known, 'base'])}")
        if given.get("unit") == "J" and (missing := [name for name in _ENERGIES if name not in given]):
            raise InputError(
                f"{where} has unit J and no {missing[0]}; give {', '.join(_ENERGIES)} in joules per access"
            )
        base = given.get("base", "eyeriss")
        if not isinstance(base, str):
            raise InputError(f"{where} has a base that is no name; {_choices('', list(PRESETS))}")
        values = {key: value for key, value in given.items() if key != "base"}
        try:
            return replace(cls.preset(base), **{"name": stem, **values})
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @classmethod
    def parse(cls, text: SystolicArray | str | Path) -> SystolicArray:
        """The preset of that name, or the array in that TOML file; an array is taken as it is.

        Raises:
            InputError: If it is neither.
        """
        if isinstance(text, SystolicArray):
            return text
        if not isinstance(text, str | Path):
            raise InputError(f"{text!r:.80} is no systolic array; give one, or the name of a preset or a TOML file")
        text = str(text)
        if text in PRESETS:
            return PRESETS[text]
        if text.endswith(".toml") or Path(text).is_file():
            return cls.from_toml(text)
        raise InputError(
            f"{text!r:.200} is no systolic array; {_choices(text, list(PRESETS))}, or give a TOML file of your own"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON value with one member per attribute."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300 and math.isfinite(value)
    )


def _choices(wanted: str, known: list[str]) -> str:
    """The names that are close to one, or all of them."""
    close = get_close_matches(wanted, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(known)}"


PRESETS: Mapping[str, SystolicArray] = {
    # The constants of the ICLR 2019 model as in its authors' code, which names Eyeriss as their source: 12 × 14
    # elements, 100 KiB and 8 KiB of 16-bit words, energies relative to a register access. It has no clock.
    "eyeriss": SystolicArray(),
    # Published of the first TPU: 256 × 256 multipliers of 8 bits at 700 MHz. Caches (6144, 6144 and 2048 kB) and
    # dataflow are those of the file that SCALE-Sim has for it. Its energies per access are not published: the
    # normalised ones of Eyeriss stand in, so that only comparisons on one array mean something.
    "tpu-v1": SystolicArray(
        name="tpu-v1",
        rows=256,
        columns=256,
        input_cache=6144 << 10,
        weight_cache=6144 << 10,
        output_cache=2048 << 10,
        dataflow="os",
        bits=8,
        frequency_hz=700e6,
    ),
}
"""Arrays by name."""
