"""Input masks: inputs of layers that are the same zeros for every example (Yang, Zhu, Liu: ICLR 2019).

A mask has the shape of one example's input of its layer and is multiplied with it before the layer runs. While a
network is trained the masks are hooked on for as long as that takes; to be kept they become buffers of its layers,
called ``input_mask``, so that copies, state dicts and exported programs hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.weights import Masks
from ecc.network.copying import copy_sharing

__all__ = ["BUFFER", "apply_masks", "held_masks", "maskable", "masked_inputs", "stored_masks"]

BUFFER = "input_mask"


def apply_masks(model: nn.Module, masks: Masks, *, inputs: Any = None) -> nn.Module:
    """A copy of a network whose named layers multiply their input by a mask that they hold, the buffer ``input_mask``.

    The copy can be saved, copied, exported and masked anew. To load it, apply the masks that ``stored_masks`` finds in
    the state dict to a network without any, and load the state dict.

    Args:
        masks: By path of a layer; see ``masked_inputs``.
        inputs: Of one forward, which is run to see that each of these layers runs once and that its mask fits.

    Raises:
        InputError: If there is no such layer, its mask does not fit, or it runs not once.
    """
    masked = copy_sharing(model, {})
    for name, layer in _layers(masked, masks).items():
        mask = masks[name].detach().clone()
        like = next(layer.parameters(), None)
        if like is not None:
            mask = mask.to(like.device, like.dtype)
        if isinstance(layer._buffers.get(BUFFER), Tensor):
            layer._buffers[BUFFER] = mask
            continue
        if BUFFER in dir(layer):
            raise InputError(f"{name} cannot be masked: it has an attribute {BUFFER} of its own")
        layer.register_buffer(BUFFER, mask)
        layer.register_forward_pre_hook(_multiply_by_buffer, with_kwargs=True)
    if inputs is not None:
        reasons = maskable(masked, inputs, {name: tuple(mask.shape) for name, mask in masks.items()})
        for name, reason in reasons.items():
            if reason:
                raise InputError(f"{name} cannot be masked: {reason}")
    return masked


@contextmanager
def masked_inputs(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Multiply the inputs of layers by masks while the context lasts; gradients reach masks that ask for them.

    Args:
        masks: By path of a layer, of the shape of one example's input, on the device of the model; that of a signal's
            convolution may have a row of its own, (channels, 1, length).

    Raises:
        InputError: If there is no such layer; in a forward, if the input of a layer has another shape than its mask.
    """
    handles = []
    try:
        for name, layer in _layers(model, masks).items():
            handles.append(layer.register_forward_pre_hook(_Multiply(name, masks[name]), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def stored_masks(state: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks that a network, or its state dict, holds, by path of the layer."""
    found = state.state_dict() if isinstance(state, nn.Module) else state
    return {name.removesuffix(BUFFER)[:-1]: mask for name, mask in found.items() if name.split(".")[-1] == BUFFER}


def held_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks with which a network multiplies the inputs of its layers, by path of the layer.

    Of ``stored_masks`` those that ``apply_masks`` has put there; a buffer of that name may mean something else.
    """
    return {
        name: mask
        for name, layer in model.named_modules()
        if _multiply_by_buffer in layer._forward_pre_hooks.values()
        and isinstance(mask := layer._buffers.get(BUFFER), Tensor)
    }


def maskable(model: nn.Module, inputs: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Why layers cannot be masked, by path; empty text for those that can.

    The network runs once in eval mode. A layer that runs several times would need several masks, and one whose input
    may have any size has no mask that fits.

    Args:
        inputs: Of one forward; a tuple or list is spread over the arguments.
        shapes: Of the masks, by path.
    """
    layers = dict(model.named_modules())
    runs: dict[str, list[tuple[int, ...]]] = {name: [] for name in shapes if name in layers}
    handles = [layers[name].register_forward_pre_hook(_Watch(calls), with_kwargs=True) for name, calls in runs.items()]
    modes = [(part, part.training) for part in layers.values()]
    try:
        with torch.no_grad():
            model.eval()
            model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes:
            part.training = training
    return {name: _obstacle(shape, runs.get(name)) for name, shape in shapes.items()}


def _obstacle(shape: tuple[int, ...], runs: list[tuple[int, ...]] | None) -> str:
    if runs is None:
        return "there is no module of this name whose input could be multiplied"
    if not runs:
        return "the network does not call it as a module"
    if len(runs) > 1:
        return f"it runs {len(runs)} times in one forward, and its inputs would need a mask each time"
    if _view(shape, runs[0]) is None:
        return f"its input has shape {runs[0]}, which a mask of shape {shape} does not fit"
    return ""


class _Multiply:
    """Hook: a layer's input times a mask."""

    def __init__(self, name: str, mask: Tensor) -> None:
        self._name, self._mask = name, mask

    def __call__(
        self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _multiplied(self._name, self._mask, arguments, named)


class _Watch:
    """Hook: notes the shapes of a layer's inputs."""

    def __init__(self, calls: list[tuple[int, ...]]) -> None:
        self._calls = calls

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        _, first = _first(arguments, named)
        self._calls.append(tuple(first.shape) if isinstance(first, Tensor) else ())


def _multiply_by_buffer(
    layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask = layer._buffers[BUFFER]
    return (arguments, named) if mask is None else _multiplied(type(layer).__name__, mask, arguments, named)


def _multiplied(
    name: str, mask: Tensor, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    key, value = _first(arguments, named)
    if not isinstance(value, Tensor):
        raise InputError(f"the inputs of {name} cannot be masked: it gets no tensor")
    shape = _view(tuple(mask.shape), tuple(value.shape))
    if shape is None:
        raise InputError(
            f"the inputs of {name} have shape {tuple(value.shape)} and its mask {tuple(mask.shape)}; masks are for "
            "inputs of the size that they were made for"
        )
    masked = value * mask.reshape(shape).to(value.dtype)
    return ((masked, *arguments[1:]), named) if key is None else (arguments, {**named, key: masked})


def _first(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The input of a layer, and its keyword if it is given by one."""
    if arguments:
        return None, arguments[0]
    for key, value in named.items():
        return key, value
    return None, None


def _view(mask: tuple[int, ...], value: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a mask fits the last axes of an input; None if it does in none."""
    signal = (mask[0], mask[2]) if len(mask) == 3 and mask[1] == 1 else mask
    for shape in (mask, signal):
        if value[len(value) - len(shape) :] == shape:
            return shape
    return None


def _layers(model: nn.Module, masks: Masks) -> dict[str, nn.Module]:
    """The masked layers, by path.

    Raises:
        InputError: If there is none of a name.
    """
    layers = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for name in masks:
        if not name or name not in layers:
            raise InputError(f"masks: the network has no layer {name!r}")
        found[name] = layers[name]
    return found
