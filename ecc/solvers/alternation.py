"""The alternation of ADMM: what happens to units, bounds and duals behind each step of the optimiser."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ecc.core.problem import Problem
from ecc.solvers.allocation import allocate
from ecc.solvers.allocation.moving import Mover
from ecc.solvers.distributed import Ranks
from ecc.solvers.dormant import Dormant
from ecc.solvers.energies import Criterion, Energies
from ecc.solvers.lagrangian import CodeForm, Form, PaperForm, ascend, descend, prices, proximal_step
from ecc.solvers.limits import Limits, Ranking
from ecc.solvers.sensitivity import measure_curves
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import Step

__all__ = ["FORMS", "Alternation", "Rules"]

_LOG = logging.getLogger("ecc")
FORMS: Mapping[str, Form] = {"paper": PaperForm(), "code": CodeForm()}
_NODES = 50  # of the search for the widths to end at
_MOVES = 100  # falls of the limit within the continuation; each is one allocation


class Rules(Protocol):
    """Settings of the alternation; those of ``Admm``."""

    @property
    def rho(self) -> float:
        """Weight of the quadratic penalties and step of the duals."""

    @property
    def form(self) -> str:
        """A key of FORMS."""

    @property
    def allocates(self) -> bool:
        """Whether s is the allocation of the present energies; else it goes down the gradient."""

    @property
    def curves(self) -> str:
        """What an allocation loses: ``measured`` or ``importance``."""

    @property
    def importance(self) -> Criterion:
        """What energies are."""

    @property
    def continuation(self) -> float:
        """Part of the steps over which the limit falls."""

    @property
    def memory(self) -> float:
        """What is left of the weights of dropped units after each step."""


class Alternation:
    """The steps behind each optimiser step; a hook of ``train``.

    Args:
        rules: Settings.
        problem: Its groups lie in ``model``.
        limits: Costs, limits and bounds.
        model: The network in training, on its device.
        ranks: The processes that train it together; what units and bounds are, the first one says.

    Attributes:
        phi: Units that are not dropped, per group.
        s: Bounds on them, in units.
        y: Duals of φ ≤ s.
        z: Duals of the constraints; with an allocation its prices.
        current: The limits of the moment, relative to dense.
        target: Where measured curves say that s must end; None where energies say it on the way.
    """

    def __init__(
        self, rules: Rules, problem: Problem, limits: Limits, model: nn.Module, ranks: Ranks | None = None
    ) -> None:
        self.rules, self.form, self._ranks = rules, FORMS[rules.form], ranks or Ranks()
        self.sparsity = Sparsity(model, problem.groups)
        self._energies = Energies(self.sparsity, rules.importance)
        self._dormant = Dormant(self.sparsity, rules.memory)
        self.ranking = Ranking(self.sparsity.energies())
        self._curves: list[Tensor] | None = None
        if rules.allocates and rules.curves == "measured":
            self._curves = measure_curves(
                model, problem.groups, problem.task.train, self.ranking, limits.lowest, seed=problem.seed
            )
        self.phi = torch.maximum((self.ranking.sorted > 0).sum(1).double(), limits.lowest)
        self.s = self.phi.clone()
        self.y = torch.zeros_like(self.s)
        self.z = torch.zeros(len(limits), dtype=torch.float64)
        self.aim(limits)

    def aim(self, limits: Limits) -> None:
        """Go for these limits from where the units are now; duals stay."""
        self.limits = limits
        self.target: Tensor | None = None
        if self._curves is not None:
            found = allocate(self._curves, limits, seconds=math.inf, nodes=_NODES)  # no clock: resumed runs agree
            (self.target,) = self._said(found.units)
        self.start = limits.costs(self.phi).detach()
        self.current = torch.maximum(self.start, limits.limits)

    @property
    def key(self) -> str:
        """Settings, constraints and the place to start from."""
        rules = self.rules
        settings = [rules.rho, rules.form, rules.allocates, rules.curves]
        settings += [rules.importance, rules.continuation, rules.memory]
        place = [*self.start.tolist(), *self.y.tolist(), *self.z.tolist()]
        return json.dumps(
            [*settings, self.limits.names, self.limits.limits.tolist(), self.limits.lowest.tolist(), place]
        )

    @torch.no_grad()
    def after_step(self, step: Step) -> bool:
        """Proximal step, width step, dual ascent; True when the budget is met or the steps are over."""
        self._dormant.wake()
        ranking = Ranking(self._energies(step.optimizer, step.rate))
        scale = float(ranking.sorted.sum(1).mean())
        if not 0 < scale < float("inf"):
            return False  # the training loop finds the NaN and says so
        self.ranking = ranking
        energy, rho, dense = ranking.sorted / scale, self.rules.rho, self.limits.dense
        self.phi, self.y = self._said(*proximal_step(energy, dense, self.s, self.y, rho))
        if bool(self.limits.met(self.phi)) or step.index + 1 == step.total:
            self.phi = self.final()
            self._dormant.silence(ranking.flags(self.phi))
            return True
        self._dormant.silence(ranking.flags(self.phi))
        moved = self._fall(step)
        if not self.rules.allocates:
            self.s, self.z = descend(self.s, self.y, self.z, self.phi, self.limits, self.current, rho, self.form)
            self.z = ascend(self.z, self.limits.costs(self.s) - self.current, rho)
        elif moved:
            (self.s,) = self._said(self._allocated(self.s, self.limits.at(self.current, self.target)))
            self.z = prices(self._worth(energy), self.s, self.limits.at(self.current))
        self.y = ascend(self.y, self.form.slack(self.phi, self.s, dense), rho)
        return False

    def _fall(self, step: Step) -> bool:
        """Lower the limits of the moment, at one pace until they are the budget's; whether they moved."""
        done = min(1.0, (step.index + 1) / max(1.0, self.rules.continuation * step.total))
        if self.rules.allocates:
            done = int(done * _MOVES) / _MOVES
        before = self.current
        self.current = torch.maximum(self.start * (1 - done), self.limits.limits)
        return not torch.equal(before, self.current)

    @torch.no_grad()
    def final(self) -> Tensor:
        """The units kept: within the limits, and one unit more anywhere would not be."""
        if not bool(self.limits.met(self.phi)):
            _LOG.info("the steps ended before the budget was met; the units of least energy per cost go")
        self.ranking = Ranking(self._said(*self.ranking.importance))
        units = self._allocated(self.phi, self.limits) if self.target is None else self.target
        (units,) = self._said(self.ranking.grow(units, self.limits))
        return units

    def _said(self, *vectors: Tensor) -> list[Tensor]:
        """The vectors as the first process holds them, so that all processes take one way."""
        if self._ranks.world == 1:
            return list(vectors)
        values = torch.tensor(self._ranks.first_says(*torch.cat(vectors).tolist()), dtype=torch.float64)
        return list(torch.split(values, [len(vector) for vector in vectors]))

    def _allocated(self, start: Tensor, limits: Limits) -> Tensor:
        """The units, near ``start`` and not below the limits' lowest, that meet the limits and lose least.

        No clock has a say in it unless there is no way from the start, so that an interrupted run goes on to the same
        units.
        """
        curves = self._curves or self.ranking.curves()
        found = Mover([curve.numpy() for curve in curves], limits, math.inf).best(
            torch.maximum(start.floor(), limits.lowest)
        )
        return allocate(curves, limits).units if found is None else found[0]

    def _worth(self, energy: Tensor) -> Tensor:
        """What each unit that an allocation keeps saves it, shape (n_groups, most units), of mean sum 1 per group."""
        if self._curves is None:
            return energy
        saved = torch.nn.utils.rnn.pad_sequence([-curve.diff() for curve in self._curves], batch_first=True)
        return saved / saved.sum(1).mean().clamp(min=torch.finfo(saved.dtype).tiny)

    def figures(self) -> dict[str, float]:
        """Relative costs, worst violation and duals."""
        duals = {f"z_{name}": value for name, value in zip(self.limits.names, self.z.tolist(), strict=True)}
        return self.limits.figures(self.phi) | duals

    def state(self) -> dict[str, Any]:
        """Bounds, duals, units, energies and the weights of dropped units."""
        vectors = {"s": self.s, "y": self.y, "z": self.z, "phi": self.phi, "current": self.current}
        return vectors | {
            "ranked": self.ranking.importance,
            "energies": self._energies.state(),
            "dormant": self._dormant.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self.s, self.y, self.z, self.phi = state["s"], state["y"], state["z"], state["phi"]
        self.current, self.ranking = state["current"], Ranking(state["ranked"])
        self._energies.restore(state["energies"])
        self._dormant.restore(state["dormant"])
