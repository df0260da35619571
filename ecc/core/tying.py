"""Tying: tensors that a state dict has under several names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ecc.core.errors import InputError

__all__ = ["untied"]


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each distinct tensor once, as an own contiguous copy on the CPU, and the further names of tied ones.

    Returns:
        The tensors by the first of their names, and, by every other name, the first.

    Raises:
        InputError: If a value is not a dense tensor.
    """
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_meta:
            raise InputError(f"state {name!r} of the network is not a dense tensor with values and cannot be stored")
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = place if tensor.numel() else (name,)  # empty tensors have no place of their own
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases
