"""METHODS: every solver by the name it has on the command line; the one list that recipes and the command line read.

Installed packages may add to it: entry points of the group ``ecc.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, cast

from ecc.core.errors import InputError
from ecc.core.parts import Parts
from ecc.core.problem import Solver
from ecc.solvers.admm import Admm
from ecc.solvers.baselines.knapsack import Knapsack
from ecc.solvers.baselines.loss_change import Fisher, Taylor
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.netadapt import NetAdapt
from ecc.solvers.baselines.uniform import Uniform

__all__ = ["METHODS"]


def _as_method(name: str, found: Any) -> type[Solver]:
    if not (isinstance(found, type) and is_dataclass(found) and callable(getattr(found, "solve", None))):
        raise InputError(f"method {name!r} must be a frozen dataclass with a method solve, got {found!r:.80}")
    return cast(type[Solver], found)


METHODS: Mapping[str, type[Solver]] = Parts(
    "ecc.methods",
    {
        "admm": Admm,
        "uniform": Uniform,
        "magnitude": Magnitude,
        "taylor": Taylor,
        "fisher": Fisher,
        "netadapt": NetAdapt,
        "knapsack": Knapsack,
    },
    _as_method,
)
"""Frozen dataclasses whose fields are the method's settings; one that trains has a field ``training``."""
