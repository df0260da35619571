"""What a job is made of, from the names that a command line or a job file gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.analytic import SYSTOLIC_PREFIX, systolic_costs
from ecc.api.constraints import graph_of_costs
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.data.values import Data
from ecc.energy_models.loading import load_cost
from ecc.energy_models.systolic.array import SystolicArray
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.zoo.loading import LoadedModel

__all__ = ["Costs", "batch_of", "data_name", "lasting"]


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """The cost models of a job.

    Attributes:
        files: Fitted ones.
        arrays: Systolic arrays.
    """

    files: tuple[CostModel, ...]
    arrays: tuple[SystolicArray, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Costs:
        """Read paths and ``systolic:ARRAY``.

        Raises:
            InputError: If one cannot be read.
        """
        arrays = [name.removeprefix(SYSTOLIC_PREFIX) for name in names if name.startswith(SYSTOLIC_PREFIX)]
        files = [load_cost(name) for name in names if not name.startswith(SYSTOLIC_PREFIX)]
        return cls(tuple(files), tuple(SystolicArray.parse(array) for array in arrays))

    @property
    def batch(self) -> int:
        """Examples per run of what was measured; 1 where nothing was."""
        return batch_of(self.files)

    def traced(self, model: nn.Module, data: Data) -> tuple[Any, WidthGraph]:
        """The batch that is timed, and the width graph of the network."""
        inputs = data.example(self.batch)
        return inputs, trace(model, inputs)

    def models(self, model: nn.Module, graph: WidthGraph, budgets: Sequence[Budget]) -> list[CostModel]:
        """One cost model for each budget that needs one.

        Raises:
            InputError: If an array has no budget, or does not suit.
        """
        found = list(self.files)
        if self.arrays:
            blocks = graph_of_costs(graph, model, found)
            for array in self.arrays:
                found += systolic_costs(blocks, array, budgets, found)
        return found


def batch_of(costs: Sequence[CostModel]) -> int:
    """Examples per run that cost models were measured with; 1 where none was measured."""
    place = next((cost.provenance for cost in costs if cost.provenance is not None), None)
    return place.input_shape[0] if place is not None and place.input_shape else 1


def lasting(spec: str, folder: Path | None = None) -> str:
    """A spec that means the same in every folder: ``file.py:factory`` with its whole path.

    Args:
        folder: That paths are meant from; the current one when None.
    """
    where, separator, name = spec.rpartition(":")
    path = (folder or Path()) / Path(where).expanduser()
    return f"{path.resolve()}{separator}{name}" if where.endswith(".py") else spec


def data_name(spec: str, loaded: LoadedModel) -> str:
    """The DATA that is meant: images in the size that a network of the zoo takes where there are several.

    So ``mnist`` is ``mnist-32`` for LeNet-5, whose images have a border.
    """
    return loaded.data if loaded.data.rpartition("-")[0] == spec else spec
