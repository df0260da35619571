"""Cost models from files, whatever their form."""

from __future__ import annotations

from pathlib import Path

from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.cost_files import read_cost
from ecc.energy_models.counting import CountCost

__all__ = ["load"]


def load(path: str | Path) -> CostModel:
    """Read the cost model that a ``save`` wrote.

    Raises:
        InputError: If the file is missing, damaged or of a form that this program does not know.
    """
    form, fields = read_cost(path)
    try:
        if form == "bilinear":
            return BilinearCost.from_fields(fields)
        if form == "count":
            return CountCost.from_fields(fields)
    except InputError as error:
        raise InputError(f"cost model {str(path)!r} is damaged or not from this program: {error}") from error
    raise InputError(f"cost model {str(path)!r} has the form {form!r}; this program reads bilinear and count")
