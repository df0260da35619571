"""compress: solve, slim, measure, correct, solve again until the measured budget holds; then tune and verify.

The solver sees only cost models. What closes the loop is here: its widths are measured in turn with the dense network,
and while the upper end of the 95 % interval is above a budget, the limit that the solver is given shrinks by as much.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecc.api.constraints import constraints_of, graph_of_costs
from ecc.api.recipe import Recipe
from ecc.api.ruler import Ruler
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Batches, Checkpoint, Constraint, Problem, Progress, Solution, Solver, Status, Task
from ecc.core.verdict import BudgetCheck, Measured
from ecc.core.widths import Kept
from ecc.energy_models.counting import COUNTED
from ecc.network.blocks import base_units
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.profiler.devices import current_device
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.correction import adjust
from ecc.solvers.training import evaluate, recalibrate, train

__all__ = ["Compression", "compress"]


@dataclass(frozen=True, eq=False)
class Compression:
    """A network that meets its budgets, and how it came about.

    Attributes:
        network: Name for people.
        dense: The dense network.
        model: The compact network, in eval mode.
        graph: Width graph of the dense network.
        kept: Unit indices kept per group.
        widths: Channels kept per group.
        recipe: How the job was run.
        budgets: One check per budget.
        costs: The cost models, one per budget.
        accuracy_dense: Score of the dense network on the test batches, in [0, 1] (validation where there are none).
        accuracy: The same of the compact network.
        nonzero_fraction: Parameters left, as a fraction of dense.
        rounds: How often widths were chosen.
        seconds: Wall time of this call.
        history: One row per epoch: phase, epoch, loss, score, costs relative to dense, duals.
        inputs: The batch that was timed (or the example that was traced).
    """

    network: str
    dense: nn.Module
    model: nn.Module
    graph: WidthGraph
    kept: Kept
    widths: Mapping[str, int]
    recipe: Recipe
    budgets: tuple[BudgetCheck, ...]
    costs: tuple[CostModel, ...]
    accuracy_dense: float
    accuracy: float
    nonzero_fraction: float
    rounds: int
    seconds: float
    history: pd.DataFrame
    inputs: Any

    @property
    def counts(self) -> dict[str, int]:
        """MACs of one example and parameters, of the compact and of the dense network."""
        macs, params = self.graph.macs, self.graph.params
        return {
            "macs": macs(self.widths),
            "params": params(self.widths),
            "macs_dense": macs(),
            "params_dense": params(),
        }

    @property
    def met(self) -> bool | None:
        """True when every budget holds, False when one does not, None when that could not be measured."""
        verdicts = [check.met for check in self.budgets]
        return False if False in verdicts else None if None in verdicts else True

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc compress --json``, without the artefact."""
        return {
            "method": self.recipe.method,
            "budgets": [check.to_json() for check in self.budgets],
            "accuracy_dense": self.accuracy_dense,
            "accuracy": self.accuracy,
            "widths": dict(self.widths),
            "nonzero_fraction": self.nonzero_fraction,
            "rounds": self.rounds,
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        checks = "; ".join(str(check) for check in self.budgets)
        return f"Compression({self.recipe.method}, accuracy {self.accuracy_dense:.4f} → {self.accuracy:.4f}; {checks})"


def compress(
    model: nn.Module,
    graph: WidthGraph,
    task: Task,
    budgets: Sequence[Budget],
    costs: Sequence[CostModel],
    inputs: Any,
    *,
    recipe: Recipe | None = None,
    test: Batches | None = None,
    network: str = "",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Compression:
    """Compress a trained network to its budgets; the model is left as it is.

    Args:
        graph: Width graph of the model; where a cost model was fitted to longer steps, those widths are used.
        inputs: The batch that is timed.
        recipe: How to run the job.
        test: Where the two accuracies are computed; the task's validation batches when None.
        network: Name for people; the class's by default.
        folder: Where the job's state is kept, so that the same call goes on after an interrupt; removed by the caller.
        progress: Told how far each stage is.
    Raises:
        InputError: If the input makes no sense, or a budget cannot be reached.
        UnavailableError: If the device to train on is not here.
        Interrupted: If the user pressed Ctrl-C; the state is in ``folder``.
    """
    plan = recipe or Recipe()
    if plan.device is not None:
        current_device(plan.device)  # refuse one that is not here before any work
    blocks = graph_of_costs(graph, model, costs)
    limits = constraints_of(blocks, budgets, costs)
    name = network or type(model).__name__
    job = _Job(model, graph, blocks, task, tuple(budgets), limits, inputs, plan, test, name, _keeper(folder), progress)
    return job.run()


Keeper = Callable[[str], Checkpoint | None]


def _keeper(folder: str | Path | None) -> Keeper:
    if folder is None:
        return lambda name: None
    place = Path(folder)
    return lambda name: FileCheckpoint(place / f"{name}.safetensors")


@dataclass(frozen=True, eq=False)
class _Job:
    """One call of ``compress``."""

    model: nn.Module
    base: WidthGraph
    graph: WidthGraph
    task: Task
    budgets: tuple[Budget, ...]
    limits: tuple[Constraint, ...]
    inputs: Any
    recipe: Recipe
    test: Batches | None
    network: str
    keeper: Keeper
    progress: Progress | None

    def run(self) -> Compression:
        started = time.monotonic()
        dense = copy.deepcopy(self.model).eval()
        if self.recipe.device is not None:
            dense.to(self.recipe.device)
        judged_on = self.test or self.task.validation
        accuracy_dense = evaluate(dense, judged_on, self.task.score)
        ruler = Ruler.of(dense, self.inputs, [limit.cost for limit in self.limits])
        solved, rounds = self._widths(dense, ruler)
        compact, tuned, checks = self._finish(dense, solved, ruler)
        if any(check.met is False for check in checks) and rounds < self.recipe.rounds:
            solved, rounds = self._again(dense, solved, self._tightened(solved, checks)), rounds + 1
            compact, tuned, checks = self._finish(dense, solved, ruler)
        accuracy = evaluate(compact, judged_on, self.task.score)
        return Compression(
            network=self.network,
            dense=dense,
            model=compact.eval(),
            graph=self.base,
            kept=base_units(self.graph, self.base, solved.kept),
            widths=solved.widths,
            recipe=self.recipe,
            budgets=checks,
            costs=tuple(limit.cost for limit in self.limits),
            accuracy_dense=accuracy_dense,
            accuracy=accuracy,
            nonzero_fraction=self.graph.params(solved.widths) / self.graph.params(),
            rounds=rounds,
            seconds=time.monotonic() - started,
            history=pd.concat([solved.history, tuned], ignore_index=True),
            inputs=self.inputs,
        )

    def _finish(
        self, dense: nn.Module, solved: Solution, ruler: Ruler | str
    ) -> tuple[nn.Module, pd.DataFrame, tuple[BudgetCheck, ...]]:
        """Slim, tune for the epochs that the solver has left, and verify."""
        compact = slim(solved.model, self.graph, solved.kept)
        tuned = self._tune(dense, compact, int((solved.history["epoch"] > 0).sum()))
        return compact, tuned, self._verify(ruler, compact, solved.widths)

    def _tightened(self, solved: Solution, checks: Sequence[BudgetCheck]) -> tuple[Constraint, ...]:
        """Limits below those at which the last measurement missed a budget."""
        result = []
        for limit, check in zip(self.limits, checks, strict=True):
            ceiling = solved.predicted[limit.cost.metric]
            if check.met is False and check.high is not None:
                ceiling *= _AIM * check.limit / check.high
            result.append(self._scaled(limit, ceiling / limit.limit))
        return tuple(result)

    def _problem(self, model: nn.Module, limits: Sequence[Constraint]) -> Problem:
        return Problem(model, self.graph.prunable, self.graph.space, self.task, tuple(limits), self.recipe.seed)

    def _widths(self, dense: nn.Module, ruler: Ruler | str) -> tuple[Solution, int]:
        """Choose widths, measure, correct; the solution and the number of rounds. What was saved is not done again."""
        job = self._identity(dense)
        state = self._saved("widths", job)
        if state is not None:
            return _restore(dense, state), int(state["rounds"])
        solved, rounds = self._choose(dense, ruler, job)
        self._save("widths", job, _state(solved) | {"rounds": rounds})
        return solved, rounds

    def _identity(self, dense: nn.Module) -> str:
        """What a saved state depends on."""
        weights = sum(float(parameter.detach().double().abs().sum()) for parameter in dense.parameters())
        smallest = self.graph.space.smallest
        limits = tuple((limit.cost.metric, limit.limit, float(limit.cost(smallest))) for limit in self.limits)
        return repr((self.recipe, self.graph.fingerprint, limits, weights))

    def _saved(self, name: str, job: str) -> dict[str, Any] | None:
        keeper = self.keeper(name)
        state = keeper.load() if keeper is not None else None
        return state if state is not None and state.get("job") == job else None

    def _save(self, name: str, job: str, state: Mapping[str, Any]) -> None:
        keeper = self.keeper(name)
        if keeper is not None:
            keeper.save({**state, "job": job})

    def _choose(self, dense: nn.Module, ruler: Ruler | str, job: str) -> tuple[Solution, int]:
        """Solve, then measure and correct until the budgets hold and are used; the best widths and the rounds taken."""
        limits = self.limits if isinstance(ruler, str) else self._scouted(dense, ruler, job)
        solved = self._solve(self.recipe.solver(), dense, limits, self.keeper("solve"))
        if isinstance(ruler, str):
            return solved, 1
        seen: list[_Trial] = []
        for done in range(1, self.recipe.rounds + 1):
            seen.append(_Trial(solved, self._over(ruler, solved, done)))
            if _USED <= seen[-1].worst <= _SAFE or done == self.recipe.rounds:
                break
            limits = self._corrected(seen)
            solved = self._again(dense, solved, limits)
            if any(dict(solved.widths) == dict(trial.solution.widths) for trial in seen):
                break
        return _best(seen).solution, len(seen)

    def _again(self, dense: nn.Module, solved: Solution, limits: Sequence[Constraint]) -> Solution:
        """Widths for corrected limits; a method that trains keeps what it has trained."""
        if self.recipe.solve_epochs > 0:
            return adjust(self._problem(dense, limits), solved)
        return self._solve(self.recipe.solver(), dense, limits, None)

    def _solve(
        self, solver: Solver, model: nn.Module, limits: Sequence[Constraint], kept: Checkpoint | None
    ) -> Solution:
        solved = solver.solve(self._problem(model, limits), progress=self.progress, checkpoint=kept)
        if solved.status is not Status.MET:
            raise InputError(f"method {solver.name}: {solved.status.value}")
        return solved

    def _scouted(self, dense: nn.Module, ruler: Ruler, job: str) -> tuple[Constraint, ...]:
        """The limits of ``_scout``; a resumed job has to solve for the same ones."""
        state = self._saved("scout", job)
        if state is not None:
            return tuple(
                replace(limit, limit=float(value)) for limit, value in zip(self.limits, state["limits"], strict=True)
            )
        limits = self._scout(dense, ruler)
        self._save("scout", job, {"limits": [limit.limit for limit in limits]})
        return limits

    def _scout(self, dense: nn.Module, ruler: Ruler) -> tuple[Constraint, ...]:
        """The limits, corrected by what the cost models get wrong near them: two cheap solutions are measured."""
        found = [scout.solve(self._problem(dense, self.limits)) for scout in (Uniform(), Magnitude())]
        networks = [slim(solution.model, self.graph, solution.kept, check=False) for solution in found]
        measured = ruler.measure(
            networks, seconds=self.recipe.measure_s / 2, progress=self._named("scout"), seed=self.recipe.seed
        )
        corrected = []
        for limit in self.limits:
            cost = limit.cost
            errors = [
                np.log(values[cost.metric].ratio * cost.dense / solution.predicted[cost.metric])
                for values, solution in zip(measured, found, strict=True)
                if cost.metric in values
            ]
            corrected.append(self._scaled(limit, 1 / float(np.exp(np.mean(errors))) if errors else 1.0))
        return tuple(corrected)

    def _over(self, ruler: Ruler, solved: Solution, done: int) -> dict[str, float]:
        """Upper end of the measured interval over the limit, per measured metric."""
        network = slim(solved.model, self.graph, solved.kept, check=False)
        progress = self._named(f"measure, round {done}")
        (measured,) = ruler.measure(
            [network], seconds=self.recipe.measure_s / 2, progress=progress, seed=self.recipe.seed + done
        )
        return {
            budget.metric: _share(budget, measured[budget.metric])
            for budget in self.budgets
            if budget.metric in measured
        }

    def _corrected(self, seen: Sequence[_Trial]) -> tuple[Constraint, ...]:
        """Limits for the cost models at which the measured values should be just inside.

        The measured value is taken as a power of the predicted one: from the second round on with the exponent that the
        last two rounds show, because what a cost model misses may not scale with the widths.
        """
        result = []
        for limit in self.limits:
            metric = limit.cost.metric
            factor = 1.0
            if metric in seen[-1].over:
                share = _AIM / seen[-1].over[metric]
                predicted = seen[-1].solution.predicted[metric]
                factor = predicted / limit.limit * share ** (1 / _exponent(seen, metric))
            result.append(self._scaled(limit, factor))
        return tuple(result)

    def _scaled(self, limit: Constraint, factor: float) -> Constraint:
        """The limit times the factor, but no lower than the smallest network needs."""
        least = float(limit.cost(self.graph.space.smallest))
        return Constraint(limit.cost, max(limit.limit * factor, least))

    def _tune(self, dense: nn.Module, compact: nn.Module, spent: int) -> pd.DataFrame:
        """Train the slim network, taught by the dense one, for the epochs that the solver has left."""
        recalibrate(compact, self.task.train)
        config = self.recipe.tuning(self.recipe.epochs - spent)
        return train(
            compact,
            self.task,
            config,
            teacher=dense,
            stage="tune",
            progress=self.progress,
            checkpoint=self.keeper("tune"),
        )

    def _verify(self, ruler: Ruler | str, compact: nn.Module, widths: Mapping[str, int]) -> tuple[BudgetCheck, ...]:
        measured: dict[str, Measured] = {}
        if isinstance(ruler, Ruler):
            (measured,) = ruler.measure(
                [compact], seconds=self.recipe.measure_s, progress=self._named("verify"), seed=self.recipe.seed
            )
        checks = []
        for budget, limit in zip(self.budgets, self.limits, strict=True):
            predicted = float(limit.cost(widths))
            if budget.metric in COUNTED:
                checks.append(BudgetCheck.of_count(budget, dense=limit.cost.dense, value=predicted))
            elif budget.metric in measured:
                checks.append(BudgetCheck.of_measurement(budget, measured[budget.metric], predicted=predicted))
            else:
                reason = ruler if isinstance(ruler, str) else f"no meter for {budget.metric}"
                checks.append(
                    BudgetCheck.unmeasured(budget, dense=limit.cost.dense, predicted=predicted, reason=reason)
                )
        return tuple(checks)

    def _named(self, stage: str) -> Progress | None:
        report = self.progress
        if report is None:
            return None
        return lambda _stage, done, total, note="": report(stage, done, total, note)


_AIM = 0.985  # where in the budget a correction aims: inside by about the width of the measured interval
_SAFE = 0.99  # two measurements of one network differ by up to that much
_USED = 0.95  # of a budget: below that, widths are given back


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Widths that were measured; per metric, the upper end of the interval over the limit."""

    solution: Solution
    over: Mapping[str, float]

    @property
    def worst(self) -> float:
        """Of all budgets."""
        return max(self.over.values())


def _best(seen: Sequence[_Trial]) -> _Trial:
    """The trial that uses most of its budget and holds it, or comes nearest to that."""
    inside = [trial for trial in seen if trial.worst <= _SAFE] or [trial for trial in seen if trial.worst <= 1]
    return max(inside, key=lambda trial: trial.worst) if inside else min(seen, key=lambda trial: trial.worst)


def _exponent(seen: Sequence[_Trial], metric: str) -> float:
    """d log measured / d log predicted of the last two trials, within bounds; 1 where there is one trial."""
    if len(seen) < 2:
        return 1.0
    before, now = seen[-2:]
    step = np.log(now.solution.predicted[metric] / before.solution.predicted[metric])
    if abs(step) < 1e-2:
        return 1.0
    return float(np.clip(np.log(now.over[metric] / before.over[metric]) / step, 0.3, 2.0))


def _share(budget: Budget, measured: Measured) -> float:
    """Upper end of the interval over the limit."""
    return measured.ratio_high / budget.limit if budget.relative else measured.value_high / budget.limit


def _state(solved: Solution) -> dict[str, Any]:
    return {
        "model": dict(solved.model.state_dict()),
        "kept": {name: torch.from_numpy(np.ascontiguousarray(units)) for name, units in solved.kept.items()},
        "widths": dict(solved.widths),
        "predicted": dict(solved.predicted),
        "history": solved.history.to_json(orient="split"),
    }


def _restore(dense: nn.Module, state: Mapping[str, Any]) -> Solution:
    model = copy.deepcopy(dense)
    model.load_state_dict(state["model"])
    kept: Kept = {name: np.asarray(units.numpy(), dtype=np.int64) for name, units in state["kept"].items()}
    history = pd.read_json(io.StringIO(state["history"]), orient="split")
    return Solution(model, kept, state["widths"], state["predicted"], Status.MET, history)
