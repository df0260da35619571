"""Parts by name: those of this package, and those that other installed packages declare as entry points.

A package says in its pyproject.toml, under ``[project.entry-points."ecc.methods"]``, ``name = "module:object"``. It is
imported when the name is used. Files hold such names and never code: what answers to a name was installed by somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from ecc.core.errors import InputError
from ecc.core.factories import reason

__all__ = ["Parts"]


T = TypeVar("T")


class Parts(Mapping[str, T], Generic[T]):
    """A mapping from names to parts; those of the package first, in their order.

    Args:
        group: Of the entry points, such as ``ecc.methods``.
        own: The package's parts; another package cannot take their names.
        read: What a declared object is made a part by; InputError where it is none.
    """

    def __init__(self, group: str, own: Mapping[str, T], read: Callable[[str, Any], T]) -> None:
        self._group, self._own, self._read = group, dict(own), read
        self._declared = {point.name: point for point in entry_points(group=group) if point.name not in self._own}
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """The part of that name.

        Raises:
            InputError: If it is declared, and cannot be imported or is no such part.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._read(name, _load(self._group, self._declared[name]))
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._declared

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._declared

    def __len__(self) -> int:
        return len(self._own) + len(self._declared)

    def __repr__(self) -> str:
        return f"Parts({self._group}: {', '.join(self)})"


def _load(group: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        package = f" of the package {point.dist.name}" if point.dist is not None else ""
        raise InputError(
            f"{point.name!r}{package} is declared for {group} as {point.value}, which cannot be imported "
            f"({reason(error)}); mend or remove that package"
        ) from error
