"""METHODS: every solver by the name it has on the command line; the one list that recipes and the command line read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ecc.core.problem import Solver
from ecc.solvers.admm import Admm
from ecc.solvers.baselines.knapsack import Knapsack
from ecc.solvers.baselines.loss_change import Fisher, Taylor
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.netadapt import NetAdapt
from ecc.solvers.baselines.uniform import Uniform

__all__ = ["METHODS"]

METHODS: Mapping[str, type[Solver]] = MappingProxyType(
    {
        "admm": Admm,
        "uniform": Uniform,
        "magnitude": Magnitude,
        "taylor": Taylor,
        "fisher": Fisher,
        "netadapt": NetAdapt,
        "knapsack": Knapsack,
    }
)
"""Frozen dataclasses whose fields are the method's settings; one that trains has a field ``training``."""
