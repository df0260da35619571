r"""A Gaussian process over few hundred rows, robust against rows that are simply wrong.

The kernel is Matérn 5/2 with a length scale per input (Rasmussen & Williams, Gaussian Processes for Machine Learning,
2006, ch. 4), its parameters the maximum of the marginal likelihood (ch. 5) and of a weak prior. Rows that the others
contradict count less: each has the weight of a Student t likelihood at its leave-one-out residual (eq. 5.10–5.12),
found by turns with the parameters. Away from all rows the prediction is zero, and as uncertain as before any row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

__all__ = ["Process", "learn"]

Floats = NDArray[np.float64]

_MOST_LEARNING = 400  # rows that parameters are learnt from; all of them are conditioned on
_TURNS = 4
_STEPS, _LATER_STEPS = 50, 15
_FREEDOM = 2.0  # of the Student t
_JITTER = 1e-8
_MOST_STRETCH = 5.0
_RANGE = 4.0  # that the logarithm of a length may leave its prior by


@dataclass(frozen=True, eq=False)
class Process:
    """A posterior.

    Attributes:
        inputs: Of the rows, shape (n, d).
        target: Shape (n,).
        variance: Of each row's noise, nugget included, shape (n,).
        amplitude: Standard deviation of the function before any row.
        nugget: Standard deviation of what is peculiar to each input and no function of its neighbours.
        scale: One over the length of each input, 0 where it does not matter; shape (d,).
        stretch: What standard deviations are multiplied by so that leave-one-out residuals are as large as they say.
    """

    inputs: Tensor
    target: Tensor
    variance: Tensor
    amplitude: float
    nugget: float
    scale: Tensor
    stretch: float = 1.0

    @cached_property
    def _rows(self) -> Tensor:
        return self.inputs * self.scale

    @cached_property
    def _factor(self) -> Tensor:
        kernel = _matern(_squares(self._rows, self._rows), self.amplitude)
        factor: Tensor = torch.linalg.cholesky(kernel + torch.diag(self.variance + _JITTER))
        return factor

    @cached_property
    def _alpha(self) -> Tensor:
        return torch.cholesky_solve(self.target[:, None], self._factor)[:, 0]

    @property
    def sound(self) -> bool:
        """Whether its rows and parameters go together in numbers of 64 bits; a damaged one would fail when asked."""
        try:
            return bool(torch.isfinite(self._alpha).all())
        except RuntimeError:  # LinAlgError
            return False

    @property
    def left_out(self) -> Tensor:
        """What each row's target is above its prediction by all other rows, shape (n,)."""
        return self._alpha / torch.cholesky_inverse(self._factor).diagonal()

    def mean(self, inputs: Tensor) -> Tensor:
        """Of inputs of shape (m, d): shape (m,), differentiable."""
        return _matern(_squares(inputs * self.scale, self._rows), self.amplitude) @ self._alpha

    def covariance(self, inputs: Tensor) -> Tensor:
        """Of what is predicted at inputs of shape (m, d), their peculiarities left out: shape (m, m)."""
        points = inputs * self.scale
        cross = torch.linalg.solve_triangular(
            self._factor, _matern(_squares(self._rows, points), self.amplitude), upper=False
        )
        found: Tensor = self.stretch**2 * (_matern(_squares(points, points), self.amplitude) - cross.T @ cross)
        return found

    def spread(self, inputs: Tensor) -> Tensor:
        """Standard deviation of each prediction, its peculiarity included, shape (m,)."""
        points = inputs * self.scale
        cross = torch.linalg.solve_triangular(
            self._factor, _matern(_squares(self._rows, points), self.amplitude), upper=False
        )
        latent = (self.amplitude**2 - (cross * cross).sum(0)).clamp_min(0)
        found: Tensor = self.stretch * (latent + self.nugget**2).sqrt()
        return found


def learn(inputs: Tensor, target: Tensor, known: Tensor, *, seed: int = 0) -> Process:
    """The process of rows.

    Args:
        inputs: Shape (n, d).
        target: Shape (n,).
        known: Standard deviation of each target's own noise, shape (n,).
        seed: Of the choice of rows that parameters are learnt from, where there are many.
    """
    n, d = inputs.shape
    width = inputs.std(0, correction=0)
    alive = width > 1e-9
    unit = torch.where(alive, 1 / torch.where(alive, width, torch.ones_like(width)), torch.zeros_like(width))
    points, floor = inputs * unit, known**2
    chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(n)[:_MOST_LEARNING]))
    size = max(float(target.std(correction=0)), 0.01)
    usual = math.log(2 * math.sqrt(max(int(alive.sum()), 1)))
    start = np.concatenate([[math.log(size), math.log(0.3 * size)], np.full(d, usual)])
    weight = torch.ones(n, dtype=torch.float64)
    free = start
    for turn in range(_TURNS):
        some = (points[chosen], target[chosen], floor[chosen], weight[chosen])
        free = _maximise(*some, start, free, alive.numpy(), _LATER_STEPS if turn else _STEPS)
        process = _process(inputs, target, floor, weight, free, unit)
        weight = _weights(process)
    process = _process(inputs, target, floor, weight, free, unit)
    return Process(
        *(inputs, target, process.variance, process.amplitude, process.nugget, process.scale),
        stretch=_stretch(process),
    )


