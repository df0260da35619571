"""Training under masks that close: the network that gradual pruning trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ecc.core.errors import InputError
from ecc.stages.densities import Rule, largest
from ecc.stages.tuning import Overridden

__all__ = ["Closing", "MaskedNetwork", "demand_finite"]


@dataclass(frozen=True, slots=True)
class Closing:
    """How masks close during training.

    Attributes:
        rule: Weights per tensor.
        total: Weights that are kept in the end.
        floors: By tensor, the fewest that are kept.
        ramp: Share of the training over which the number of weights falls, as the cube of what is left of the ramp
            (Zhu and Gupta, 2017); 0 to close at once.
        times: How often masks are chosen on the ramp.
        regrow: Whether a weight may come back on the ramp (as in dynamic network surgery; Guo et al., NIPS 2016):
            those behind the mask go on being trained, from zero after each choice, as if they were seen.
        dropout: Whether dropout rates fall with the root of the share of the weights kept (Han et al., NIPS 2015).
    """

    rule: Rule
    total: int
    floors: Mapping[str, int]
    ramp: float
    times: int = 64
    regrow: bool = False
    dropout: bool = False

    def kept(self, size: int, done: float) -> int:
        """How many of so many weights are kept when this share of the training is done."""
        left = max(0.0, 1.0 - done / self.ramp) if self.ramp else 0.0
        return round(self.total + max(size - self.total, 0) * left**3)


class MaskedNetwork(Overridden):
    """A copy of a network some of whose weights are masked.

    Weights behind a mask get no gradient, so a momentum that they still have moves nothing that is seen.

    Args:
        network: Its weights that are zero are masked from the beginning.
        names: By name of a tensor that is pruned, all its names in the network.
        closing: How masks close.

    Raises:
        InputError: If a name is no parameter of the network, or a parameter is not finite.
    """

    def __init__(self, network: nn.Module, names: Mapping[str, Sequence[str]], closing: Closing) -> None:
        super().__init__(copy.deepcopy(network))
        self._closing, self._names = closing, {name: tuple(every) for name, every in names.items()}
        parameters = dict(self.network.named_parameters(remove_duplicate=False))
        if strange := [name for name in names if name not in parameters]:
            raise InputError(f"{strange[0]!r} is no parameter of the network and cannot be pruned with training")
        demand_finite(parameters)
        self._slots = {name: f"mask_{number}" for number, name in enumerate(names)}
        for name, slot in self._slots.items():
            self.register_buffer(slot, parameters[name].detach() != 0)
        self.register_buffer("events", torch.zeros((), dtype=torch.int64))
        self._size = sum(int(mask.sum()) for mask in self.masks().values())
        self._dropout = _dropout_rates(self.network, list(names)) if closing.dropout else []
        if not closing.ramp:
            self._close(closing.total)

    def masks(self) -> dict[str, Tensor]:
        """Bool, by name of a tensor; True for weights that are kept."""
        return {name: self.get_buffer(slot) for name, slot in self._slots.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The masked weights, by name."""
        found: dict[str, Tensor] = {}
        for name, mask in self.masks().items():
            weight = self.network.get_parameter(name)
            masked = weight * mask
            if self._closing.regrow and self._open:
                masked = weight + (masked - weight).detach()
            found |= dict.fromkeys(self._names[name], masked)
        return found

    @property
    def _event(self) -> int:
        """How often masks have been chosen on the ramp."""
        return int(self.get_buffer("events"))

    @property
    def _open(self) -> bool:
        return self._event < self._closing.times and self._closing.ramp > 0

    def advance(self, done: float) -> None:
        """Close the masks as far as they are to be when this share of the training is done."""
        ramp, times = self._closing.ramp, self._closing.times
        event = min(times, math.floor(done / ramp * times + 1e-9)) if ramp else 0
        if event > self._event:
            self._close(self._closing.kept(self._size, min(ramp, event / times * ramp)))
            self.get_buffer("events").fill_(event)

    @torch.no_grad()
    def _close(self, total: int) -> None:
        masks = self.masks()
        weights = {name: self.network.get_parameter(name) for name in masks}
        seen = weights if self._closing.regrow else {name: weights[name] * mask for name, mask in masks.items()}
        counts = self._closing.rule(seen, total, self._closing.floors)
        for name, mask in masks.items():
            mask.copy_(largest(seen[name], counts[name]))
            if self._closing.regrow:  # what comes back at the next choice has grown since this one
                weights[name].mul_(mask)
        for module, rate, name in self._dropout:
            module.p = rate * math.sqrt(float(masks[name].float().mean()))

    @torch.no_grad()
    def pruned(self) -> nn.Module:
        """The network with zeros where the masks are; not a copy."""
        for name, mask in self.masks().items():
            self.network.get_parameter(name).mul_(mask)
        return self.network


def demand_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no training can mend, by its name.

    Raises:
        InputError: If a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.detach().isfinite().all()):
            raise InputError(
                f"the weights {name!r} hold values that are not finite and cannot be pruned; mend the network first"
            )


def _dropout_rates(network: nn.Module, names: Sequence[str]) -> list[tuple[_DropoutNd, float, str]]:
    """Dropout layers, their rates, and the weights that read what they drop: the next in the network's order."""
    found: list[tuple[_DropoutNd, float, str]] = []
    waiting: list[_DropoutNd] = []
    for path, module in network.named_modules():
        if isinstance(module, _DropoutNd):
            waiting.append(module)
        readers = [name for name in names if name.rpartition(".")[0] == path]
        if readers:
            found += [(each, each.p, readers[0]) for each in waiting]
            waiting = []
    return found
