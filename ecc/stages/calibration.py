r"""What coding one tensor costs in loss: measured, or by second order where that would take too many forwards.

Measured is the increase of the mean loss on calibration batches with only that tensor coded. The second order takes
:math:`\tfrac12 \sum_i F_i (\Delta w_i)^2` with the diagonal of the empirical Fisher information, the mean square of the
gradients; by itself right for small changes only, it is scaled to a few measured candidates of each tensor. Gains are
chance and count as no loss; of candidates that lose nothing the one of the least squared error is preferred. Without
data, squared errors relative to those of the tensor's weights are all that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.network.nesting import map_tensors
from ecc.stages.code import PackedCode, decode_node
from ecc.stages.nodes import Node
from ecc.stages.tuning import fitted

__all__ = ["Calibration", "Judging", "scaled"]

Judging = Literal["auto", "measured", "second-order"]
"""How losses are found; ``auto`` measures where that takes at most 500 forwards of a batch."""

_MOST_FORWARDS = 500
_TIE = 1e-3  # of the loss, that an error as large as the weights counts beside what is measured
_POINTS = 4  # candidates of each tensor that are measured where second order goes between
_CHUNK = 16  # examples whose gradients are squared together

Floats = NDArray[np.float64]


@dataclass(eq=False)
class Calibration:
    """Judges candidates of the tensors of one code.

    Attributes:
        code: With the tensors as they are.
        batches: Inputs and targets on the network's device; none without data.
        network: With the weights of the code; None without data.
        workshop: Of the data.
    """

    code: PackedCode
    batches: list[tuple[tuple[Any, ...], Tensor]] = field(default_factory=list)
    network: nn.Module | None = None
    workshop: Workshop | None = None

    @classmethod
    def of(cls, code: PackedCode, workshop: Workshop | None, *, examples: int) -> Calibration:
        """On the first training batches, of at least so many examples where there are as many.

        Raises:
            InputError: If the data yield no batch or the code is not of the workshop's network.
        """
        if workshop is None:
            return cls(code)
        network = fitted(workshop.model, code)
        device = next((each.device for each in network.parameters()), torch.device("cpu"))
        batches: list[tuple[tuple[Any, ...], Tensor]] = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(workshop.seed)
            for inputs, targets in islice(workshop.task.train, examples):
                several = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
                batches.append((map_tensors(lambda each: each.to(device), several), targets.to(device)))
                if sum(len(targets) for _, targets in batches) >= examples:
                    break
        if not batches:
            raise InputError("the training data yield no batch to calibrate on; give a loader that can be repeated")
        return cls(code, batches, network, workshop)

    def method(self, candidates: int, judging: Judging) -> str:
        """How so many candidates in all are judged: ``measured``, ``second-order`` or ``squared error``."""
        if self.network is None:
            return "squared error"
        if judging != "auto":
            return judging
        return "measured" if candidates * len(self.batches) <= _MOST_FORWARDS else "second-order"

    def losses(self, nodes: Mapping[str, Sequence[Node]], judging: Judging) -> dict[str, Floats]:
        """Increase of the loss with each candidate in the place of its tensor; by name, shape (candidates,)."""
        method = self.method(sum(map(len, nodes.values())), judging)
        weights = {name: decode_node(self.code.nodes[name]) for name in nodes}
        errors = {name: _relative_errors(weights[name], each) for name, each in nodes.items()}
        if method == "squared error":
            return errors
        base = self._loss()
        if not np.isfinite(base):
            raise InputError("the loss of the network on its training data is not finite; mend the network or the data")
        if method == "measured":
            found = {
                name: np.array([self._changed(name, node) - base for node in each]) for name, each in nodes.items()
            }
        else:
            found = self._by_second_order(nodes, weights, base)
        return {name: np.maximum(each, 0) + _TIE * abs(base) * errors[name] for name, each in found.items()}

    def _by_second_order(
        self, nodes: Mapping[str, Sequence[Node]], weights: Mapping[str, Tensor], base: float
    ) -> dict[str, Floats]:
        """The increases of the loss by curvature, scaled to a few that are measured."""
        curvature = self._fisher(list(nodes))
        found = {}
        for name, each in nodes.items():
            proxies = np.array(
                [
                    0.5 * float((curvature[name] * (decode_node(node) - weights[name]).double().square()).sum())
                    for node in each
                ]
            )
            order = np.argsort(proxies, kind="stable")
            places = order[np.unique(np.linspace(0, len(order) - 1, _POINTS).round().astype(int))]
            found[name] = scaled(proxies, places, np.array([self._changed(name, each[at]) - base for at in places]))
        return found

    def loss(self, code: PackedCode) -> float | None:
        """The calibration loss with all tensors of a code; None without data."""
        if self.network is None or self.workshop is None:
            return None
        kept, self.network = self.network, fitted(self.workshop.model, code)
        try:
            return self._loss()
        finally:
            self.network = kept

    def _loss(self) -> float:
        """Mean over the calibration examples."""
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs, targets in self.batches:
                total += self._of_batch(inputs, targets).item() * len(targets)
                count += len(targets)
        return total / count if np.isfinite(total) else float("inf")

    def _of_batch(self, inputs: tuple[Any, ...], targets: Tensor) -> Tensor:
        if self.network is None or self.workshop is None:
            raise InputError("there are no data to calibrate on")
        return self.workshop.task.loss(self.network(*inputs), targets)

    def _changed(self, name: str, node: Node) -> float:
        """The loss with one tensor as another node has it; a loss that is not finite counts as 10⁶."""
        place = self._tensor(name)
        kept = place.detach().clone()
        try:
            with torch.no_grad():
                place.copy_(decode_node(node))
            return min(self._loss(), 1e6)
        finally:
            with torch.no_grad():
                place.copy_(kept)

    def _tensor(self, name: str) -> Tensor:
        if self.network is None:
            raise InputError("there are no data to calibrate on")
        found: Tensor = self.network.state_dict()[name]
        return found

    def _fisher(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Mean square of the gradient of an example's loss, by name, float64; of a few examples together as of one."""
        if self.network is None:
            raise InputError("there are no data to calibrate on")
        parameters = dict(self.network.named_parameters(remove_duplicate=False))
        wanted = {name: parameters[name].requires_grad_() for name in names if name in parameters}
        sums = {name: torch.zeros(self._tensor(name).shape, dtype=torch.float64) for name in names}
        count = 0
        for inputs, targets in self.batches:
            for part, wanted_there in _chunks(inputs, targets):
                gradients = torch.autograd.grad(
                    self._of_batch(part, wanted_there), list(wanted.values()), allow_unused=True
                )
                count += 1
                for name, gradient in zip(wanted, gradients, strict=True):
                    if gradient is not None:
                        sums[name] += len(wanted_there) * gradient.detach().to_dense().double().cpu().square()
        return {name: total / count for name, total in sums.items()}


