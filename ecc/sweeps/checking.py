"""Everything that a job file names is opened and fitted together before anything runs; every mistake keeps its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from ecc.api.analytic import SYSTOLIC_PREFIX
from ecc.api.compressing import job_of
from ecc.api.stage_options import stages_of
from ecc.api.weight_costs import demand_weight_metrics
from ecc.api.weight_recipe import AnyRecipe, WeightRecipe, recipe_of
from ecc.core.errors import EccError
from ecc.core.problem import Task
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.energy_models.loading import load_cost
from ecc.energy_models.systolic.array import SystolicArray
from ecc.network.graph import WidthGraph
from ecc.sweeps.entries import Mistakes
from ecc.sweeps.job_file import BudgetSet, JobFile, MethodEntry, NetworkEntry
from ecc.sweeps.lines import Path
from ecc.sweeps.parts import Costs, data_name
from ecc.sweeps.plan import Plan, costs_for, data_of, model_of, plan_of
from ecc.zoo.loading import LoadedModel, load_model, load_weights

__all__ = ["checked"]

T = TypeVar("T")


def checked(file: JobFile) -> Plan:
    """The plan of a job file, once all that it names is there and fits together.

    Networks and data are loaded, every cost model is read, and each network, device, method and set of budgets is made
    a job of, which refuses budgets that cannot be reached; nothing is trained or measured.

    Whether the device to train on is there is not looked at: it may be another machine's.

    Raises:
        InputError: If anything is wrong; every mistake is named with its line.
    """
    review = _Review(file)
    review.look()
    file.mistakes.refuse()
    return plan_of(file, metrics=review.metrics)


def _few(data: Data) -> Task:
    """The task with two examples: whether network, loss and score go together is asked of every job."""
    try:
        inputs, targets = next(iter(data.train))
        first = tuple(each[:2] for each in inputs) if isinstance(inputs, tuple | list) else inputs[:2]
        return Task([(first, targets[:2])], data.validation, data.loss, data.score)
    except Exception:  # a loader of the user's own; whoever reads it next says what is wrong with it
        return data.task()


def _at(path: Path) -> Callable[[str], Path]:
    """One place, whatever the sentence."""
    return lambda text: path


@dataclass(slots=True)
class _Review:
    """One look at all that a job file names.

    Attributes:
        metrics: Of each cost file that could be read, by its path.
        data: By name, folder and batch size.
    """

    file: JobFile
    metrics: dict[str, str] = field(default_factory=dict)
    data: dict[tuple[str, str], Data] = field(default_factory=dict)

    @property
    def mistakes(self) -> Mistakes:
        return self.file.mistakes

    def look(self) -> None:
        self._read_costs()
        recipes = [self._try(partial(self._recipe, method), self._near(method)) for method in self.file.methods]
        for chain in self.file.chains:
            self._try(partial(stages_of, chain.apply, dict(chain.options)), _at(chain.path))
        for network in self.file.networks:
            self._network(network, recipes)

    def _try(self, make: Callable[[], T], where: Callable[[str], Path]) -> T | None:
        """What ``make`` gives; None, and a mistake noted where it stands, if that is refused."""
        try:
            return make()
        except EccError as error:
            self.mistakes.add(where(str(error)), str(error))
            return None

    def _read_costs(self) -> None:
        for network in self.file.networks:
            for device, names in network.devices.items():
                for place, name in enumerate(names):
                    at = (*network.path, "costs", *([device] if device else []), place)
                    self._try(partial(self._read_cost, name), _at(at))

    def _read_cost(self, name: str) -> None:
        if name.startswith(SYSTOLIC_PREFIX):
            array = name.removeprefix(SYSTOLIC_PREFIX)
            SystolicArray.parse(str(self.file.path_of(array)) if array.endswith(".toml") else array)
            return
        path = str(self.file.path_of(name))
        if path not in self.metrics:
            self.metrics[path] = load_cost(path).metric

    def _recipe(self, method: MethodEntry) -> AnyRecipe:
        return recipe_of(method.method, then=method.then, options=method.options, **dict(method.settings))

    @staticmethod
    def _near(method: MethodEntry) -> Callable[[str], Path]:
        """Where a setting stands that a sentence names; the method where it names none."""

        def find(text: str) -> Path:
            named = [name for name in method.where if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text)]
            return method.where[max(named, key=len)] if named else method.path

        return find

    def _network(self, network: NetworkEntry, recipes: list[AnyRecipe | None]) -> None:
        """Load a network with its data, and make every job of it."""
        loaded = self._try(partial(self._model, network), _at((*network.path, "model")))
        if loaded is None:
            return
        if network.weights:
            weights = str(self.file.path_of(network.weights))
            self._try(partial(load_weights, loaded.module, weights), _at((*network.path, "weights")))
        data = self._try(partial(self._data, network, loaded), _at((*network.path, "data")))
        if data is None:
            return
        for device, names in network.devices.items():
            if not self._known(names):
                continue
            graphs: dict[int, tuple[Any, WidthGraph]] = {}
            for method, recipe in zip(self.file.methods, recipes, strict=True):
                for budgets in self.file.budgets_of(network, method) if recipe is not None else ():
                    self._job(network, device, method, budgets, loaded, data, recipe, graphs)
            self._refuse_unused(network, device)

    def _known(self, names: tuple[str, ...]) -> bool:
        """Whether every cost file of a device could be read; what else is wrong cannot be told without."""
        files = [str(self.file.path_of(name)) for name in names if not name.startswith(SYSTOLIC_PREFIX)]
        return all(path in self.metrics for path in files)

    def _model(self, network: NetworkEntry) -> LoadedModel:
        torch.manual_seed(network.seed)
        return load_model(model_of(self.file, network), network.options)

    def _data(self, network: NetworkEntry, loaded: LoadedModel) -> Data:
        name = data_name(data_of(self.file, network), loaded)
        folder = str(self.file.path_of(network.data_dir)) if network.data_dir else ""
        if (name, folder) not in self.data:
            size = self.file.batch_size
            self.data[name, folder] = load_data(name, data_dir=folder or None, batch_size=size, seed=network.seed)
        return self.data[name, folder]

    def _job(
        self,
        network: NetworkEntry,
        device: str,
        method: MethodEntry,
        budgets: BudgetSet,
        loaded: LoadedModel,
        data: Data,
        recipe: AnyRecipe | None,
        graphs: dict[int, tuple[Any, WidthGraph]],
    ) -> None:
        """Make one job, which refuses what does not fit together."""
        try:
            if isinstance(recipe, WeightRecipe):
                demand_weight_metrics(budgets.budgets, recipe.method)
            names = Costs.of(costs_for(self.file, network, device, budgets, self.metrics))
            if names.batch not in graphs:
                graphs[names.batch] = names.traced(loaded.module, data)
            inputs, graph = graphs[names.batch]
            costs = names.models(loaded.module, graph, budgets.budgets)
            job_of(loaded.module, graph, _few(data), [budgets.budgets], costs, inputs, recipe=recipe)
        except EccError as error:
            text = str(error)
            where = budgets.path if any(budget.metric in text for budget in budgets.budgets) else method.path
            of = f" on {device}" if device else ""
            self.mistakes.add(where, f"network {network.name}{of}, method {method.label}: {text}")

    def _refuse_unused(self, network: NetworkEntry, device: str) -> None:
        """Note cost files that no budget needs: their metric is not the one that the user thinks of."""
        wanted = {
            budget.metric
            for method in self.file.methods
            for budgets in self.file.budgets_of(network, method)
            for budget in budgets.budgets
        }
        for place, name in enumerate(network.devices[device]):
            metric = self.metrics.get(str(self.file.path_of(name)))
            if metric is not None and metric not in wanted:
                at = (*network.path, "costs", *([device] if device else []), place)
                self.mistakes.add(
                    at, f"the cost model of {metric} has no budget; give {metric}=LIMIT or leave the model out"
                )
