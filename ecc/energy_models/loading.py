"""Cost models from files, whatever their form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.fields import DAMAGED, Fields
from ecc.energy_models.cost_files import read_cost
from ecc.energy_models.counting import CountCost
from ecc.energy_models.forms import FORMS, MACS
from ecc.energy_models.systolic.cost import SystolicCost

__all__ = ["load_cost"]

_READERS: Mapping[str, Callable[[Fields], CostModel]] = MappingProxyType(
    {
        "count": CountCost.from_fields,
        "systolic": SystolicCost.from_fields,
    }
)


def load_cost(path: str | Path) -> CostModel:
    """Read the cost model that its ``save``, ``ecc fit -o`` or an artefact wrote, whatever its form.

    Raises:
        InputError: If the file is missing, damaged or of a form that this program does not know.
    """
    form, fields = read_cost(path)
    if form not in _READERS and form not in FORMS:
        known = ", ".join(sorted({*_READERS, *FORMS} - {MACS}))
        raise InputError(f"cost model {str(path)!r} has the form {form!r}; this program reads {known}")
    read = _READERS[form] if form in _READERS else FORMS[form].cost.from_fields
    try:
        return read(fields)
    except InputError as error:
        where = f"cost model {str(path)!r}"
        problem = str(error).removesuffix(DAMAGED)
        for prefix in (f"{where}: ", f"{where} ", "cost model: "):  # what this sentence says itself
            problem = problem.removeprefix(prefix)
        raise InputError(f"{where} is damaged or not from this program: {problem}") from error