def _chunks(inputs: tuple[Any, ...], targets: Tensor) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """A few examples at a time, where all inputs have them along the first axis."""
    if not all(isinstance(each, Tensor) and each.ndim and len(each) == len(targets) for each in inputs):
        yield inputs, targets
        return
    splits = [torch.split(each, _CHUNK) for each in inputs]
    yield from zip(zip(*splits, strict=True), torch.split(targets, _CHUNK), strict=True)


def scaled(proxies: Floats, places: NDArray[np.int64], measured: Floats) -> Floats:
    """Losses of all candidates from a proxy of each and the measured losses of some.

    Between these the ratio of loss and proxy goes linearly in logarithms, beyond them it stays; what was measured is
    left as it is. Candidates that were measured to lose nothing say nothing of the ratio.

    Args:
        proxies: Shape (candidates,), 0 or more.
        places: Of the measured ones, rising in the proxy.
    """
    sound = (measured > 0) & (proxies[places] > 0)
    losses = proxies.copy()
    if sound.any():
        known = places[sound]
        ratio = np.log(measured[sound] / proxies[known])
        tiny = np.finfo(np.float64).tiny
        losses = proxies * np.exp(np.interp(np.log(np.maximum(proxies, tiny)), np.log(proxies[known]), ratio))
    losses[places] = measured
    return losses


def _relative_errors(weights: Tensor, nodes: Sequence[Node]) -> Floats:
    power = max(float(weights.double().square().sum()), np.finfo(np.float64).tiny)
    return np.array([float((decode_node(node) - weights).double().square().sum()) / power for node in nodes])
