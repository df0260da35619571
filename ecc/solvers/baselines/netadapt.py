"""NetAdapt: one group is narrowed at a time, the one whose narrowing costs least accuracy after a short training."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import Interrupted
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.core.rules import demand_rules
from ecc.solvers.baselines.one_shot import demand_floor
from ecc.solvers.baselines.proposals import Excess, propose
from ecc.solvers.baselines.short_training import Few, Hold, Judge, count_batches
from ecc.solvers.distributed import join
from ecc.solvers.evaluation import device_of, evaluate
from ecc.solvers.floors import floored_limits
from ecc.solvers.interrupts import deferred_interrupt
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.resuming import identity
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import TrainConfig, train

__all__ = ["NetAdapt"]

_LOG = logging.getLogger("ecc")


@dataclass(frozen=True, slots=True)
class NetAdapt:
    """Yang et al.: NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications, ECCV 2018.

    In each iteration the target comes nearer to the budget. For each group the largest width that reaches the target is
    proposed, with the units of largest L2 norm; each proposal is trained on a few batches, and the one that is most
    accurate on training batches held for that is accepted with its weights. Training the result afterwards is the
    caller's.

    All proposals together train for ``training.epochs`` passes over the data at most, the same as any other method,
    however many groups there are: an iteration's share of the batches is its share of what is saved, and each of its
    proposals gets as many. With less than one batch each, proposals are judged as they are, and the one that is
    accepted is trained.

    Attributes:
        training: How proposals are trained; ``seed`` is replaced by the problem's.
        iterations: Planned number; a proposal often saves more than is asked for, which makes them fewer.
        decay: Each iteration is asked for this part of what the one before was.
        held: Batches that proposals are judged on.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=10, lr=1e-3, schedule="constant", dropout=False)
    )
    iterations: int = 20
    decay: float = 0.96
    held: int = 4
    min_fraction: float = 0.1
    name: str = field(default="netadapt", init=False)

    def __post_init__(self) -> None:
        rules = {
            "iterations": (self.iterations >= 1, "must be at least 1"),
            "decay": (0 < self.decay <= 1, "must be in (0, 1]"),
            "held": (self.held >= 1, "must be at least 1"),
        }
        demand_rules(self, rules)
        demand_floor("NetAdapt", self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Find weights and widths; the problem's network stays as it is and teaches the proposals.

        Raises:
            InputError: If the budgets cannot be reached, or there are no training batches.
            Interrupted: If the user pressed Ctrl-C; the state after the last iteration is saved.
        """
        run = _Run(self, problem, floored_limits(problem, self.min_fraction), progress, checkpoint)
        try:
            with deferred_interrupt() as interrupted:
                run.execute(interrupted)
        except (KeyboardInterrupt, Interrupted):
            raise run.interrupted() from None
        ranking = Ranking([mask.double() for mask in run.alive])
        return solution(problem, run.model, run.limits, ranking, run.units, pd.DataFrame(run.rows))


class _Run:
    """One call of ``solve``; ``state`` is what a checkpoint holds."""

    def __init__(
        self,
        method: NetAdapt,
        problem: Problem,
        limits: Limits,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.method, self.problem, self.limits = method, problem, limits
        self.progress, self.checkpoint = progress, checkpoint
        self.config = replace(method.training, epochs=1, seed=problem.seed)
        self.ranks, device = join(method.training.device, device_of(problem.model))
        self.model = deepcopy(problem.model).to(device or device_of(problem.model))
        self.ranks.share(list(self.model.state_dict().values()))
        same = device_of(problem.model) == device_of(self.model)
        self.teacher = problem.model if same else deepcopy(problem.model).to(device_of(self.model))
        self.sparsity = Sparsity(self.model, problem.groups)
        self.units = limits.dense.clone()
        self.alive = [torch.ones(group.units, dtype=torch.bool) for group in problem.groups]
        self.excess = Excess(limits, self.units)
        self.judge = Judge(problem.task, method.held, problem.seed, device_of(self.model))
        self.batches = count_batches(problem.task.train)  # per epoch
        self.total = method.training.epochs * self.batches  # that may be trained on
        self.spent = 0
        self.iteration = 0
        self.rows: list[dict[str, Any]] = []
        self.key = self._identity() if checkpoint is not None else ""

    def execute(self, interrupted: Callable[[], bool]) -> None:
        """Iterate until the budgets are met, or nothing can be narrowed any more."""
        if not self._resumed():
            self._note(self._rated(), 0, 0.0)
        while float(self.excess(self.units)) > 0:
            proposals = propose(self.excess, self.units, self._target())
            if not proposals:
                return
            self._accept_best(proposals, interrupted)
            if self.checkpoint is not None and self.ranks.first:
                self.checkpoint.save(self.state())

    def _target(self) -> float:
        """The excess that this iteration is asked for: shares of all of it that fall by ``decay``."""
        shares = [self.method.decay**i for i in range(self.method.iterations)]
        asked = shares[min(self.iteration, len(shares) - 1)] / sum(shares) * float(self.excess(self.excess.start))
        return max(0.0, float(self.excess(self.units)) - asked)

    def _planned(self) -> int:
        """Batches that all proposals of this iteration are trained on: what is spent follows what is saved."""
        saved = 1 - self._target() / float(self.excess(self.excess.start))
        return max(0, int(self.total * saved) - self.spent)

    def _accept_best(self, proposals: list[tuple[int, int]], interrupted: Callable[[], bool]) -> None:
        """Try every proposal from the weights of now; keep weights and widths of the most accurate."""
        started, now = time.monotonic(), _snapshot(self.model)
        planned = self._planned()
        each = planned // len(proposals)
        best, masks, weights = (-math.inf, -math.inf), self.alive, now
        for number, (group, count) in enumerate(proposals):
            if self.ranks.total([interrupted()])[0]:
                raise KeyboardInterrupt
            self.model.load_state_dict(now)
            alive = self._narrowed(group, count)
            self._train(alive, each)
            rating = self._rated()
            if not number or rating > best:
                best, masks, weights = rating, alive, _snapshot(self.model)
            self._report(number + 1, len(proposals))
        self.alive = masks
        self.model.load_state_dict(weights)
        self.spent += each * len(proposals)
        if not each:
            self._train(self.alive, planned)
            self.spent += planned
        self.units = torch.tensor([float(mask.sum()) for mask in self.alive], dtype=torch.float64)
        self.iteration += 1
        self._note(best, len(proposals), time.monotonic() - started)

    def _rated(self) -> tuple[float, float]:
        """Score and minus the loss of the network as it is, as the first process finds them."""
        score, negative_loss = self.ranks.first_says(*self.judge(self.model))
        return score, negative_loss

    def _narrowed(self, group: int, count: int) -> list[Tensor]:
        """Masks in which the group keeps its ``count`` living units of largest L2 norm."""
        energy = self.sparsity.energies()[group].cpu().double()
        order = energy.masked_fill(~self.alive[group], -1).argsort(descending=True, stable=True)
        mask = torch.zeros_like(self.alive[group])
        mask[order[:count]] = True
        return [mask if number == group else kept for number, kept in enumerate(self.alive)]

    def _train(self, alive: list[Tensor], batches: int) -> None:
        """Zero the units that are not alive, and train on so many batches with them held at zero."""
        kept = {
            group.name: mask.nonzero().flatten().numpy() for group, mask in zip(self.problem.groups, alive, strict=True)
        }
        self.sparsity.zero(kept)
        if not batches:
            return
        seed = self.problem.seed + 1000 * (self.iteration + 1)  # all proposals see the same batches
        task = replace(
            self.problem.task, train=Few(self.problem.task.train, batches), validation=self.judge.batches[:1]
        )
        config = replace(self.config, seed=seed)
        train(self.model, task, config, teacher=self.teacher, hook=Hold(self.sparsity, kept), stage=self.method.name)

    def _note(self, rating: tuple[float, float], proposals: int, seconds: float) -> None:
        """Add a row to the history."""
        task = self.problem.task
        row = {"phase": self.method.name, "epoch": -(-self.spent // self.batches), "loss": -rating[1]}
        row |= {"score": evaluate(self.model, task.validation, task.score), "held_score": rating[0]}
        row |= self.limits.figures(self.units) | {"proposals": proposals, "seconds": seconds}
        self.rows.append(row)
        _LOG.debug("iteration %d: %s", self.iteration, row)

    def _report(self, done: int, of: int) -> None:
        if self.progress is None or not self.ranks.first:
            return
        whole, now = float(self.excess(self.excess.start)), float(self.excess(self.units))
        share = 1 - (now - (now - self._target()) * done / of) / whole
        note = f"iteration {self.iteration + 1}, proposal {done} of {of}, score {self.rows[-1]['score']:.4f}"
        self.progress(self.method.name, share, 1, note)

    def _identity(self) -> str:
        """Hash of what decides the result: weights, settings, constraints, data per epoch."""
        method = self.method
        settings = [method.training.identity, method.iterations, method.decay, method.held, self.problem.seed]
        limits = [self.limits.names, self.limits.limits.tolist(), self.limits.lowest.tolist()]
        return identity([*settings, *limits, self.batches, self.ranks.world], [self.model])

    def state(self) -> dict[str, Any]:
        """What is needed to go on after this iteration."""
        return {
            "key": self.key,
            "model": dict(self.model.state_dict()),
            "alive": self.alive,
            "units": self.units,
            "spent": self.spent,
            "iteration": self.iteration,
            "rows": self.rows,
        }

    def _resumed(self) -> bool:
        """Whether the checkpoint held a state of this run, which is then taken over."""
        state = self.ranks.told(self._kept_state)
        if not state:
            return False
        self.model.load_state_dict(state["model"])
        self.alive, self.units, self.rows = state["alive"], state["units"], state["rows"]
        self.spent, self.iteration = state["spent"], state["iteration"]
        _LOG.info("netadapt resumes after iteration %d", self.iteration)
        return True

    def _kept_state(self) -> dict[str, Any]:
        """The state of this run in the checkpoint; empty where there is none."""
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is not None and state.get("key") != self.key:
            _LOG.warning("the checkpoint of netadapt belongs to other weights or settings; starting anew")
            return {}
        return state or {}

    def interrupted(self) -> Interrupted:
        """What a user is told who pressed Ctrl-C."""
        where = f"netadapt was interrupted in iteration {self.iteration + 1}"
        if self.checkpoint is None:
            return Interrupted(f"{where}; nothing is kept, because no checkpoint was asked for")
        return Interrupted(f"{where}; the state before it is saved, and the same call goes on from there")


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
