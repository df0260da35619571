"""Choosing: which groups the user lets be pruned, by the name or the type of the layers that write them."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import get_close_matches

from torch import nn

from ecc.core.errors import InputError
from ecc.core.widths import WidthGroup
from ecc.network.values import owner

__all__ = ["Pattern", "Patterns", "choose"]

Pattern = str | type[nn.Module]
"""A glob of names of layers or of modules that hold them, ``type:NAME`` with a glob of class names, or a class."""

Patterns = Pattern | Sequence[Pattern]
"""One pattern or several."""

_TYPE = "type:"


def choose(
    model: nn.Module, groups: Sequence[WidthGroup], include: Patterns, exclude: Patterns
) -> tuple[WidthGroup, ...]:
    """Groups with the user's choice applied: excluded ones, and those not included, stay dense.

    A group counts as included or excluded if any layer that writes it does.

    Raises:
        InputError: If a pattern matches no layer, or is none.
    """
    include, exclude = _several("include", include), _several("exclude", exclude)
    if not (include or exclude):
        return tuple(groups)
    modules = dict(model.named_modules())
    writers = {group.name: _writers(group) for group in groups}
    names = list(dict.fromkeys(name for found in writers.values() for name in found))
    matched = {
        pattern: {name for name in names if _matches(name, pattern, modules)} for pattern in (*include, *exclude)
    }
    for pattern, hits in matched.items():
        if not hits:
            raise InputError(f"{_shown(pattern)} matches no layer; {_near(pattern, names, modules)}")

    def reason(group: WidthGroup) -> str:
        written = writers[group.name]
        if include and not any(matched[pattern].intersection(written) for pattern in include):
            return "it is not among the included layers"
        hit = next((pattern for pattern in exclude if matched[pattern].intersection(written)), None)
        return "" if hit is None else f"it is excluded by {_shown(hit).removeprefix('pattern ')}"

    return tuple(
        replace(group, prunable=False, reason=reason(group)) if group.prunable and reason(group) else group
        for group in groups
    )


def _several(name: str, patterns: Patterns) -> Sequence[Pattern]:
    several = [patterns] if isinstance(patterns, str | type) else patterns
    if not isinstance(several, Collection) or not all(isinstance(pattern, str | type) for pattern in several):
        raise InputError(f"trace({name}=...) takes names of layers and classes of modules, got {patterns!r}")
    return list(several)


def _writers(group: WidthGroup) -> list[str]:
    return [group.name, *dict.fromkeys(owner(slot.tensor) for slot in group.slots if slot.role == "write")]


def _matches(name: str, pattern: Pattern, modules: dict[str, nn.Module]) -> bool:
    parts = name.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    if isinstance(pattern, str) and not pattern.startswith(_TYPE):
        return any(fnmatch.fnmatchcase(path, pattern) for path in around)
    return any(_is_a(modules[path], pattern) for path in around if path in modules)


def _is_a(module: nn.Module, pattern: Pattern) -> bool:
    if not isinstance(pattern, str):
        return isinstance(module, pattern)
    wanted = pattern.removeprefix(_TYPE)
    return any(
        fnmatch.fnmatchcase(kind.__name__, wanted) for kind in type(module).__mro__ if kind not in (nn.Module, object)
    )


def _shown(pattern: Pattern) -> str:
    return f"pattern {pattern!r}" if isinstance(pattern, str) else f"type {pattern.__name__}"


def _near(pattern: Pattern, names: Sequence[str], modules: dict[str, nn.Module]) -> str:
    """What the user may have meant, else the first that there are."""
    prefix, known = "", list(dict.fromkeys([*names, *filter(None, modules)]))
    wanted = pattern if isinstance(pattern, str) else _TYPE + pattern.__name__
    if wanted.startswith(_TYPE):
        prefix, wanted = _TYPE, wanted.removeprefix(_TYPE)
        known = list(dict.fromkeys(type(modules[name]).__name__ for name in names if name in modules))
    level = [name for name in known if name.count(".") == wanted.count(".")]
    close = get_close_matches(wanted, level, n=3) or get_close_matches(wanted, known, n=3)
    if close:
        return f"did you mean {' or '.join(prefix + name for name in close)}?"
    shown = known if prefix else names
    return f"layers are {', '.join(prefix + name for name in shown[:6])}" + (" …" if len(shown) > 6 else "")
