"""Everything that a job file names is opened and fitted together before anything runs; every mistake keeps its line.

A mistake hides no other: what cannot be looked at because of one is passed over, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from ecc.api.analytic import SYSTOLIC_PREFIX
from ecc.api.compressing import job_of
from ecc.api.named import Costs, data_name
from ecc.api.stage_options import stages_of
from ecc.api.weight_costs import demand_weight_metrics
from ecc.api.weight_recipe import AnyRecipe, WeightRecipe, recipe_of
from ecc.core.errors import EccError, InputError
from ecc.core.problem import Task
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.energy_models.counting import COUNTED
from ecc.energy_models.loading import load_cost
from ecc.energy_models.systolic.array import SystolicArray
from ecc.network.graph import WidthGraph
from ecc.profiler.devices import current_device
from ecc.stages.methods import STAGES
from ecc.sweeps.entries import Mistakes
from ecc.sweeps.job_file import BudgetSet, Chain, JobFile, MethodEntry, NetworkEntry
from ecc.sweeps.lines import Path
from ecc.sweeps.plan import Plan, array_of, costs_for, data_of, model_of, plan_of
from ecc.zoo.loading import LoadedModel, load_model, load_weights

__all__ = ["checked"]

T = TypeVar("T")


def checked(file: JobFile) -> Plan:
    """The plan of a job file, once all that it names is there and fits together.

    Networks and data are loaded, every cost model is read, and each network, device, method and set of budgets is made
    a job of, which refuses budgets that cannot be reached; nothing is trained or measured.

    Args:
        file: As of ``draft_of``: what is wrong with its text is told with the rest.
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


def _named(text: str, names: Iterable[str]) -> str | None:
    """Which of these names a sentence names first; None where it names none."""
    found = [
        (match.start(), -len(name), name)
        for name in names
        if (match := re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text))
    ]
    return min(found)[2] if found else None


