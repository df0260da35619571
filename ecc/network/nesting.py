"""Nesting: tensors in the containers that a forward takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ecc.core.errors import InputError

__all__ = ["bind", "map_tensors", "tensors_in"]


def bind(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs (a tensor, a tuple or list of positional ones, or a dict of keyword ones) as args and kwargs.

    Arguments may be tensors, numbers, text or None, and lists, tuples and dicts of these.

    Raises:
        InputError: If something else is given, or no tensor is among them.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, tuple | list) else ()
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    strange = next(_strangers(inputs), None)
    if strange is None and any(True for _ in tensors_in([args, kwargs])):
        return args, kwargs
    got = f"{type(inputs).__name__}" + (
        "" if strange is None or strange is inputs else f" with {type(strange).__name__}"
    )
    raise InputError(
        "example inputs must be a tensor, a tuple of tensors or a dict of tensors (nested ones and numbers, text or "
        f"None among them are fine), got {got}" + (" without a tensor" if strange is None else "")
    )


def _strangers(value: Any) -> Iterator[Any]:
    """What is neither a tensor, a number, text or None, nor a list, tuple or dict of these."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _strangers(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strangers(item)
    elif not isinstance(value, Tensor | int | float | str | torch.dtype | torch.device | None):
        yield value


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Nested lists, tuples and dicts with every tensor changed, in the order of ``tensors_in``."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        items = [map_tensors(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        return {name: map_tensors(change, item) for name, item in value.items()}
    return value


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from tensors_in(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for entry in fields(output):
            yield from tensors_in(getattr(output, entry.name))
