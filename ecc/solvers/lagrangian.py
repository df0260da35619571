r"""The augmented Lagrangian of ECC (CVPR 2019), its exact proximal step and its width step, without units.

.. math::
    L = l(W) + \sum_g \tfrac{\rho}{2}\,\mathrm{hinge}_g^2 + \sum_g y_g \frac{\varphi_g - s_g}{N_g}
        + \sum_q \tfrac{\rho}{2}[E_q(s) - B_q]_+^2 + \sum_q z_q (E_q(s) - B_q),
    \qquad \mathrm{hinge}_g = \Big[\frac{\varphi_g - s_g}{N_g}\Big]_+

Per group g: N units when dense, φ units whose weights are not zero, s the bound on them (continuous, in units), y its
dual.
Per constraint q: E the cost and B the limit, both relative to dense, z the dual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from ecc.solvers.limits import Limits

__all__ = ["CodeForm", "Form", "PaperForm", "ascend", "descend", "prices", "proximal_step", "width_gradient"]

_MARGIN = 1e-3  # how far the floor of z lifts the gradient of the cheapest group above zero
_LONGEST = 0.05  # change of a relative width in one stabilised step


class Form(Protocol):
    """How the quadratic part of the bound φ ≤ s enters the width step, and how y sees the bound."""

    @property
    def stabilised(self) -> bool:
        """Whether the width step has the public code's floor of z, its mask and its clip."""

    def pull(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """Derivative of the quadratic part by -s/N, over rho: shape (n_groups,)."""

    def slack(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """What y ascends along, shape (n_groups,)."""


@dataclass(frozen=True, slots=True)
class PaperForm:
    """As in the paper: the sum of squared hinges; y ascends along φ - s; s moves freely between its bounds."""

    stabilised: bool = field(default=False, init=False)

    def pull(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """Each group's own hinge."""
        return ((phi - s) / dense).clamp(min=0)

    def slack(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """(φ - s)/N."""
        return (phi - s) / dense


@dataclass(frozen=True, slots=True)
class CodeForm:
    """As in the public code: the square of the sum of hinges; y ascends along φ - floor(s); stabilisers of s and z."""

    stabilised: bool = field(default=True, init=False)

    def pull(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """The sum of all hinges, for every group whose hinge is open."""
        hinges = ((phi - s) / dense).clamp(min=0)
        return hinges.sum() * (hinges > 0)

    def slack(self, phi: Tensor, s: Tensor, dense: Tensor) -> Tensor:
        """(φ - floor(s))/N."""
        return (phi - s.floor()) / dense


def proximal_step(energy: Tensor, dense: Tensor, s: Tensor, y: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    r"""Units that the proximal step keeps, and the duals it caps.

    Per group it minimises over the kept set, exactly: the energy of the dropped units + :math:`\tfrac{\rho}{2}
    [(\varphi - s)/N]_+^2 + y \varphi / N`. The optimum is a prefix of the falling energies: the r-th unit stays
    while its energy is at least what keeping it adds. Before that y is capped so that at least floor(s) units stay.

    Args:
        energy: Unit energies Σ D·w²/(2α) in falling order, padded with 0, shape (n_groups, most units).
        dense: N, shape (n_groups,).
        s: Bounds in units, at least 1, shape (n_groups,).
        y: Duals, shape (n_groups,).

    Returns:
        φ (whole numbers) and the capped y.
    """
    rank = torch.arange(1, energy.shape[1] + 1, dtype=torch.float64)
    n, bound = dense[:, None], s[:, None]
    added = rho / 2 * (((rank - bound) / n).clamp(min=0).square() - ((rank - 1 - bound) / n).clamp(min=0).square())
    least = s.floor().long()
    cap = dense * (energy - added).gather(1, (least - 1)[:, None]).squeeze(1)
    y = torch.minimum(y, cap.clamp(min=0))
    stays = (energy >= added + y[:, None] / n) & (rank <= n)
    phi = stays.long().cumprod(1).sum(1)
    return torch.maximum(phi, least).double(), y


def width_gradient(pull: Tensor, y: Tensor, z: Tensor, slopes: Tensor, over: Tensor, rho: float) -> Tensor:
    """Derivative of the Lagrangian by the relative bounds s/N, shape (n_groups,).

    Args:
        pull: Of the form, shape (n_groups,).
        y: Duals of the groups, shape (n_groups,).
        z: Duals of the constraints, shape (n_constraints,).
        slopes: Derivatives of the relative costs by s/N, shape (n_constraints, n_groups).
        over: Violations [E - B]_+, shape (n_constraints,).
    """
    return -rho * pull - y + (rho * over + z) @ slopes


def ascend(dual: Tensor, slack: Tensor, rho: float) -> Tensor:
    """A dual after a step up its constraint: max(0, dual + rho·slack)."""
    return (dual + rho * slack).clamp(min=0)


def descend(
    s: Tensor, y: Tensor, z: Tensor, phi: Tensor, limits: Limits, current: Tensor, rho: float, form: Form
) -> tuple[Tensor, Tensor]:
    r"""The width step: s moves once down the gradient of the Lagrangian, within its bounds.

    The step size is :math:`1/(\rho(1 + \sum|\mathrm{slopes}|^2))`, the largest that is stable whatever the curvature of
    the quadratic part, so that there is none to be tuned. The code's form has the stabilisers of the public code,
    without units: z is lifted until at least one group's gradient is positive where a limit is violated, s only
    shrinks, and no relative width changes by more than 0.05 in a step.

    Args:
        s: Bounds in units, shape (n_groups,); ``y`` and ``phi`` likewise.
        z: Duals of the constraints, shape (n_constraints,).
        current: Relative limits of this step, shape (n_constraints,).

    Returns:
        New s and z.
    """
    costs, slopes = limits.slopes(s)
    over = (costs - current).clamp(min=0)
    free = s > limits.lowest
    slopes = _secants(s, costs, slopes, over, free, limits)
    pull = form.pull(phi, s, limits.dense)
    if form.stabilised:
        z = _lift(z, width_gradient(pull, y, torch.zeros_like(z), slopes, over, rho), slopes, over, free)
    gradient = width_gradient(pull, y, z, slopes, over, rho)
    move = gradient / (rho * (1 + slopes.square().sum()))
    if form.stabilised:
        move = move.clamp(min=0) * free
        move = move * (_LONGEST / move.max().clamp(min=_LONGEST))
    return torch.minimum(torch.maximum(s - move * limits.dense, limits.lowest), limits.dense), z


def _secants(s: Tensor, costs: Tensor, slopes: Tensor, over: Tensor, free: Tensor, limits: Limits) -> Tensor:
    """Slopes, but those of a violated constraint that no free group's slope lowers are taken over the whole way down.

    A stepped cost is flat within a step.
    """
    flat = (over > 0) & ~((slopes > 0) & free).any(1)
    if not bool(flat.any()) or not bool(free.any()):
        return slopes
    lowered = torch.where(torch.eye(len(s), dtype=torch.bool), limits.lowest, s)
    way = ((s - limits.lowest) / limits.dense).clamp(min=1e-12)
    secants = ((costs - limits.costs(lowered).detach()).T / way).clamp(min=0) * free
    return torch.where(flat[:, None], secants, slopes)


def _lift(z: Tensor, rest: Tensor, slopes: Tensor, over: Tensor, free: Tensor) -> Tensor:
    """Each violated constraint's dual, at least so large that one group that lowers it has a positive gradient."""
    z = z.clone()
    for q in range(len(z)):
        cheaper = free & (slopes[q] > 0)
        if over[q] <= 0 or not bool(cheaper.any()):
            continue
        others = rest + z @ slopes - z[q] * slopes[q]
        floor = ((-others).clamp(min=0) + _MARGIN)[cheaper] / slopes[q][cheaper]
        z[q] = torch.maximum(z[q], floor.min())
    return z


def prices(energy: Tensor, s: Tensor, limits: Limits) -> Tensor:
    r"""The duals z of widths that an allocation chose: what a relative cost is worth in energy.

    At an optimum the energy of the last unit that stays balances :math:`\sum_q z_q \partial E_q / \partial (s/N)` in
    every group between its bounds, and a constraint that leaves room for a unit has no price. The duals, of shape
    (n_constraints,), are the non-negative least-squares solution of that.

    Args:
        energy: Unit energies in falling order, padded with 0, shape (n_groups, most units).
        s: Units allocated, whole numbers, shape (n_groups,).
    """
    free = (s > limits.lowest) & (s < limits.dense)
    if not len(limits) or not bool(free.any()):
        return torch.zeros(len(limits), dtype=torch.float64)
    last = energy.gather(1, (s.long() - 1)[:, None]).squeeze(1) * limits.dense
    costs, slopes = limits.slopes(s)
    tight = costs + (slopes / limits.dense).amax(1) > limits.limits
    z = np.zeros(len(limits))
    if bool(tight.any()):
        z[tight.numpy()], _ = nnls(slopes[tight][:, free].T.numpy(), last[free].numpy())
    return torch.from_numpy(z)
