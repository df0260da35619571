"""Job: constrained compressions of one network, from the dense one to verified ones.

The solver sees only cost models. What closes the loop is here: its widths are measured in turn with the dense network;
where the upper end of the 95 % interval is above the budget, or the budget is not used, the discrepancy of the cost
model is learnt from what was measured, and the widths are chosen anew.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any

import pandas as pd
from torch import nn

from ecc.api.analytic import exact_check
from ecc.api.bench import Bench, Keeper
from ecc.api.chance import deviations
from ecc.api.constraints import floor_of
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.api.ruler import Meters, Ruler
from ecc.api.targets import Target
from ecc.api.telling import found_by_first
from ecc.api.trials import AIM, SAFE, USED, WIDEST, Trial, best, corrected, table_of
from ecc.core.errors import InputError
from ecc.core.problem import Batches, Constraint, PathSolver, Problem, Progress, Solution, Solver, Status, Task
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.depth import cost_without, depth_of
from ecc.network.blocks import base_units
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.solvers.allocation import demand_reachable
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.correction import adjust
from ecc.solvers.depth import DepthLimits
from ecc.solvers.distributed import Ranks
from ecc.solvers.limits import Limits
from ecc.solvers.training import evaluate, recalibrate, train

__all__ = ["Job"]


@dataclass(frozen=True, eq=False)
class Job:
    """One call of ``compress``.

    Attributes:
        model: The dense, trained network.
        base: Its width graph.
        graph: The same with the steps of the cost models; what the solver sees.
        targets: What is to be reached, from loose to tight.
        inputs: The batch that is timed.
        test: Where the accuracies are computed; the task's validation batches when None.
        network: Name for people.
        keeper: Where each stage keeps its state.
        meters: Of the user's own.
        ranks: The processes that do the job together. All train, and take the same way; the first one alone measures,
            evaluates and chooses widths, and tells the others what it found.

    Raises:
        InputError: If a target cannot be reached, or the processes were given different jobs.
    """

    model: nn.Module
    base: WidthGraph
    graph: WidthGraph
    task: Task
    targets: tuple[Target, ...]
    inputs: Any
    recipe: Recipe
    test: Batches | None
    network: str
    keeper: Keeper
    progress: Progress | None
    meters: Meters = ()
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if not self.ranks.agree(self._given):
            raise InputError(
                "the processes of this job were given different networks, budgets, cost models or settings; give all "
                "of them the same, cost models from one file"
            )
        for target in self.targets:
            try:
                self._demand_reachable(target.constraints)
            except InputError as error:
                if self._floor == self.graph.space.smallest:
                    raise
                raise InputError(
                    f"{error}; widths below those that were profiled are not looked at: profile smaller ones, or fit "
                    "with --extrapolate (extrapolate=True)"
                ) from error

    def run(self) -> Iterator[Compression]:
        """Do what is left of the job: one result per target, in their order."""
        started = time.monotonic()
        dense = copy.deepcopy(self.model).eval()
        if self.recipe.device is not None:
            dense.to(self.recipe.device)
        accuracy = self._accuracy(dense)
        bench = self._bench(dense)
        scouts = self._scout(dense, bench)
        trials = list(chain.from_iterable(scouts))
        limits = [self._scouted(target, trials) if bench.works else target.constraints for target in self.targets]
        for target, own, solved in zip(self.targets, scouts, self._solve_all(dense, limits), strict=True):
            yield self._reach(_Pursuit(target, dense, bench, own, trials), solved, accuracy, started)
            started = time.monotonic()

    @property
    def _judged_on(self) -> Batches:
        return self.task.validation if self.test is None else self.test

    @property
    def _floor(self) -> dict[str, int]:
        """The fewest channels at which every cost model says something."""
        return floor_of(self.graph.space, [limit.cost for limit in self.targets[0].limits])

    def _problem(self, model: nn.Module, limits: Sequence[Constraint]) -> Problem:
        graph, seed = self.graph, self.recipe.seed
        depth = depth_of(graph, limits) if self.recipe.depth else None
        return Problem(model, graph.prunable, graph.space, self.task, tuple(limits), seed, self._floor, depth)

    def _demand_reachable(self, limits: Sequence[Constraint]) -> None:
        """Refuse limits that no widths meet, nor fewer blocks where these may go."""
        problem = self._problem(self.model, limits)
        demand_reachable(Limits(problem) if problem.depth is None else DepthLimits(problem))

    def _accuracy(self, model: nn.Module) -> float:
        told = self.ranks.told(lambda: {"score": evaluate(model, self._judged_on, self.task.score)})
        return float(told["score"])

    def _bench(self, dense: nn.Module) -> Bench:
        """Where networks are measured: in the first process."""
        rulers: list[Ruler | str] = []

        def find_reason() -> dict[str, str | None]:
            costs = [limit.cost for limit in self.targets[0].limits]
            rulers.append(Ruler.of(dense, self.inputs, costs, self.meters))
            return {"reason": rulers[0] if isinstance(rulers[0], str) else None}

        reason: str | None = self.ranks.told(find_reason)["reason"]
        ruler = rulers[0] if rulers else reason
        return Bench(ruler, self._identity(dense), self.keeper, self.recipe.seed, self.progress, self.ranks)

    @property
    def _given(self) -> str:
        """What must be the same in all processes; where each of them trains need not be."""
        settings = {name: value for name, value in self.recipe.settings.items() if name != "device"}
        limits = [
            (one.cost.metric, f"{one.limit:.9g}", f"{one.cost.dense:.9g}")
            for target in self.targets
            for one in target.limits
        ]
        return repr((settings, self.graph.fingerprint, limits, self._floor, self.keeper("solve") is not None))

    def _identity(self, dense: nn.Module) -> str:
        """What measurements and widths depend on."""
        weights = sum(float(parameter.detach().double().abs().sum()) for parameter in dense.parameters())
        limits = [(one.cost.metric, one.limit, one.cost.dense) for target in self.targets for one in target.limits]
        return repr((self.recipe.settings, self.graph.fingerprint, limits, self._floor, weights))

    # -- widths

    def _scout(self, dense: nn.Module, bench: Bench) -> list[list[Trial]]:
        """Cheap solutions near each target, measured: what the cost models get wrong there; one list per target."""
        if not bench.works:
            return [[] for _ in self.targets]
        found: list[Solution] = []
        ends = [0]
        for target in self.targets:
            for scout in (Uniform(), Magnitude()):
                with suppress(InputError):  # where costs do not rise with the widths, a plain method may find none
                    solve = partial(scout.solve, self._problem(dense, target.constraints))
                    found.append(found_by_first(self.ranks, dense, solve))
            ends.append(len(found))
        makers = [partial(slim, each.model, self.graph, each.kept, check=False) for each in found]
        seconds = self.recipe.measure_s / 2 * len(self.targets)
        trials = bench.measure("scout", makers, found, seconds=seconds) if found else []
        return [trials[start:end] for start, end in pairwise(ends)]

    def _scouted(self, target: Target, trials: Sequence[Trial]) -> tuple[Constraint, ...]:
        """Corrected limits before there are any widths; those of the target where these could not be met."""
        limits = self._corrected(target, trials, None)
        try:
            self._demand_reachable(limits)
        except InputError:
            return target.constraints
        return limits

    def _solve_all(self, dense: nn.Module, limits: Sequence[Sequence[Constraint]]) -> Iterator[Solution]:
        """One solution per target; a method that can goes on from each to the next."""
        solver = self.recipe.solver()
        if len(limits) > 1 and isinstance(solver, PathSolver):
            problem = self._problem(dense, limits[-1])
            found = solver.solve_path(problem, _falling(limits), progress=self.progress, keeper=self.keeper)
            yield from (_demand_met(solver, solved) for solved in found)
            return
        for target, each in zip(self.targets, limits, strict=True):
            yield self._solve(solver, dense, each, _stage(target, "solve"))

    def _solve(self, solver: Solver, dense: nn.Module, limits: Sequence[Constraint], stage: str) -> Solution:
        solve = partial(
            solver.solve, self._problem(dense, limits), progress=self.progress, checkpoint=self.keeper(stage)
        )
        return _demand_met(solver, solve() if self.recipe.trains else found_by_first(self.ranks, dense, solve))

    def _again(self, pursuit: _Pursuit, solved: Solution, limits: Sequence[Constraint], stage: str) -> Solution:
        """Widths for corrected limits, or the same ones where these cannot be met.

        A method that trains keeps what it has trained; another one chooses anew.
        """
        try:
            if self.recipe.trains:
                move = partial(adjust, self._problem(pursuit.dense, limits), solved)
                return found_by_first(self.ranks, pursuit.dense, move)
            return self._solve(self.recipe.solver(), pursuit.dense, limits, _stage(pursuit.target, stage))
        except InputError:
            return solved

    def _corrected(self, target: Target, trials: Sequence[Trial], around: Solution | None) -> tuple[Constraint, ...]:
        """Limits of the cost models at which the measured values should be just inside the budgets."""
        clear = deviations(self.recipe.chance)
        values = [
            corrected(limit, budget, trials, self.graph, deviations=clear, around=around)
            for budget, limit in zip(target.budgets, target.limits, strict=True)
        ]
        return tuple(map(self._held, target.limits, self.ranks.first_says(*values)))

    def _held(self, limit: Constraint, value: float) -> Constraint:
        """The limit at that value, but no lower than the smallest widths need, without the blocks that may go."""
        depth = depth_of(self.graph, [limit]).blocks if self.recipe.depth else {}
        least = min(float(cost_without(limit.cost, self.graph, depth)(self._floor)), limit.limit)
        return Constraint(limit.cost, max(value, least))

    # -- one target

    def _reach(self, pursuit: _Pursuit, solved: Solution, accuracy_dense: float, started: float) -> Compression:
        """Measure and correct, slim, tune, verify; once more where the last measurement missed."""
        target, earlier = pursuit.target, len(pursuit.trials)
        solved, rounds = self._search(pursuit, solved)
        compact, tuned, checks = self._finish(pursuit, solved, "")
        if any(check.met is False for check in checks) and rounds < self.recipe.rounds:
            tightened = self._again(pursuit, solved, self._tightened(pursuit, solved, checks), "solve again")
            if not _alike(tightened, solved):
                solved, rounds = tightened, rounds + 1
                compact, tuned, checks = self._finish(pursuit, solved, " again")
        return Compression(
            network=self.network,
            dense=pursuit.dense,
            model=compact.eval(),
            graph=self.base,
            kept=base_units(self.graph, self.base, solved.kept),
            widths=solved.widths,
            recipe=self.recipe,
            budgets=checks,
            costs=tuple(limit.cost for limit in target.limits),
            accuracy_dense=accuracy_dense,
            accuracy=self._accuracy(compact),
            nonzero_fraction=self.graph.params(solved.widths, removed=solved.removed) / self.graph.params(),
            rounds=rounds,
            seconds=time.monotonic() - started,
            history=pd.concat([solved.history, tuned], ignore_index=True),
            inputs=self.inputs,
            trials=table_of([*pursuit.scouts, *pursuit.trials[earlier:]], target.budgets, target.limits, self.graph),
            removed=solved.removed,
            label=target.label,
        )

    def _search(self, pursuit: _Pursuit, solved: Solution) -> tuple[Solution, int]:
        """Measure, then correct until the budgets hold and are used; the best widths and the rounds taken."""
        target, seen = pursuit.target, [solved]
        if not pursuit.bench.works:
            return solved, 1
        own: list[Trial] = []
        while True:
            name = f"round {len(own) + 1}"
            own.append(self._measured(pursuit, solved.model, solved, name, self.recipe.measure_s / 2))
            if USED <= own[-1].worst(target.budgets) <= SAFE or len(own) == self.recipe.rounds:
                break
            limits = self._corrected(target, pursuit.trials, solved)
            solved = self._again(pursuit, solved, limits, f"solve {len(own) + 1}")
            if any(_alike(solved, other) for other in seen):
                break
            seen.append(solved)
        return seen[best(own, target.budgets)], len(own)

    def _measured(self, pursuit: _Pursuit, model: nn.Module, solved: Solution, name: str, seconds: float) -> Trial:
        """A trial of the widths, which those to come may learn from."""
        compact = model is not solved.model
        cut = partial(slim, model, self.graph, solved.kept, remove=solved.removed, check=False)
        make = (lambda: model) if compact else cut
        (trial,) = pursuit.bench.measure(_stage(pursuit.target, name), [make], [solved], seconds=seconds)
        trial = replace(trial, name=name)
        pursuit.trials.append(trial)
        return trial

    def _tightened(self, pursuit: _Pursuit, solved: Solution, checks: Sequence[BudgetCheck]) -> tuple[Constraint, ...]:
        """Limits below those at which the last measurement missed a budget."""
        limits = self._corrected(pursuit.target, pursuit.trials, solved)
        result = []
        for limit, check in zip(limits, checks, strict=True):
            ceiling = float(cost_without(limit.cost, self.graph, solved.removed)(solved.widths))
            if check.met is False and check.high is not None and check.measured is not None:
                ceiling *= min(1.0, AIM * check.limit / min(check.high, check.measured * math.exp(WIDEST)))
            result.append(self._held(limit, min(limit.limit, ceiling)) if check.met is False else limit)
        return tuple(result)

    def _finish(
        self, pursuit: _Pursuit, solved: Solution, suffix: str
    ) -> tuple[nn.Module, pd.DataFrame, tuple[BudgetCheck, ...]]:
        """Slim, train for the epochs that the solver has left, taught by the dense network, and verify."""
        compact = slim(solved.model, self.graph, solved.kept, remove=solved.removed)
        recalibrate(compact, self.task.train)
        # Along a path a target's own part of the solver's epochs is only the end of those that its weights have had.
        spent = int(solved.history["epoch"].max()) if len(self.targets) == 1 else self.recipe.solve_epochs
        tuned = train(
            compact,
            self.task,
            self.recipe.tuning(self.recipe.epochs - spent),
            teacher=pursuit.dense,
            stage="-".join(part for part in ("tune", pursuit.target.label) if part),
            progress=self.progress,
            checkpoint=self.keeper(_stage(pursuit.target, f"tune{suffix}")),
        )
        trial = self._measured(pursuit, compact, solved, f"verify{suffix}", self.recipe.measure_s)
        return compact, tuned, self._checks(pursuit, trial, compact)

    def _checks(self, pursuit: _Pursuit, trial: Trial, compact: nn.Module) -> tuple[BudgetCheck, ...]:
        checks = []
        for budget, limit in zip(pursuit.target.budgets, pursuit.target.limits, strict=True):
            predicted = float(cost_without(limit.cost, self.graph, trial.removed)(trial.widths))
            if limit.cost.exact:
                checks.append(exact_check(budget, limit.cost, self.graph, trial.widths, compact, trial.removed))
            elif budget.metric in trial.measured:
                checks.append(BudgetCheck.of_measurement(budget, trial.measured[budget.metric], predicted=predicted))
            else:
                reason = pursuit.bench.reason or f"no meter for {budget.metric}"
                checks.append(
                    BudgetCheck.unmeasured(budget, dense=limit.cost.dense, predicted=predicted, reason=reason)
                )
        return tuple(checks)


@dataclass(frozen=True, slots=True, eq=False)
class _Pursuit:
    """What the steps towards one target share.

    Attributes:
        scouts: Trials near this target.
        trials: Of all targets so far; grows with every measurement.
    """

    target: Target
    dense: nn.Module
    bench: Bench
    scouts: Sequence[Trial]
    trials: list[Trial]


def _alike(one: Solution, other: Solution) -> bool:
    """Whether two solutions have the same widths and blocks."""
    return dict(one.widths) == dict(other.widths) and set(one.removed) == set(other.removed)


def _demand_met(solver: Solver, solved: Solution) -> Solution:
    if solved.status is not Status.MET:
        raise InputError(f"method {solver.name}: {solved.status.value}")
    return solved


def _falling(limits: Sequence[Sequence[Constraint]]) -> list[tuple[Constraint, ...]]:
    """Limits of which none rises on the way, as corrections may make them."""
    path = [tuple(limits[0])]
    for each in limits[1:]:
        path.append(
            tuple(replace(now, limit=min(now.limit, before.limit)) for now, before in zip(each, path[-1], strict=True))
        )
    return path


def _stage(target: Target, name: str) -> str:
    """Name of a stage of one target, unique in the job."""
    return "-".join(part for part in (target.label, *name.split()) if part)
