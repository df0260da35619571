"""Job: one constrained compression, from a dense network to a verified one.

The solver sees only cost models. What closes the loop is here: its widths are measured in turn with the dense network,
and moved until the upper end of the 95 % interval is inside the budget and the budget is used.
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

from ecc.api.analytic import exact_check
from ecc.api.constraints import floor_of
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.api.ruler import Ruler
from ecc.api.trials import AIM, SAFE, USED, Trial, best, exponent, share_used
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.problem import Batches, Checkpoint, Constraint, Problem, Progress, Solution, Solver, Status, Task
from ecc.core.verdict import BudgetCheck, Measured
from ecc.core.widths import Kept
from ecc.network.blocks import base_units
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.correction import adjust
from ecc.solvers.training import evaluate, recalibrate, train

__all__ = ["Job", "keeper_in"]

Keeper = Callable[[str], Checkpoint | None]


def keeper_in(folder: str | Path | None) -> Keeper:
    """Where each stage of a job keeps its state: a file of its name in the folder, or nowhere."""
    if folder is None:
        return lambda name: None
    place = Path(folder)
    return lambda name: FileCheckpoint(place / f"{name}.safetensors")


@dataclass(frozen=True, eq=False)
class Job:
    """One call of ``compress``.

    Attributes:
        model: The dense, trained network.
        base: Its width graph.
        graph: The same with the steps of the cost models; what the solver sees.
        limits: One constraint per budget, same order.
        inputs: The batch that is timed.
        test: Where the two accuracies are computed; the task's validation batches when None.
        network: Name for people.
        keeper: Where each stage keeps its state.
    """

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
        """Do what is left of the job."""
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
            compact, tuned, checks = self._finish(dense, solved, ruler, again=True)
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
        self, dense: nn.Module, solved: Solution, ruler: Ruler | str, *, again: bool = False
    ) -> tuple[nn.Module, pd.DataFrame, tuple[BudgetCheck, ...]]:
        """Slim, tune for the epochs that the solver has left, and verify."""
        compact = slim(solved.model, self.graph, solved.kept)
        spent = int((solved.history["epoch"] > 0).sum())
        tuned = self._tune(dense, compact, spent, self.keeper("tune-again" if again else "tune"))
        return compact, tuned, self._verify(ruler, compact, solved.widths)

    def _tightened(self, solved: Solution, checks: Sequence[BudgetCheck]) -> tuple[Constraint, ...]:
        """Limits below those at which the last measurement missed a budget."""
        result = []
        for limit, check in zip(self.limits, checks, strict=True):
            ceiling = solved.predicted[limit.cost.metric]
            if check.met is False and check.high is not None:
                ceiling *= AIM * check.limit / check.high
            result.append(self._scaled(limit, ceiling / limit.limit))
        return tuple(result)

    def _problem(self, model: nn.Module, limits: Sequence[Constraint]) -> Problem:
        graph, seed = self.graph, self.recipe.seed
        return Problem(model, graph.prunable, graph.space, self.task, tuple(limits), seed, self._floor)

    @property
    def _floor(self) -> dict[str, int]:
        """The fewest channels at which every cost model says something."""
        return floor_of(self.graph.space, [limit.cost for limit in self.limits])

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
        floor = self._floor
        limits = tuple((limit.cost.metric, limit.limit, float(limit.cost(floor))) for limit in self.limits)
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
        seen: list[Trial] = []
        for done in range(1, self.recipe.rounds + 1):
            seen.append(Trial(solved, self._over(ruler, solved, done)))
            if USED <= seen[-1].worst <= SAFE or done == self.recipe.rounds:
                break
            limits = self._corrected(seen)
            solved = self._again(dense, solved, limits)
            if any(dict(solved.widths) == dict(trial.solution.widths) for trial in seen):
                break
        return best(seen).solution, len(seen)

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
            budget.metric: share_used(budget, measured[budget.metric])
            for budget in self.budgets
            if budget.metric in measured
        }

    def _corrected(self, seen: Sequence[Trial]) -> tuple[Constraint, ...]:
        """Limits for the cost models at which the measured values should be just inside.

        The measured value is taken as a power of the predicted one: from the second round on with the exponent that the
        last two rounds show, because what a cost model misses may not scale with the widths.
        """
        result = []
        for limit in self.limits:
            metric = limit.cost.metric
            factor = 1.0
            if metric in seen[-1].over:
                share = AIM / seen[-1].over[metric]
                predicted = seen[-1].solution.predicted[metric]
                factor = predicted / limit.limit * share ** (1 / exponent(seen, metric))
            result.append(self._scaled(limit, factor))
        return tuple(result)

    def _scaled(self, limit: Constraint, factor: float) -> Constraint:
        """The limit times the factor, but no lower than the smallest network needs."""
        least = float(limit.cost(self._floor))
        return Constraint(limit.cost, max(limit.limit * factor, least))

    def _tune(self, dense: nn.Module, compact: nn.Module, spent: int, kept: Checkpoint | None) -> pd.DataFrame:
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
            checkpoint=kept,
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
            if limit.cost.exact:
                checks.append(exact_check(budget, limit.cost, self.graph, widths, compact))
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
