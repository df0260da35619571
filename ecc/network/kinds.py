"""Kinds: groups with the same part in modules of the same class; a forward that insists on one size insists on all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["kinds"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def kinds(model: nn.Module, names: Sequence[str]) -> list[list[str]]:
    """Names of groups in lists of one kind each, without the groups that are the only one of theirs."""
    found: dict[tuple[type[nn.Module], str], list[str]] = {}
    for name in names:
        path, _, part = name.rpartition(".")
        while path and isinstance(model.get_submodule(path), _CONTAINERS):
            path, _, position = path.rpartition(".")
            part = f"{position}.{part}"
        found.setdefault((type(model.get_submodule(path)), part), []).append(name)
    return [members for members in found.values() if len(members) > 1]
