"""ECC: weights and widths together, by ADMM with Adam, under any number of cost constraints.

Yang, Zhu, Liu: ECC: Platform-Independent Energy-Constrained Deep Neural Network Compression via a Bilinear Regression
Model, CVPR 2019.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.lagrangian import CodeForm, Form, PaperForm, ascend, descend_widths, proximal_step
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import Step, TrainConfig, train

__all__ = ["Admm"]

_LOG = logging.getLogger("ecc")
_FORMS: Mapping[str, Form] = {"paper": PaperForm(), "code": CodeForm()}


@dataclass(frozen=True, slots=True)
class Admm:
    """ECC's alternating steps, in the order of the paper, after every mini-batch.

    1. a step of the optimiser on the loss, distilled from the dense network;
    2. the proximal step: per group the units of least energy Σ D·w²/(2α) go, D = sqrt(v) + eps of Adam (1 for SGD);
    3. the width step on the bounds s, down the gradient of the Lagrangian, with the duals z of the constraints;
    4. ascent of the duals y (φ ≤ s, per group) and z (cost ≤ limit, per constraint).

    It ends as soon as the costs of the units that are left meet every limit, and then spends what is left of the budget
    on the dropped units that matter most. Training the slim network afterwards is the caller's.

    It differs from the publication where that depends on units or on long runs:

    - costs and widths are relative to dense, energies relative to the network's mean energy of a group at each step, so
      that ``rho`` means the same for every network, device and learning rate;
    - the limit falls linearly from the dense cost to the budget over the first part of the steps (``continuation``), so
      that channels go at the pace that the run allows and the duals can follow;
    - s moves until the limit of the moment is met, instead of by a step size that would have to be tuned;
    - if the steps are over before the budget is met, the units of least energy per cost go at once.

    Attributes:
        training: How the weights are trained; ``seed`` is replaced by the problem's.
        rho: Weight of the quadratic penalties and step of the duals; results hardly depend on it from 1 to 100.
        form: ``paper``, or ``code`` for what the public code does: the square of the sum of hinges, and floor(s) in the
            ascent of y.
        continuation: Part of the steps over which the limit falls to the budget; 0 sets the budget from the start.
        min_fraction: Least fraction of every group's units that is kept, so that no layer is emptied for the sake of
            others (ECC's energies favour that in narrow layers); halved until the budget can be reached, and one unit
            always is kept.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=10, lr=1e-3, schedule="constant", dropout=False)
    )
    rho: float = 10.0
    form: Literal["paper", "code"] = "paper"
    continuation: float = 0.7
    min_fraction: float = 0.1
    name: str = field(default="admm", init=False)

    def __post_init__(self) -> None:
        rules = {
            "rho": (0 < self.rho < float("inf"), "must be positive"),
            "form": (self.form in _FORMS, "must be paper or code"),
            "continuation": (0 <= self.continuation <= 1, "must be in [0, 1]"),
            "min_fraction": (0 <= self.min_fraction <= 1, "must be in [0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InputError(f"Admm({name}=...) {rule}, got {getattr(self, name)!r}")

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Find weights and widths; the problem's network stays as it is and teaches the copy.

        Raises:
            InputError: If the smallest widths exceed a limit; the message says what is reachable.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        limits = _limits(problem, self.min_fraction)
        model = copy.deepcopy(problem.model)
        model.to(self.training.device)  # before slices are compiled: buffers are other tensors after a move
        hook = _Alternation(self, problem, limits, model)
        history = train(
            model,
            problem.task,
            replace(self.training, seed=problem.seed),
            teacher=problem.model,
            hook=hook,
            stage=self.name,
            progress=progress,
            checkpoint=checkpoint,
        )
        ranking, units = hook.final()
        return solution(problem, model, limits, ranking, units, history)


def _limits(problem: Problem, min_fraction: float) -> Limits:
    """The limits with the largest floor, of ``min_fraction`` and its halves, at which they can be met."""
    while min_fraction * max(group.units for group in problem.groups) > 1:
        try:
            return Limits(problem, min_fraction)
        except InputError:
            min_fraction /= 2
    return Limits(problem)


class _Alternation:
    """The steps behind each optimiser step; a hook of ``train``."""

    def __init__(self, method: Admm, problem: Problem, limits: Limits, model: nn.Module) -> None:
        self.method, self.limits, self.form = method, limits, _FORMS[method.form]
        self.sparsity = Sparsity(model, problem.groups)
        plain = self.sparsity.energies()
        alive = torch.tensor([int((values > 0).sum()) for values in plain], dtype=torch.float64)
        self.phi = torch.maximum(alive, limits.lowest)
        self.s = self.phi.clone()
        self.y = torch.zeros_like(self.s)
        self.z = torch.zeros(len(limits), dtype=torch.float64)
        self.start = limits.costs(self.phi).detach()
        self.energies = plain  # of the last step, before units were silenced

    @property
    def key(self) -> str:
        """Settings and constraints."""
        method = self.method
        settings = [method.rho, method.form, method.continuation, method.min_fraction]
        return json.dumps([*settings, self.limits.names, self.limits.limits.tolist(), self.start.tolist()])

    @torch.no_grad()
    def after_step(self, step: Step) -> bool:
        """Proximal step, width step, dual ascent; True when the budget is met or the steps are over."""
        energies = self.sparsity.energies(_curvature(step.optimizer, self.sparsity.weights))
        ranking = Ranking([values / (2 * step.rate) for values in energies])
        scale = float(ranking.sorted.sum(1).mean())
        if not 0 < scale < float("inf"):
            return False  # the training loop finds the NaN and says so
        self.energies = energies
        energy, rho, dense = ranking.sorted / scale, self.method.rho, self.limits.dense
        self.phi, self.y = proximal_step(energy, dense, self.s, self.y, rho)
        if bool(self.limits.met(self.phi)) or step.index + 1 == step.total:
            ranking, self.phi = self.final()
            self.sparsity.silence(ranking.masks(self.phi))
            return True
        self.sparsity.silence(ranking.masks(self.phi))
        done = min(1.0, (step.index + 1) / max(1.0, self.method.continuation * step.total))
        current = torch.lerp(torch.maximum(self.start, self.limits.limits), self.limits.limits, done)
        self.s, self.z = descend_widths(self.s, self.z, self.y, self.phi, self.limits, current, rho, self.form)
        self.z = ascend(self.z, self.limits.costs(self.s) - current, rho)
        self.y = ascend(self.y, self.form.slack(self.phi, self.s, dense), rho)
        return False

    @torch.no_grad()
    def final(self) -> tuple[Ranking, Tensor]:
        """The ranking and the units kept: within the limits, and one unit more anywhere would not be."""
        ranking = Ranking(self.energies)
        if not bool(self.limits.met(self.phi)):
            _LOG.info("the steps ended before the budget was met; the units of least energy per cost go")
        return ranking, ranking.grow(ranking.shrink(self.phi, self.limits), self.limits)

    def figures(self) -> dict[str, float]:
        """Relative costs, worst violation and duals."""
        duals = {f"z_{name}": value for name, value in zip(self.limits.names, self.z.tolist(), strict=True)}
        return self.limits.figures(self.phi) | duals

    def state(self) -> dict[str, Any]:
        """Bounds, duals, units and energies."""
        return {"s": self.s, "y": self.y, "z": self.z, "phi": self.phi, "energies": list(self.energies)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self.s, self.y, self.z, self.phi = state["s"], state["y"], state["z"], state["phi"]
        self.energies = state["energies"]


def _curvature(optimizer: torch.optim.Optimizer, weights: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """D = sqrt(v) + eps of the weights, v Adam's second moment without its bias; empty for an optimiser without one."""
    wanted = set(weights)
    scale: dict[Tensor, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in wanted.intersection(group["params"]):
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                unbiased = 1 - group["betas"][1] ** float(state["step"])
                scale[parameter] = (state["exp_avg_sq"] / unbiased).sqrt() + group["eps"]
    return scale
