"""Running: which modules of a network are running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["running_paths"]


@contextmanager
def running_paths(module: nn.Module, running: list[str]) -> Iterator[None]:
    """While a network runs, keep the list of the paths of its running modules, outermost first.

    Args:
        running: Changed in place; what is in it stays at its front.
    """

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: running.append(path)

    def leave(*_: Any) -> None:
        running.pop()

    handles = []
    for path, part in module.named_modules():
        if path:
            handles.append(part.register_forward_pre_hook(enter(path), prepend=True))
            handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
