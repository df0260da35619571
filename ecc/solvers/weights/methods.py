"""WEIGHT_METHODS: every solver that prunes single weights, by the name it has on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ecc.core.weights import WeightSolver
from ecc.solvers.weights.magnitude import WeightIterative, WeightMagnitude, WeightUniform
from ecc.solvers.weights.masked_sgd import MaskedProjectedSgd
from ecc.solvers.weights.projected_sgd import ProjectedSgd

__all__ = ["WEIGHT_METHODS"]

WEIGHT_METHODS: Mapping[str, type[WeightSolver]] = MappingProxyType(
    {
        "projected-sgd": ProjectedSgd,
        "masked-sgd": MaskedProjectedSgd,
        "weight-magnitude": WeightMagnitude,
        "weight-uniform": WeightUniform,
        "weight-iterative": WeightIterative,
    }
)
"""Frozen dataclasses whose fields are the method's settings; each has a field ``training``."""
