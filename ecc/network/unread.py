"""What has no say in the outputs of a network with zeros: weights that meet masked inputs only, inputs that no weight
reads, and whatever leads to nothing but such.

They are found by running the network with its weights drawn anew, zeros staying zero: what has an influence has a
gradient then, in one draw or another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.weights import Masks
from ecc.network.copying import copied, copy_sharing
from ecc.network.input_masks import masked_inputs
from ecc.network.nesting import bind, map_tensors, tensors_in

__all__ = ["Influence", "influence"]


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """What can change an output.

    Attributes:
        weights: By name of a parameter, of its shape: whether each of its elements can.
        inputs: By layer, of the shape of its mask: whether each input can.
    """

    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]


def influence(
    model: nn.Module, names: Collection[str], masks: Masks, inputs: Any, *, draws: int = 4, seed: int = 0
) -> Influence:
    """Which weights and which inputs of layers can change the outputs, while zeros stay zero and masks as they are.

    An element that is found to have none has none in any of the draws; with activations that cut off and draws that all
    fall on that side this can be an error, so that whoever removes it compares outputs. A weight that is zero, or an
    input that is masked, may still have influence if it were not.

    Args:
        model: Is not changed.
        names: Of the parameters whose zeros stay and that are looked at.
        masks: Of the layers whose inputs are looked at, 0 or 1.
        inputs: Of one forward; floating-point numbers in it are replaced by random ones.
        draws: Of the weights.

    Raises:
        InputError: If a mask is of no layer, or its shape does not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    asked = {name: torch.zeros_like(mask, dtype=torch.bool) for name, mask in masks.items()}
    for _ in range(draws):
        drawn = _drawn(model, names, generator)
        given = {name: mask.detach().float().requires_grad_() for name, mask in masks.items()}
        arguments, named = bind(map_tensors(lambda tensor: _noise(tensor, generator), inputs))
        with masked_inputs(drawn, given), torch.enable_grad():
            outputs = [out for out in tensors_in(drawn(*arguments, **named)) if out.requires_grad]
            weighted = [(out * _noise(out, generator)).sum() for out in outputs]
            torch.autograd.backward(weighted)
        for name, flags in found.items():
            _note(flags, drawn.get_parameter(name))
        for name, flags in asked.items():
            _note(flags, given[name])
    return Influence(found, asked)


def _note(flags: Tensor, tensor: Tensor) -> None:
    if tensor.grad is not None:
        flags |= tensor.grad != 0


def _drawn(model: nn.Module, names: Collection[str], generator: torch.Generator) -> nn.Module:
    """A copy in eval mode with other weights: normal, as large as keeps the size of what they are multiplied with.

    Vectors are positive, so that units with activations that cut off are on the other side more often.
    """
    replacements: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters():
        data = parameter.detach()
        if data.is_floating_point():
            if data.ndim < 2:
                drawn = 0.5 + torch.rand(data.shape, generator=generator)
            else:
                fan_in = max(data[0].numel(), 1)
                drawn = torch.randn(data.shape, generator=generator) / math.sqrt(fan_in)
            data = drawn.to(data) * (data != 0 if name in names else 1)
        replacements[id(parameter)] = copied(parameter, data).requires_grad_(data.is_floating_point())
    return copy_sharing(model, replacements).eval()


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers in place of others; integers, such as ids of tokens, as they are."""
    if not tensor.is_floating_point():
        return tensor
    return torch.randn(tensor.shape, generator=generator).to(tensor)