@dataclass(slots=True)
class _Review:
    """One look at all that a job file names.

    Attributes:
        metrics: Of each cost file that could be read, by its path.
        data: By name, folder and batch size.
        unread: Networks and devices of which a cost model could not be read.
        refused: Of each sentence about jobs, by where it stands and of which network: the methods that it is of.
    """

    file: JobFile
    metrics: dict[str, str] = field(default_factory=dict)
    data: dict[tuple[str, str], Data] = field(default_factory=dict)
    unread: set[tuple[Path, str]] = field(default_factory=set)
    refused: dict[tuple[Path, str, str], list[str]] = field(default_factory=dict)

    @property
    def mistakes(self) -> Mistakes:
        return self.file.mistakes

    def look(self) -> None:
        self._device()
        self._read_costs()
        recipes = [self._recipe(method) for method in self.file.methods]
        for chain in self.file.chains:
            self._stages(chain)
        for network in self.file.networks:
            self._network(network, recipes)
        for (where, of, text), methods in self.refused.items():
            word = "method" if len(methods) == 1 else "methods"
            self.mistakes.add(where, f"{of}, {word} {', '.join(methods)}: {text}")

    def _try(self, make: Callable[[], T], where: Path) -> T | None:
        """What ``make`` gives; None, and a mistake noted where it stands, if that is refused."""
        try:
            return make()
        except EccError as error:
            self.mistakes.add(where, str(error))
            return None

    def _try_options(
        self,
        make: Callable[[dict[str, Any]], T],
        options: Mapping[str, Any],
        where: Mapping[str, Path],
        path: Path,
    ) -> T | None:
        """What ``make`` gives of options, without those that it refuses, each of which is noted where it stands.

        None where it refuses something else; that is noted at ``where`` of the name in the sentence, or at ``path``.
        """
        left = dict(options)
        while True:
            try:
                return make(left)
            except EccError as error:
                name = _named(str(error), [*where, *left])
                self.mistakes.add(where.get(name or "", path), str(error))
                if name not in left:
                    return None
                del left[name]

    def _device(self) -> None:
        """Whether there can be such a device; one that is not here may be another machine's."""
        try:
            current_device(self.file.device or "cpu")
        except InputError as error:
            self.mistakes.add(("training", "device"), str(error))
        except EccError:
            pass

    def _read_costs(self) -> None:
        for network in self.file.networks:
            if self.mistakes.hold((*network.path, "costs")):
                self.unread |= {(network.path, device) for device in network.devices}
            for device, names in network.devices.items():
                for place, name in enumerate(names):
                    if self._try(partial(self._read_cost, name), _cost_path(network, device, place)) is None:
                        self.unread.add((network.path, device))

    def _read_cost(self, name: str) -> str:
        """Read a cost model; gives the metric of a file, and the array."""
        if name.startswith(SYSTOLIC_PREFIX):
            SystolicArray.parse(array_of(self.file, name))
            return name
        path = str(self.file.path_of(name))
        if path not in self.metrics:
            self.metrics[path] = load_cost(path).metric
        return self.metrics[path]

    def _recipe(self, method: MethodEntry) -> AnyRecipe | None:
        """The recipe of a method, without the options that it does not take."""
        if not method.method or any(self.mistakes.hold((*method.path, name)) for name in ("method", "then")):
            return None

        def make(options: dict[str, Any]) -> AnyRecipe:
            return recipe_of(method.method, then=method.then, options=options, **dict(method.settings))

        return self._try_options(make, method.options, method.where, method.path)

    def _stages(self, chain: Chain) -> None:
        unknown = [name for name in chain.apply if name not in STAGES]
        for name in unknown:
            self._try(partial(stages_of, [name]), chain.where[name])
        known = [name for name in chain.apply if name in STAGES]
        if not known:
            return
        options = {name: value for name, value in chain.options.items() if name.partition(".")[0] not in unknown}
        self._try_options(partial(stages_of, known), options, chain.where, chain.path)

    def _network(self, network: NetworkEntry, recipes: list[AnyRecipe | None]) -> None:
        """Load a network with its data, and make every job of it."""
        loaded = self._model(network)
        self._weights(network, loaded)
        data = self._data(network, loaded)
        if loaded is None or data is None:
            return
        for device in network.devices:
            graphs: dict[int, tuple[Any, WidthGraph]] = {}
            for method, recipe in zip(self.file.methods, recipes, strict=True):
                for budgets in self.file.budgets_of(network, method):
                    if recipe is not None and self._priced(network, device, budgets):
                        self._job(network, device, method, budgets, loaded, data, recipe, graphs)
            self._refuse_unused(network, device)

    def _priced(self, network: NetworkEntry, device: str, budgets: BudgetSet) -> bool:
        """Whether the cost models that budgets need could be read; what else is wrong cannot be told without."""
        if (network.path, device) not in self.unread:
            return True
        read = {self.metrics.get(str(self.file.path_of(name))) for name in network.devices[device]}
        return all(budget.metric in COUNTED or budget.metric in read for budget in budgets.budgets)

    def _model(self, network: NetworkEntry) -> LoadedModel | None:
        if not network.model or self.mistakes.hold((*network.path, "options")):
            return None

        def make(options: dict[str, Any]) -> LoadedModel:
            torch.manual_seed(network.seed)
            return load_model(model_of(self.file, network), options)

        where = {name: (*network.path, "options", name) for name in network.options}
        return self._try_options(make, network.options, where, (*network.path, "model"))

    def _weights(self, network: NetworkEntry, loaded: LoadedModel | None) -> None:
        """Whether the weights are those of the network; of one that cannot be made, whether they are there."""
        if not network.weights:
            return
        path, where = self.file.path_of(network.weights), (*network.path, "weights")
        if loaded is not None:
            self._try(partial(load_weights, loaded.module, path), where)
        elif not path.is_file():
            self.mistakes.add(where, f"weights {path}: there is no such file; give a .safetensors or .pt file")

    def _data(self, network: NetworkEntry, loaded: LoadedModel | None) -> Data | None:
        if not network.data:
            return None
        spec = data_of(self.file, network)
        name = spec if loaded is None else data_name(spec, loaded)
        folder = str(self.file.path_of(network.data_dir)) if network.data_dir else ""
        if (name, folder) in self.data:
            return self.data[name, folder]
        at = "data_dir" if folder and not self.file.path_of(folder).is_dir() else "data"
        read = partial(load_data, name, data_dir=folder or None, batch_size=self.file.batch_size, seed=network.seed)
        found = self._try(read, (*network.path, at))
        if found is not None:
            self.data[name, folder] = found
        return found

    def _job(
        self,
        network: NetworkEntry,
        device: str,
        method: MethodEntry,
        budgets: BudgetSet,
        loaded: LoadedModel,
        data: Data,
        recipe: AnyRecipe,
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
            of = f"network {network.name} on {device}" if device else f"network {network.name}"
            self.refused.setdefault((where, of, text), []).append(method.label)

    def _refuse_unused(self, network: NetworkEntry, device: str) -> None:
        """Note cost files that no budget needs: their metric is not the one that the user thinks of."""
        if any(self.mistakes.hold((*path, "budgets")) for path in self._holders(network)):
            return
        wanted = {
            budget.metric
            for method in self.file.methods
            for budgets in self.file.budgets_of(network, method)
            for budget in budgets.budgets
        }
        for place, name in enumerate(network.devices[device]):
            metric = self.metrics.get(str(self.file.path_of(name)))
            if metric is not None and metric not in wanted:
                self.mistakes.add(
                    _cost_path(network, device, place),
                    f"the cost model of {metric} has no budget; give {metric}=LIMIT or leave the model out",
                )

    def _holders(self, network: NetworkEntry) -> list[Path]:
        """The tables whose budgets a network may have to keep."""
        return [(), network.path, *(method.path for method in self.file.methods)]


def _cost_path(network: NetworkEntry, device: str, place: int) -> Path:
    return (*network.path, "costs", *([device] if device else []), place)
