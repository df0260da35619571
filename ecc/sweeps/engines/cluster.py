"""What is known of a cluster: what its nodes have, whether work fits on them, and whether they run the same programs.

Plain values; nothing here knows Ray.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["Needs", "Node", "differences", "lacking", "releases", "slots", "versions"]

_PACKAGES = {"torch": "torch", "numpy": "numpy", "ecc": "ecc-compress"}
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Needs:
    """What one unit claims of a node while it runs.

    Attributes:
        amounts: By resource, sorted: ``CPU``, ``GPU``, ``memory`` in bytes, or the cluster's own names.
    """

    amounts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, *, cpus: float, gpus: float, memory_bytes: int, resources: Mapping[str, float]) -> Needs:
        """From what a unit says; what it does not need is left out."""
        amounts = {"CPU": cpus, "GPU": gpus, "memory": float(memory_bytes), **resources}
        return cls(tuple(sorted((name, amount) for name, amount in amounts.items() if amount > 0)))

    def __str__(self) -> str:
        return ", ".join(_shown(name, amount) for name, amount in self.amounts) or "nothing"


@dataclass(frozen=True, slots=True)
class Node:
    """One node that is alive.

    Attributes:
        id: Of the cluster's.
        name: For people.
        has: Amount by resource, whether in use or not.
    """

    id: str
    name: str
    has: Mapping[str, float]

    def times(self, needs: Needs) -> int:
        """How many units with these needs fit at a time."""
        counts = [(self.has.get(name, 0.0) + _TOLERANCE) // amount for name, amount in needs.amounts]
        return int(min(counts, default=0))


def slots(needs: Needs, nodes: Sequence[Node]) -> int:
    """How many units with these needs fit on all nodes at a time."""
    return sum(node.times(needs) for node in nodes)


def lacking(needs: Needs, nodes: Sequence[Node], where: str) -> str:
    """Why no node can ever run a unit with these needs, in a sentence; empty where one can.

    Args:
        where: The cluster, for people.
    """
    if slots(needs, nodes):
        return ""
    if not nodes:
        return f"{where} has no node that is alive"
    most = []
    for name, amount in needs.amounts:
        best = max(nodes, key=lambda node: node.has.get(name, 0.0))
        if best.has.get(name, 0.0) + _TOLERANCE < amount:
            found = best.has.get(name, 0.0)
            most.append(f"at most {_shown(name, found)} on {best.name}" if found else f"no {name} on any")
    told = "; ".join(most) or "each of them on some node, but not together"
    return (
        f"no node of {where} has {needs} for a unit ({told}); start a node that has, with ray start --resources "
        "for names of your own, or ask for less"
    )


@cache
def releases() -> dict[str, str]:
    """Of what decides the results on this machine."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name, package in _PACKAGES.items():
        try:
            found[name] = metadata.version(package).partition("+")[0]  # CPU and CUDA builds are one release
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions() -> dict[str, str]:
    """Releases, and a hash of this package's own files as they are now."""
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return releases() | {"files of ecc": digest.hexdigest()[:8]}


def differences(own: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> str:
    """Which nodes run other programs than this machine; empty where none does.

    Args:
        own: ``versions()`` or ``releases()`` here.
        nodes: The same of each node, by its name for people.
    """
    told = []
    for node, found in nodes.items():
        if "missing" in found:
            told.append(f"{node} cannot import this package ({found['missing']})")
            continue
        for name, version in own.items():
            if (other := found.get(name, "not installed")) != version:
                told.append(f"{name} {other} on {node} and {version} here")
    return "; ".join(told)


def _shown(name: str, amount: float) -> str:
    return f"{amount / 1e9:g} GB of memory" if name == "memory" else f"{amount:g} {name}"
