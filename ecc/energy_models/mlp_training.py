"""Small neural networks, many at once: each learns what a simpler model leaves over, and stops where it no longer pays.

All networks have one hidden layer and read the same inputs, so that the first layer of all of them is one matrix. They
are trained on different rows (each leaves a part out) and with different weight decays; what they say of the rows that
they have not seen decides how long and with which decay to train, without any further data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DECAYS", "Networks", "Targets", "train"]

Floats = NDArray[np.float64]

DECAYS = (0.001, 0.01, 0.1)
"""Weight decays that are tried: weight of the mean square of a hidden unit's weights against the mean square error."""

_STEPS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 220, 300)  # of the optimiser, after which held-out error is seen
_PATIENCE = 3  # times the best number of steps so far, and 60 more, are tried before training ends
_BATCH = 512  # rows per step
_RATE, _MOMENTS = 0.02, (0.9, 0.99)  # of Adam (Kingma and Ba, 2015); the rate falls to zero along half a cosine


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """K networks of one hidden layer that read the same inputs.

    Attributes:
        into: Weights of the hidden units, shape (inputs, K, hidden).
        bias: Of the hidden units, shape (K, hidden).
        out: Weights of what the hidden units say, shape (K, hidden).
        shift: Added to it, shape (K,).
    """

    into: Tensor
    bias: Tensor
    out: Tensor
    shift: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """What each network says: shape (…, inputs) → (…, K)."""
        hidden = torch.tanh((inputs @ self.into.flatten(1)).reshape(*inputs.shape[:-1], *self.bias.shape) + self.bias)
        return (hidden * self.out).sum(-1) + self.shift

    @property
    def bound(self) -> float:
        """The largest size of what any of them can say, whatever the inputs."""
        return float((self.out.abs().sum(-1) + self.shift.abs()).max())

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All parameters."""
        return self.into, self.bias, self.out, self.shift

    def scaled(self, factor: float) -> Networks:
        """The same networks, what they say multiplied by a factor; float64."""
        into, bias, out, shift = (tensor.to(torch.float64) for tensor in self.tensors)
        return Networks(into, bias, out * factor, shift * factor)

    def take(self, first: int, last: int) -> Networks:
        """Some of them, copied."""
        return Networks(
            self.into[:, first:last].detach().clone(),
            *(tensor[first:last].detach().clone() for tensor in (self.bias, self.out, self.shift)),
        )

    @classmethod
    def random(cls, inputs: int, count: int, hidden: int, generator: torch.Generator) -> Networks:
        """Networks that say nothing yet: random hidden units, outputs of zero; float32."""
        into = torch.randn(inputs, count, hidden, generator=generator) / max(inputs, 1) ** 0.5
        bias = torch.randn(count, hidden, generator=generator) / 2
        return cls(into, bias, torch.zeros(count, hidden), torch.zeros(count))


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What networks are to learn, and from which rows.

    Attributes:
        inputs: Standardised, shape (n_rows, inputs).
        wanted: What each of the K members should say of each row, of about unit size, shape (n_rows, K).
        part: Number of the member that does not see the row, −1 where all do, shape (n_rows,).
        weights: How much each row counts, shape (n_rows,).
    """

    inputs: Floats
    wanted: Floats
    part: NDArray[np.int64]
    weights: Floats


def train(targets: Targets, *, hidden: int, seed: int) -> tuple[Networks, Floats]:
    """K networks after as many steps, and with that decay, as predict best the rows that they have not seen.

    The error of saying nothing is among those compared, because training starts from there.

    Returns:
        The networks, and what is said of each row by the one that has not seen it (0 where all have), shape (n_rows,).
    """
    with _one_thread():
        return _train(targets, hidden, torch.Generator().manual_seed(seed))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices are too small for several threads, and sums in another order would be other networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(targets: Targets, hidden: int, generator: torch.Generator) -> tuple[Networks, Floats]:
    rows, members = targets.wanted.shape
    seen = np.arange(members) != targets.part[:, None]
    inputs, wanted = _single(targets.inputs), _single(np.tile(targets.wanted, len(DECAYS)))
    counts = _single(np.tile(targets.weights[:, None] * seen, len(DECAYS)))
    unseen = _single(targets.weights[:, None] * ~seen)
    decay = torch.tensor(DECAYS).repeat_interleave(members)
    networks = Networks.random(inputs.shape[1], len(decay), hidden, generator)
    parameters = [tensor.requires_grad_() for tensor in networks.tensors]
    optimiser = torch.optim.Adam(parameters, lr=_RATE, betas=_MOMENTS, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS[-1])
    best, error, best_step, first = networks.take(0, members), torch.inf, 0, 0
    for step in range(_STEPS[-1] + 1):
        if step in _STEPS:
            with torch.no_grad():
                misses = ((networks(inputs) - wanted) ** 2).reshape(rows, len(DECAYS), members)
            errors = (misses * unseen[:, None]).sum((0, 2))
            first = int(errors.argmin())
            if errors[first] < error:
                error, best_step = float(errors[first]), step
                best = networks.take(first * members, (first + 1) * members)
            if step >= _PATIENCE * best_step + 60:
                break
        batch = slice(None) if rows <= _BATCH else torch.randint(rows, (_BATCH,), generator=generator)
        optimiser.zero_grad()
        loss = _loss(networks, inputs[batch], wanted[batch], counts[batch], decay)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        told = (best(inputs).numpy() * ~seen).sum(-1)
    return best, np.asarray(told, dtype=np.float64)


def _single(values: Floats) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _loss(networks: Networks, inputs: Tensor, wanted: Tensor, counts: Tensor, decay: Tensor) -> Tensor:
    """Sum over the networks of mean square error and decay, so that each has the gradient of its own."""
    misses = (counts * (networks(inputs) - wanted) ** 2).sum(0) / counts.sum(0).clamp_min(1e-12)
    size = networks.into.square().sum((0, 2)) + networks.out.square().sum(-1)
    return (misses + decay * size / networks.out.shape[1]).sum()
