"""One run of a method to its budgets, as rows of a CSV file: one per budget, relative to dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peer_torch_pruning import TorchPruning
from pruning_cases import CASES, Case
from torch import nn

from ecc.api.compressing import compress
from ecc.api.fitting import fit
from ecc.api.measuring import measure_widths
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.problem import Solver
from ecc.data.values import Data
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.profiler.locking import device_lock

__all__ = ["METHODS", "Bench", "rows_of"]

_SAMPLES = 100  # rows of a profile
_MEASURE_S = 12.0  # of each verification at most
_MEASURED = ("latency",)
_ARRAY = "eyeriss"

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "admm": {"method": "admm"},
        "knapsack": {"method": "knapsack"},
        "halp": {"method": "knapsack", "options": {"knapsack.curves": "importance"}},
        "taylor": {"method": "taylor"},
        "fisher": {"method": "fisher"},
        "magnitude-l1": {"method": "magnitude", "options": {"magnitude.norm": "l1"}},
        "magnitude-l2": {"method": "magnitude", "options": {"magnitude.norm": "l2"}},
        "uniform": {"method": "uniform"},
        "netadapt": {"method": "netadapt", "solve_share": 0.5},
        "torch-pruning-magnitude": {"peer": "torch-pruning-magnitude"},
        "torch-pruning-taylor": {"peer": "torch-pruning-taylor"},
        "cooper": {"peer": "cooper", "solve_share": 0.5},
    }
)
"""Methods of ecc and peers, with what a recipe is made of."""


@dataclass(frozen=True, slots=True)
class PeerRecipe(Recipe):
    """A job with a peer's solver: the same epochs, the same fine-tuning, the same verification.

    Attributes:
        peer: ``torch-pruning-magnitude``, ``torch-pruning-taylor`` or ``cooper``.
    """

    peer: str = "cooper"

    @property
    def trains(self) -> bool:
        """Whether the peer trains with gates."""
        return self.peer == "cooper"

    def solver(self) -> Solver:
        """The peer with its settings."""
        if self.peer == "torch-pruning-magnitude":
            return TorchPruning("magnitude")
        if self.peer == "torch-pruning-taylor":
            return TorchPruning("taylor")
        from peer_cooper import Cooper

        return Cooper(self._training("solve", self.solve_epochs, {"schedule": "constant", "dropout": False}))


def recipe_of(name: str, case: Case, seed: int, options: Mapping[str, Any]) -> Recipe:
    """How a method of METHODS is run on a case; ``options`` beside the method's own."""
    plan = dict(METHODS[name])
    settings = {**plan.pop("options", {}), **options}
    common: dict[str, Any] = {
        "epochs": case.epochs,
        "lr": case.lr,
        "seed": seed,
        "measure_s": _MEASURE_S,
        "options": settings,
    }
    return PeerRecipe(**common, **plan, method="uniform") if "peer" in plan else Recipe(**common, **plan)


class Bench:
    """A case with its starts, its graph and its cost models, each made when it is first wanted.

    Args:
        case: Name of a case.
        folder: Keeps what was trained and measured.
    """

    def __init__(self, case: str, folder: Path) -> None:
        self.case, self.folder = CASES[case], folder
        self._starts: dict[int, nn.Module] = {}

    @cached_property
    def data(self) -> Data:
        """Loaders."""
        return self.case.load()

    @cached_property
    def inputs(self) -> Any:
        """The batch that is traced and timed."""
        return self.data.example(self.case.timed)

    @cached_property
    def graph(self) -> WidthGraph:
        """Of the dense network."""
        return trace(self.start(0), self.inputs)

    def start(self, seed: int) -> nn.Module:
        """The dense network of a seed."""
        if seed not in self._starts:
            self._starts[seed] = self.case.start(self.data, seed, self.folder)
        return self._starts[seed]

    @cached_property
    def latency(self) -> CostModel:
        """Fitted to a profile of this machine, one thread, eager; measured once and kept."""
        store = self.folder / f"{self.case.name}.db"
        store.parent.mkdir(parents=True, exist_ok=True)
        result = measure_widths(
            self.start(0), self.graph, self.inputs, samples=_SAMPLES, store=store, network=self.case.name
        )
        return fit(result.table, "latency")

    def costs(self, budgets: Sequence[Budget]) -> list[CostModel]:
        """One per budget that is no count: measured latency, analytic energy."""
        found: list[CostModel] = []
        for budget in budgets:
            if budget.metric in _MEASURED:
                found.append(self.latency)
            elif budget.metric == "energy":
                found.append(SystolicCost.of(self.graph, SystolicArray.preset(_ARRAY), "energy"))
        return found

    def run(self, method: str, budgets: Sequence[Budget], seed: int, options: Mapping[str, Any]) -> Compression:
        """One compression; its state is not kept, since a run that was stopped is done anew."""
        data, case = self.data, self.case
        return compress(
            self.start(seed),
            self.graph,
            data.task(),
            budgets,
            self.costs(budgets),
            self.inputs,
            recipe=recipe_of(method, case, seed, options),
            test=data.test,
            network=case.name,
        )

    def alone(self) -> AbstractContextManager[None]:
        """The device to itself, from training on: nobody's measurement meets another's training."""
        here = current_device("cpu")
        return device_lock(here.fingerprint, here.name, what=f"compressing {self.case.name}")


def rows_of(result: Compression) -> list[dict[str, Any]]:
    """What a run came to, one row per budget; values relative to the dense network."""
    rows = []
    for check, cost in zip(result.budgets, result.costs, strict=True):
        ends = (check.measured, check.low, check.high)
        measured, low, high = (None if each is None else each / check.dense for each in ends)
        rows.append(
            {
                "metric": check.metric,
                "limit": check.limit / check.dense,
                "predicted": None if check.predicted is None else check.predicted / cost.dense,
                "measured": measured,
                "low": low,
                "high": high,
                "met": check.met,
                "confidence": check.confidence,
                "source": check.source or ("device" if check.low != check.high else "count"),
                "accuracy_dense": result.accuracy_dense,
                "accuracy": result.accuracy,
                "macs": result.counts["macs"] / result.counts["macs_dense"],
                "params": result.nonzero_fraction,
                "rounds": result.rounds,
                "epochs": result.recipe.epochs,
                "seconds": round(result.seconds, 2),
                "widths": " ".join(map(str, result.widths.values())),
            }
        )
    return rows
