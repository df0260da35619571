"""diagnose: how well the coefficients of a fitted cost are known."""

from __future__ import annotations

from pathlib import Path

from ecc.api.fitting import known_profile
from ecc.core.errors import InputError
from ecc.core.table import ProfileTable
from ecc.energy_models import diagnostics
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.diagnostics import Diagnostics
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost

__all__ = ["diagnose"]


def diagnose(
    cost: BilinearCost | StaircaseCost, table: ProfileTable | str | Path, *, level: float = 0.95
) -> Diagnostics:
    """Standard errors of a fitted sum's coefficients, and the rows that decide it.

    Args:
        cost: What ``fit`` gave for these rows.
        table: The profile, or the file of its store.
        level: Of the intervals of coefficients, in (0, 1).

    Raises:
        InputError: If the cost is no sum of terms, or the rows belong to other groups or are no more than the terms.
    """
    if not isinstance(cost, BilinearCost | StaircaseCost):
        raise InputError(f"diagnose(cost=...) must be a bilinear or staircase cost, got {type(cost).__name__}")
    return diagnostics.diagnose(cost, Samples.of(known_profile(table), cost.metric), level=level)
