"""Input masks in training: which inputs of layers are worth what they cost, by their gradients.

A mask entry is a parameter like another, with a price: what fetching its input costs. Its score is the mean square of
the loss's gradient by it, the (diagonal, empirical) Fisher information, which is what dropping a kept input costs and
what bringing a dropped one back gains, to second order. Entries are kept by score per price.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Batches
from ecc.core.weights import Masks, WeightConstraint, WeightProblem
from ecc.network.input_masks import maskable, masked_inputs
from ecc.network.unread import influence
from ecc.solvers.evaluation import device_of, eval_mode, forward, moved
from ecc.solvers.weights.limits import WeightLimits

__all__ = ["InputMasks", "first_inputs", "least_spent", "limits_of", "masked_layers", "without_influence"]

_DECAY = 0.98  # of the means, per step
_TRIES = 20  # of meeting a limit whose prices do not quite add up
_SLACK = 1e-12  # by which sums in another order differ, relative to dense
_ROUNDING = 1e-5  # outputs that differ by less, relative to the largest, are the same


class InputMasks:
    """The masks of a network in training, in [0, 1], with the scores of their entries.

    Args:
        constraints: Whose constants the masks bring down.
        masks: Where to start; entries that are 0 stay so.
        device: Of the network.

    Attributes:
        values: By layer, for ``masked_inputs``; parameters that an optimiser may train.
    """

    def __init__(self, constraints: Sequence[WeightConstraint], masks: Masks, device: torch.device) -> None:
        self._costs = [constraint.cost for constraint in constraints]
        self._allowed = {name: (mask != 0).cpu() for name, mask in masks.items()}
        self.values = {name: nn.Parameter(kept.to(device, torch.float32)) for name, kept in self._allowed.items()}
        self._scores = {name: torch.zeros_like(mask, requires_grad=False) for name, mask in self.values.items()}

    @property
    def masks(self) -> dict[str, Tensor]:
        """The entries as they are."""
        return {name: mask.detach().clone() for name, mask in self.values.items()}

    @property
    def key(self) -> str:
        """Text that identifies the entries that may be kept."""
        digest = hashlib.sha256()
        for name, kept in self._allowed.items():
            digest.update(f"{name}{tuple(kept.shape)}".encode() + kept.numpy().tobytes())
        return digest.hexdigest()

    @property
    def kept(self) -> float:
        """Share of all entries."""
        entries = sum(mask.numel() for mask in self.values.values())
        return sum(float(mask.detach().sum()) for mask in self.values.values()) / max(entries, 1)

    def constants(self) -> list[float]:
        """Per constraint, what is spent without any weight."""
        return [cost.prices(self.masks).constant for cost in self._costs]

    @torch.no_grad()
    def note(self) -> None:
        """Take the gradients of the step that was just made into the scores."""
        for name, mask in self.values.items():
            if mask.grad is not None:
                squares = torch.where(mask.grad.isfinite(), mask.grad.square(), 0.0)  # loss scaling may overflow
                self._scores[name].lerp_(squares, 1 - _DECAY)
                mask.grad = None

    @torch.no_grad()
    def keep(self, limits: Sequence[float], *, revive: bool = True) -> None:
        """Keep the entries of the highest scores per price whose constants stay within the limits; they become 1.

        Entries without a score go, and others as far as they must; ties go by position.

        Args:
            revive: Whether entries may come back that are 0.
        """
        names = list(self.values)
        allowed = torch.cat([self._allowed[name].flatten() for name in names])
        if not revive:
            allowed &= torch.cat([self.values[name].flatten().cpu() for name in names]) > 0
        scores = torch.cat([self._scores[name].flatten().double().cpu() for name in names])
        prices = self._prices(names)
        worth = torch.where(allowed & (scores > 0), scores / prices.clamp(min=1e-300), -1.0)
        order = worth.argsort(descending=True, stable=True)[: int((worth > 0).sum())]
        spent = prices[order].cumsum(0)
        self._choose(names, order)
        room = float(spent[-1]) if len(spent) else 0.0
        for attempt in range(_TRIES):
            excess = self._excess(limits)
            if excess <= 2 * _SLACK:
                return
            room -= excess * 2**attempt  # once is enough where prices add up
            self._choose(names, order[: int((spent <= room + _SLACK).sum())])
        self._choose(names, order[:0])

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring entries that were trained back to [0, 1], and those to 0 that started there."""
        for name, mask in self.values.items():
            mask.clamp_(0, 1).mul_(self._allowed[name].to(mask))

    @torch.no_grad()
    def keep_largest(self, count: int) -> None:
        """The projection by count, as published: the largest entries of all layers keep their values, others become 0.

        Equal ones, such as all that training holds at 1, go by their scores.
        """
        names = list(self.values)
        values = torch.cat([self.values[name].flatten().cpu() for name in names])
        scores = torch.cat([self._scores[name].flatten().cpu() for name in names])
        order = scores.argsort(descending=True, stable=True)
        order = order[values[order].argsort(descending=True, stable=True)]
        sizes = [self.values[name].numel() for name in names]
        values[order[count:]] = 0
        for name, part in zip(names, torch.split(values, sizes), strict=True):
            self.values[name].copy_(part.reshape(self.values[name].shape))

    @torch.no_grad()
    def round(self) -> None:
        """Make entries 1 that are at least one half, and others 0."""
        for mask in self.values.values():
            mask.copy_(mask >= 0.5)

    def freeze(self) -> None:
        """Take no gradients from now on, which training then does not compute."""
        for mask in self.values.values():
            mask.requires_grad_(False)
            mask.grad = None

    def drop(self, flags: Mapping[str, Tensor]) -> None:
        """Mask the entries where the flags are false."""
        with torch.no_grad():
            for name, mask in self.values.items():
                mask.mul_(flags[name].to(mask))

    def state(self) -> dict[str, Any]:
        """Entries and scores."""
        return {"masks": self.masks, "scores": dict(self._scores)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        with torch.no_grad():
            for name, mask in self.values.items():
                mask.copy_(state["masks"][name])
                self._scores[name].copy_(state["scores"][name])

    def _prices(self, names: Sequence[str]) -> Tensor:
        """Of each entry, relative to dense; several costs add up."""
        total = torch.zeros(sum(self.values[name].numel() for name in names), dtype=torch.float64)
        for cost in self._costs:
            found = cost.input_prices(self.masks)
            parts = [found[name].flatten() if name in found else None for name in names]
            sizes = [self.values[name].numel() for name in names]
            filled = [
                torch.zeros(size, dtype=torch.float64) if part is None else part
                for part, size in zip(parts, sizes, strict=True)
            ]
            total += torch.cat(filled) / cost.dense
        return total

    def _excess(self, limits: Sequence[float]) -> float:
        """By how much the constants are above the limits, relative to dense; the worst one."""
        spent = zip(self.constants(), limits, self._costs, strict=True)
        return max((constant - limit) / cost.dense for constant, limit, cost in spent)

    def _choose(self, names: Sequence[str], kept: Tensor) -> None:
        sizes = [self.values[name].numel() for name in names]
        flags = torch.zeros(sum(sizes))
        flags[kept] = 1.0
        for name, part in zip(names, torch.split(flags, sizes), strict=True):
            mask = self.values[name]
            mask.copy_(part.reshape(mask.shape))


def masked_layers(problem: WeightProblem, inputs: Any) -> dict[str, Tensor]:
    """The masks to begin with: those of the problem, and ones for every other layer that can be masked.

    Layers that run several times in a forward, or that are no modules, are left as they are.

    Raises:
        InputError: If there is none.
    """
    shapes = {name: shape for each in problem.constraints for name, shape in each.cost.inputs.items()}
    if not shapes:
        metrics = ", ".join(constraint.cost.metric for constraint in problem.constraints)
        raise InputError(f"masking inputs takes nothing off {metrics}; choose a method that prunes weights only")
    reasons = maskable(problem.model, moved(inputs, device_of(problem.model)), shapes)
    found = {name: torch.ones(shape) for name, shape in shapes.items() if not reasons[name]}
    if not found:
        name, reason = next(iter(reasons.items()))
        raise InputError(f"the network has no layer whose inputs can be masked: of {name}, {reason}")
    for name, mask in problem.masks.items():
        if name not in found:
            raise InputError(f"masks: the inputs of {name!r} cannot be masked: {reasons.get(name, 'it costs nothing')}")
        found[name] = (mask != 0).float().reshape(found[name].shape)
    return found


def least_spent(constraint: WeightConstraint, masks: Masks) -> float:
    """What is spent without any weight and any input of the layers that can be masked, in the unit of the cost."""
    return constraint.cost.prices({name: torch.zeros_like(mask) for name, mask in masks.items()}).constant


@torch.no_grad()
def without_influence(model: nn.Module, names: Sequence[str], masks: Masks, inputs: Any) -> dict[str, Tensor] | None:
    """Zero the weights that change no output, and the masks without the inputs that change none.

    Outputs for these inputs are compared before and after; where they differ nothing is done.

    Args:
        model: Its weights are changed in place.
        names: Of its parameters that are pruned.
        masks: As they are.
    Returns:
        Masks that cost no more; None where nothing could be done.
    """
    inputs = moved(inputs, device_of(model))
    found = influence(model, names, masks, inputs)
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    fewer = {name: mask * found.inputs[name].to(mask) for name, mask in masks.items()}
    with eval_mode(model), masked_inputs(model, masks):
        wanted = forward(model, inputs)
    for name in names:
        model.get_parameter(name).mul_(found.weights[name])
    with eval_mode(model), masked_inputs(model, fewer):
        got = forward(model, inputs)
    worst = float((got - wanted).abs().max())
    if math.isfinite(worst) and worst <= _ROUNDING * max(float(wanted.abs().max()), 1e-30):
        return fewer
    for name, values in before.items():
        model.get_parameter(name).copy_(values)
    return None


def limits_of(
    problem: WeightProblem, masks: Masks, model: nn.Module, *, part: float, min_fraction: float
) -> WeightLimits:
    """The limits of a problem whose inputs will be masked, with floors for weights that get a part of what is left.

    Raises:
        InputError: If a limit is not above what is spent with no weights and no inputs; or as ``WeightLimits``.
    """
    bare = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    eased = []
    for constraint in problem.constraints:
        cost, limit = constraint.cost, constraint.limit
        least, whole = cost.prices(bare).constant, cost.prices(masks).constant
        if not limit > least:  # NaN is refused too
            raise InputError(
                f"{cost.metric} ≤ {limit:.5g} {cost.unit} ({limit / cost.dense:.4f} of dense) cannot be met by masking "
                f"inputs: with all weights zero and all inputs masked that can be, {least:.5g} "
                f"({least / cost.dense:.4f}) are left; raise the budget"
            )
        eased.append(WeightConstraint(cost, whole + part * (limit - least)))
    limits = WeightLimits(replace(problem, constraints=tuple(eased), masks=masks), model, min_fraction)
    limits.limits = [constraint.limit for constraint in problem.constraints]
    return limits


def first_inputs(batches: Batches, seed: int) -> Any:
    """Inputs of the first training batch; the order of the others stays as it would be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs, _ = next(iter(batches))
    return inputs
