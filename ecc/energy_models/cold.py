r"""Cold calls: what operators cost more in a network that does not fit into the near caches, learnt from chains.

.. math:: \mathrm{cold}(w) = \frac{F(w)^2}{F(w)^2 + C^2} \Bigl(\alpha \sum_j e_j(w) + \beta B(w)\Bigr)

with F the numbers that one inference touches (all weights, the most that any call reads and writes, and K for the code
of each operator that differs from all others), B those of the weights and e_j what calls cost alone. Code, weights and
the memory that is written come from farther away once F exceeds C. C, K and what it costs, the chains of an operator
profile tell of any device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.operators import Operator
from ecc.core.table import Chain, OperatorTable
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.operator_work import sizes_of

__all__ = ["Cold"]

Floats = NDArray[np.float64]

_FEWEST = 10  # chains that anything is learnt from
_SHARPNESS = 2  # of the step at the capacity
_CAPACITIES = 24  # tried, between the least and the greatest chain
_CODES = (0.0, *(2.0**power for power in range(12, 23)))  # numbers that the code of an operator takes the place of
_FREEDOM = 3.0  # of the Student t by which chains that are simply wrong count little
_TURNS = 10


@dataclass(frozen=True, slots=True)
class Cold:
    """What calls cost more once near caches are too small; nothing by default.

    Attributes:
        capacity: C, numbers that stay near.
        share: α, of what all calls cost alone.
        per_weight: β, for each number in the weights, in the unit of operators' costs.
        code: K, numbers that the code of an operator takes the place of.
    """

    capacity: float = 0.0
    share: float = 0.0
    per_weight: float = 0.0
    code: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in asdict(self).values()):
            raise InputError("Cold(capacity=..., share=..., per_weight=..., code=...) must be finite and not negative")

    @property
    def known(self) -> bool:
        """Whether it was learnt that anything costs more."""
        return self.share > 0 or self.per_weight > 0

    def __call__(self, alone: Tensor, weights: Tensor, moved: Tensor, distinct: int) -> Tensor:
        """What calls cost more, of the shape of the first three.

        Args:
            alone: What all cost alone.
            weights: Numbers in their weights.
            moved: The most that any of them reads and writes.
            distinct: How many of them differ.
        """
        touched = weights + moved + self.code * distinct
        far = touched**_SHARPNESS / (touched**_SHARPNESS + self.capacity**_SHARPNESS)
        return far * (self.share * alone + self.per_weight * weights)

    @classmethod
    def of(cls, table: OperatorTable, metric: str, learnt: OperatorCosts) -> Cold:
        """Learn from the chains of an operator profile; nothing where it has hardly any.

        Args:
            learnt: What operators cost that were not measured alone.
        """
        chains = [chain for chain in table.chains if chain.ratios.get(metric, math.nan) > 0]
        if len(chains) < _FEWEST:
            return cls()
        costs = dict(zip(table.operators, table.rows[f"{metric}_ratio"].tolist(), strict=True))
        alone = np.array([sum(_alone(each, costs, learnt) for each in chain.operators) for chain in chains])
        together = np.array([chain.ratios[metric] for chain in chains])
        return _fitted(alone, together, chains)

    def to_json(self) -> dict[str, float]:
        """A JSON value; ``from_fields`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what ``to_json`` wrote, without trusting it."""
        return cls(
            fields.number("capacity"), fields.number("share"), fields.number("per_weight"), fields.number("code")
        )


def _alone(operator: Operator, measured: Mapping[Operator, float], learnt: OperatorCosts) -> float:
    cost = measured.get(operator, math.nan)
    return cost if cost > 0 else float(learnt(operator.kind, sizes_of([operator])))


def _fitted(alone: Floats, together: Floats, chains: Sequence[Chain]) -> Cold:
    """The capacity and rates of least relative error."""
    weights = np.array([float(sum(each.weights for each in chain.operators)) for chain in chains])
    most = np.array([float(max(each.reads + each.writes for each in chain.operators)) for chain in chains])
    distinct = np.array([float(len(set(chain.operators))) for chain in chains])
    found: list[tuple[float, Cold]] = []
    for code in _CODES:
        touched = weights + most + code * distinct
        for capacity in np.geomspace(touched.min(), touched.max(), _CAPACITIES).tolist():
            far = touched**_SHARPNESS / (touched**_SHARPNESS + capacity**_SHARPNESS)
            columns = np.column_stack([alone, weights]) * (far / together)[:, None]
            rates, loss = _robust(columns, 1 - alone / together)
            found.append((loss, Cold(capacity, float(rates[0]), float(rates[1]), code)))
    return min(found, key=lambda each: each[0])[1]


def _robust(columns: Floats, aim: Floats) -> tuple[Floats, float]:
    """Rates, none negative, and the loss of the Student t that they leave."""
    scale = np.where(columns.any(0), columns.max(0), 1.0)
    weight = np.ones(len(aim))
    for _ in range(_TURNS):
        root = np.sqrt(weight)
        rates, _ = optimize.nnls(columns / scale * root[:, None], aim * root)
        error = columns / scale @ rates - aim
        spread = max(1.4826 * float(np.median(np.abs(error))), 1e-3)
        weight = (_FREEDOM + 1) / (_FREEDOM + (error / spread) ** 2)
    loss = float(((_FREEDOM + 1) / 2 * np.log1p((error / spread) ** 2 / _FREEDOM)).sum() + len(aim) * math.log(spread))
    return np.asarray(rates / scale, dtype=np.float64), loss
