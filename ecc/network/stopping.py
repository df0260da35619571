"""Stopping: why a forward could not be recorded, and where."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

import torch
from torch import nn

from ecc.core.errors import InputError

__all__ = ["Unfollowed", "explain", "hooked_module"]

# What PyTorch says when a forward asks for the values of tensors that have none.
_ASKS_FOR_VALUES = (
    "data-dependent", "data dependent", ".item() cannot be called", ".numpy() is not supported",
    ".tolist() is not supported", "no data", "_local_scalar_dense", "aten.equal", "aten.allclose",
    "can't convert", "Cannot access data pointer", "aten.nonzero", "aten.unique",
)  # fmt: skip

_HOOK = "its hook"
_UNHOOK = "remove the hook while you trace, or let it do without"
_GIVE_VALUES = "trace it with values instead of on the meta device, so that it can be kept as it is"
_MODULES = str(torch.nn.modules.module.__file__)  # where PyTorch calls forwards and hooks
_MEND = "put what cannot be into a module of its own, or declare the groups with trace(groups=...)"


class Unfollowed(InputError):
    """A forward that cannot be recorded on tensors without values.

    Attributes:
        path: Of the innermost module whose forward was running.
        why: A clause that says what went wrong, and where if that is known.
    """

    def __init__(self, module: nn.Module, path: str, why: str) -> None:
        self.path = path
        self.why = why
        name = f"{path} ({type(module.get_submodule(path)).__name__})" if path else type(module).__name__
        on_meta = any(tensor.is_meta for tensor in module.parameters())
        mend = _UNHOOK if why.startswith(_HOOK) else _GIVE_VALUES if path and on_meta else _MEND
        super().__init__(f"{name} cannot be followed: {why}; {mend}")


def explain(error: Exception) -> str:
    """What went wrong in a forward on tensors without values, as a clause, and where if that is known."""
    text = str(error).strip().splitlines()
    line = _line(error)
    where = f" ({line})" if line else ""
    subject = "its forward" if hooked_module(error) is None else _HOOK
    if _asks_for_values(error):
        return f"{subject} depends on the values of tensors{where}"
    first = text[0] if text else type(error).__name__
    return f"{subject} cannot be recorded on tensors without values{where}: {first.split('. ')[0].rstrip('.')}"


def hooked_module(error: Exception) -> nn.Module | None:
    """The module in whose forward hook the error was raised; None if it was in no hook."""
    found: nn.Module | None = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename == _MODULES:
            line = linecache.getline(_MODULES, trace.tb_lineno)
            found = frame.f_locals["self"] if "hook(" in line else None
        trace = trace.tb_next
    return found


def _asks_for_values(error: Exception) -> bool:
    name = type(error).__name__
    return "DataDependent" in name or "DynamicOutputShape" in name or any(t in str(error) for t in _ASKS_FOR_VALUES)


def _line(error: Exception) -> str:
    """The innermost line outside PyTorch and this package, as ``line 12 of model.py``; empty if there is none."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__, limit=200)
    own = [frame for frame in frames if not frame.filename.startswith((*ours, "<"))]
    # Frames before the first of this package are the caller's.
    first = next((i for i, frame in enumerate(frames) if frame.filename.startswith(ours)), 0)
    own = [frame for frame in own if frame in frames[first:]]
    return f"line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
