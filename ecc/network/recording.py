"""Recording: whether torch writes operators down instead of only running them, so that loops and branches are lost."""

from __future__ import annotations

import torch

__all__ = ["recorded", "traced"]


def traced() -> bool:
    """Whether ``torch.jit.trace`` runs."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def recorded() -> bool:
    """Whether operators are compiled, exported or traced."""
    return torch.compiler.is_compiling() or traced()
