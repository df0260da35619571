"""The calls of a network that cost something, and their shapes at any widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side, SumOfProducts
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.widths import WidthSpace
from ecc.energy_models.cost_files import as_side
from ecc.energy_models.fusion import hosts
from ecc.energy_models.operator_work import TERMS, Sizes, sizes_of, work

__all__ = ["Part", "Shapes", "part_from", "parts_of"]

_READS, _WEIGHTS, _WRITES = (TERMS.index(name) for name in ("reads", "weights", "writes"))


@dataclass(frozen=True, slots=True)
class Part:
    """Calls of one shape at all widths.

    Attributes:
        name: Module path of the first of them and its kind.
        operator: At dense widths.
        sides: Of the columns that follow the widths.
        count: How many calls there are.
        factor: θ, what they cost relative to the same operators alone.
    """

    name: str
    operator: Operator
    sides: tuple[tuple[str, Side], ...]
    count: int = 1
    factor: float = 1.0


class Shapes:
    """The numbers of all parts at any widths, by kind.

    Attributes:
        places: Numbers of the parts of each kind.
        order: Where each part stands once kinds are put one behind the other.
        counts: Calls of each part.
    """

    def __init__(self, space: WidthSpace, parts: Sequence[Part]) -> None:
        self.places: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            self.places.setdefault(part.operator.kind, []).append(place)
        self.order = torch.from_numpy(np.argsort([place for each in self.places.values() for place in each]))
        self.counts = torch.tensor([float(part.count) for part in parts], dtype=torch.float64)
        sides = list(dict.fromkeys(side for part in parts for _, side in part.sides))
        row = {side: i for i, side in enumerate(sides)}
        self._sides = SumOfProducts(space, [(side,) for side in sides])
        self._dense = {kind: sizes_of([parts[i].operator for i in own]) for kind, own in self.places.items()}
        self._follow: dict[str, dict[str, Tensor]] = {}
        for kind, own in self.places.items():
            given = [dict(parts[i].sides) for i in own]
            moving = [column for column in COLUMNS if any(column in each for each in given)]
            self._follow[kind] = {
                column: torch.tensor([row[each[column]] if column in each else len(sides) for each in given])
                for column in moving
            }

    def at(self, widths: Tensor) -> dict[str, dict[str, Tensor]]:
        """Columns of the operators of each kind, (n · n_kind,), at n width vectors; those of one vector together."""
        n = len(widths)
        fractions = torch.cat([self._sides(widths), torch.ones((n, 1), dtype=torch.float64)], 1)
        found = {}
        for kind, dense in self._dense.items():
            follow = self._follow[kind]
            found[kind] = {
                column: (size * fractions[:, follow[column]]).clamp_min(1).reshape(-1)
                if column in follow
                else size.repeat(n)
                if n > 1
                else size
                for column, size in dense.items()
            }
        return found

    def memory(self, shapes: Mapping[str, Sizes], n: int) -> tuple[Tensor, Tensor]:
        """At each of the n width vectors of ``at``, shape (n,): numbers in the weights of all calls, and the most
        that any call reads and writes, whose memory those after it use again.
        """
        done = [work(kind, sizes).reshape(n, -1, len(TERMS)) for kind, sizes in shapes.items()]
        each = torch.cat(done, 1)[:, self.order]
        weights = each[..., _WEIGHTS] @ self.counts
        return weights, (each[..., _READS] + each[..., _WRITES]).amax(1)


def parts_of(calls: Sequence[OperatorCall], runtime: str) -> tuple[Part, ...]:
    """The calls that are not merged into others; those of one shape at all widths together."""
    found: dict[tuple[Operator, tuple[tuple[str, Side], ...]], Part] = {}
    for number, (call, host) in enumerate(zip(calls, hosts(calls, runtime), strict=True)):
        if host != number:
            continue
        key = (call.operator, call.sides)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
        else:
            found[key] = Part(f"{call.module} {call.operator.kind}".strip(), call.operator, call.sides)
    return tuple(found.values())


def part_from(fields: Fields, space: WidthSpace) -> Part:
    """One entry of a file."""
    inner = fields.inner("sides")
    if not set(inner) <= set(COLUMNS):
        raise InputError("cost model: a call has sides of columns that there are not")
    shape, kind = fields.wholes("shape", 1), fields.text("kind")
    if len(shape) != len(COLUMNS) or max(shape) > 1 << 31 or kind not in KINDS:
        raise InputError("cost model: a call has an impossible shape")
    sides = tuple((column, as_side(inner.items(column), space, foreign=True)) for column in inner)
    return Part(fields.text("name"), Operator(kind, *shape), sides, fields.whole("count", 1), fields.number("factor"))
