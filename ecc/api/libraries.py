"""Which libraries are here, and what brings those that are not; nothing is imported to find out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

__all__ = ["DISTRIBUTION", "PURPOSES", "Library", "install_line", "libraries"]

DISTRIBUTION = "ecc-compress"

PURPOSES: Mapping[str, str] = MappingProxyType(
    {
        "data": "CIFAR-10 from its JPEG pack",
        "gpu": "energy and clocks of NVIDIA GPUs",
        "kernels": "compiled products of `ecc.dispatch`",
        "onnx": "runtime onnxruntime and ONNX files",
        "openvino": "runtime openvino",
        "parquet": "profiles as Parquet",
        "ray": "sweeps on several machines",
        "tensorboard": "curves of training in TensorBoard",
    }
)
"""What users have of each extra; the others are for those who work on ecc itself."""

_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")


@dataclass(frozen=True, slots=True)
class Library:
    """One library that ecc uses.

    Attributes:
        name: Of its distribution.
        extra: What brings it; empty for what ecc cannot do without.
        wanted: Versions that will do, as pip writes them; empty where any will.
        version: That is installed; None where there is none.
    """

    name: str
    extra: str
    wanted: str
    version: str | None

    @property
    def suits(self) -> bool:
        """Whether it is installed in a version that will do."""
        return self.version is not None and Requirement(f"{self.name}{self.wanted}").specifier.contains(
            self.version, prereleases=True
        )

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} is not installed"
        return f"{self.name} {self.version}" + ("" if self.suits else f" ({self.wanted} is needed)")


def libraries(requirements: Sequence[str] | None = None) -> tuple[Library, ...]:
    """What ecc requires, and what its extras for users bring.

    Args:
        requirements: As a distribution names them; those of the installed ecc by default.
    """
    given = _own_requirements() if requirements is None else requirements
    found: dict[tuple[str, str], Library] = {}
    for text in given:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # of a newer standard than the parser; pip has understood it
        extras = _EXTRA.findall(str(requirement.marker or ""))
        extra = extras[0] if extras else ""
        if extra and extra not in PURPOSES:
            continue
        library = Library(requirement.name, extra, str(requirement.specifier), _version(requirement.name))
        found[extra, canonicalize_name(requirement.name)] = library
    return tuple(found.values())


def install_line(extra: str = "") -> str:
    """How pip brings an extra, or all that ecc cannot do without."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install --upgrade {DISTRIBUTION}"


def _own_requirements() -> Sequence[str]:
    try:
        return metadata.requires(DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:  # run from its sources, never installed
        return ()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
