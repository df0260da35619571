"""What jobs claim of a cluster, and which cluster, as a job file says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ecc.core.errors import InputError
from ecc.sweeps.engines.ray_connection import Settings
from ecc.sweeps.entries import Entries

__all__ = ["Claims", "claims_of", "ray_of"]

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB)")


@dataclass(frozen=True, slots=True)
class Claims:
    """What one job claims of a node beside its cores.

    Attributes:
        gpus: Also parts of one; None for one where jobs train on CUDA, and none elsewhere.
        memory_bytes: 0 for as much as it takes.
        resources: By names of the cluster.
    """

    gpus: float | None = None
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)

    def over(self, others: Claims) -> Claims:
        """These, and what only the others name."""
        return Claims(
            others.gpus if self.gpus is None else self.gpus,
            self.memory_bytes or others.memory_bytes,
            {**others.resources, **self.resources},
        )


def claims_of(entries: Entries) -> Claims:
    """The table ``resources`` of a table: ``gpus``, ``memory``, and names of the cluster."""
    own, resources = entries.table("resources"), {}
    gpus, memory = own.number("gpus"), 0
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        own.wrong("gpus", f"gpus must be a whole number or a part of one, got {gpus}")
    if given := own.text("memory"):
        if found := _MEMORY.fullmatch(given.strip()):
            memory = int(float(found[1]) * _BYTES[found[2]])
        if not memory:
            own.wrong("memory", f"memory must be a text such as '4GB', got {given!r:.60}")
    for name in own.value:
        if name.lower() in ("cpu", "cpus", "gpu"):
            mend = "gpus" if name.lower() == "gpu" else "threads under [training]"
            own.wrong(name, f"{name} of a job is given as {mend}")
        elif name not in ("gpus", "memory"):
            amount = own.number(name)
            if amount is not None and amount <= 0:
                own.wrong(name, f"{name} must be a number above 0, got {amount}")
            resources[name] = amount or 0.0
    return Claims(gpus, memory, resources)


def ray_of(top: Entries) -> Settings:
    """The table ``[ray]``; defaults where there is none."""
    own, usual = top.table("ray"), Settings()
    wait_s = own.number("wait_s")
    try:
        settings = Settings(
            address=own.text("address"),
            attempts=own.whole("attempts", 1) or usual.attempts,
            wait_s=usual.wait_s if wait_s is None else wait_s,
            mixed_versions=own.flag("mixed_versions"),
        )
    except InputError as error:
        top.wrong("ray", str(error))
        settings = usual
    own.demand_known("[ray]")
    return settings
