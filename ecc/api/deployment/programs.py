"""Programs: a network traced by ``torch.export``, for a batch of any size where the network allows it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from ecc.profiler.runtimes.calling import Call
from ecc.profiler.runtimes.exporting import Flat
from ecc.profiler.runtimes.silencing import quiet_output

__all__ = ["BATCH", "Program", "Way", "programs", "takes_tensors", "undisturbed"]

Program = Any
"""A ``torch.export.ExportedProgram``, which is no public name of every version."""

Way = Callable[[], Program]
"""A call that traces."""

BATCH = "batch"
"""Name of the axis that may have any length."""


def programs(network: nn.Module, call: Call, batched: Sequence[bool] | None, *, flat: bool) -> list[Way]:
    """Ways to trace a network, the plainest first.

    Args:
        call: Inputs; where the batch may have any size, of at least two examples.
        batched: Of each tensor, whether its first axis is the batch; None for a batch of this size only.
        flat: Whether the program takes and gives tensors one after another, whatever they are nested in.
    """
    module: nn.Module = Flat(network, call) if flat else network
    args: tuple[Any, ...] = tuple(call.tensors) if flat else call.args
    kwargs: dict[str, Any] = {} if flat else call.kwargs
    if batched is None:
        return [partial(_traced, module, args, kwargs, None, strict) for strict in (False, True)]
    long = {id(tensor) for tensor, follows in zip(call.tensors, batched, strict=True) if follows}
    named = _shapes(module, args, kwargs, long, torch.export.Dim(BATCH, min=1))
    # A named axis must hold for every length; where that cannot be proven it may still be so, which running shows.
    guessed = _shapes(module, args, kwargs, long, torch.export.Dim.AUTO)
    tries = ((named, False), (guessed, False), (named, True))
    return [partial(_traced, module, args, kwargs, shapes, strict) for shapes, strict in tries]


@contextmanager
def undisturbed() -> Iterator[None]:
    """While exporters work: without gradients, and without what they print, warn of and log on the way."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), quiet_output(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _traced(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, strict: bool) -> Program:
    with undisturbed():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=strict)


def _shapes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], long: set[int], length: Any) -> Any:
    """The shapes of all arguments, by their names."""
    return _shape_of(dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments), long, length)


def _shape_of(value: Any, long: set[int], length: Any) -> Any:
    """Nested arguments as ``torch.export`` takes their shapes: of tensors in ``long``, axis 0 has any length."""
    if isinstance(value, Tensor):
        return {0: length} if id(value) in long else None
    if isinstance(value, list | tuple):
        return type(value)(_shape_of(item, long, length) for item in value)
    if isinstance(value, Mapping):
        return {name: _shape_of(item, long, length) for name, item in value.items()}
    return None


def takes_tensors(call: Call, outputs: Any) -> bool:
    """Whether a network takes plain tensors by position and gives one, or a tuple or list of them."""
    given = outputs if isinstance(outputs, list | tuple) else [outputs]
    plain = not call.kwargs and all(isinstance(each, Tensor) for each in call.args)
    return plain and all(isinstance(each, Tensor) for each in given)