def _process(inputs: Tensor, target: Tensor, floor: Tensor, weight: Tensor, free: Floats, unit: Tensor) -> Process:
    amplitude, nugget = (float(np.exp(value)) for value in free[:2])
    scale = unit * torch.from_numpy(np.exp(-free[2:]))
    return Process(inputs, target, (floor + nugget**2) / weight, amplitude, nugget, scale)


def _weights(process: Process) -> Tensor:
    """Of each row: what a Student t likelihood gives its leave-one-out residual; 1 at most.

    Wrong rows widen the nugget, behind which they would then hide: it counts only as far as the median speaks for it.
    """
    residual, latent = _left_out(process)
    usual = 1.4826 * float(residual.abs().median())  # the standard deviation of a normal with that median
    z = residual**2 / (latent + min(process.nugget, usual) ** 2 + _JITTER)
    return ((_FREEDOM + 1) / (_FREEDOM + z)).clamp_max(1)


def _left_out(process: Process) -> tuple[Tensor, Tensor]:
    """Residual of each row as predicted by the others, and the variance of that prediction, noise left out."""
    inverse = torch.cholesky_inverse(process._factor).diagonal()
    return process.left_out, (1 / inverse - process.variance).clamp_min(0)


def _stretch(process: Process) -> float:
    """At least 1: what makes 95 % of residuals lie within 1.96 standard deviations, wrong rows included."""
    residual, latent = _left_out(process)
    z = residual / (latent + process.nugget**2 + _JITTER).sqrt()
    rank = min(math.ceil(0.95 * (len(z) + 1)), len(z))  # split conformal
    return float(np.clip(float(z.abs().sort().values[rank - 1]) / 1.96, 1.0, _MOST_STRETCH))


def _maximise(
    points: Tensor,
    target: Tensor,
    floor: Tensor,
    weight: Tensor,
    prior: Floats,
    free: Floats,
    alive: Floats,
    steps: int,
) -> Floats:
    """Logarithms of amplitude, nugget and lengths of most posterior density."""
    spread = np.concatenate([[2.0, 2.0], np.ones(points.shape[1])])  # of the prior
    bounds = [(-7.0, 3.0), (-7.0, 2.0)]
    bounds += [(p - _RANGE, p + _RANGE) if live else (p, p) for p, live in zip(prior[2:], alive, strict=True)]

    def loss(values: Floats) -> tuple[float, Floats]:
        theta = torch.from_numpy(values.copy()).requires_grad_()
        rows = points * torch.exp(-theta[2:])
        kernel = _matern(_squares(rows, rows), torch.exp(theta[0]))
        matrix = kernel + torch.diag((floor + torch.exp(2 * theta[1])) / weight + _JITTER)
        with torch.no_grad():
            factor = torch.linalg.cholesky(matrix)
            alpha = torch.cholesky_solve(target[:, None], factor)[:, 0]
            slope = 0.5 * (torch.cholesky_inverse(factor) - torch.outer(alpha, alpha))  # d loss / d matrix
            value = 0.5 * float(target @ alpha) + float(factor.diagonal().log().sum())
        (matrix * slope).sum().backward()  # type: ignore[no-untyped-call]
        away = (values - prior) / spread
        gradient = np.asarray(theta.grad, dtype=np.float64) + away / spread
        return value + 0.5 * float(away @ away), gradient

    found = optimize.minimize(loss, free, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x, dtype=np.float64)


def _squares(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances of points of shapes (m, d) and (n, d): shape (m, n)."""
    both = (left * left).sum(-1)[:, None] + (right * right).sum(-1) - 2 * left @ right.T
    return both.clamp_min(0)


def _matern(squares: Tensor, amplitude: float | Tensor) -> Tensor:
    """Matérn 5/2 of squared distances."""
    r = (5 * squares + 1e-12).sqrt()
    return amplitude**2 * (1 + r + r * r / 3) * torch.exp(-r)
