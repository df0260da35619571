"""Copying: modules as deep copies that share or replace some of their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ecc.core.errors import InputError

__all__ = ["copied", "copy_sharing"]


def copy_sharing(module: nn.Module, replacements: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy in which the tensors with these ids are replaced, so that large ones are never copied.

    Raises:
        InputError: If the module holds something that cannot be copied.
    """
    memo: dict[int, Any] = dict(replacements)
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{type(module).__name__} cannot be copied ({error}); remove what cannot from it") from error


def copied(tensor: Tensor, data: Tensor) -> Tensor:
    """Data as the kind of tensor that it replaces."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data
