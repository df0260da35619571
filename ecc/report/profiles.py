"""The page of a profile store."""

from __future__ import annotations

from pathlib import Path

from ecc.profiler.store import Store

__all__ = ["write_profile"]


def write_profile(store: Store, path: str | Path) -> Path:
    """Write the page of a store."""
    raise NotImplementedError
