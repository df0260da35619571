r"""The additive cost model: what a network's operators cost one by one, composed.

.. math:: E(w) = o + \sum_j \theta_j\, e_j(w)

with e_j the cost of call j at its shape under the widths, as learnt from an operator profile; calls that the runtime
merges into others (``fusion``) cost nothing. Without any row of the network all θ are 1 and o is 0. What a profile of
single operators cannot know (the cost of going from one call to the next, caches that are warm or cold) is learnt from
rows: θ has a prior whose covariance is that of the operators' own uncertainty, of a factor common to all calls and of
one per kind of call, so that few rows move all calls together and many rows move each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, optimize, stats
from torch import Tensor

from ecc.core.calls import OperatorCall
from ecc.core.cost import as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side, SumOfProducts
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.table import OperatorTable, ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import as_side, objects, refuse_large
from ecc.energy_models.fitted import FITTED, FittedCost, ground_of
from ecc.energy_models.fusion import hosts
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.operator_work import sizes_of
from ecc.energy_models.samples import Samples

__all__ = ["AdditiveCost", "Composable", "Part", "compose", "fit_samples"]

Floats = NDArray[np.float64]

_COMMON, _PER_KIND, _OVERHEAD = 0.2, 0.15, 0.1
# Prior spreads, as shares: of a factor common to all calls, of one per kind, of what calls cost beside their own work.
# Networks differ from the sum of their parts by 10 to 30 % in what is published on such sums; rows overrule this.

_MISFIT = 0.03  # relative error to expect of a row that is measured without noise, as in ``bilinear``
_DENSE_NOISE = 0.01  # of the dense network, which is measured best
_MOST_PARTS, _MOST_CELLS = 1 << 12, 1 << 22


class Composable(Protocol):
    """What a cost is composed of: a WidthGraph, or a ProfileTable with calls."""

    @property
    def space(self) -> WidthSpace:
        """The order of width vectors."""

    @property
    def calls(self) -> tuple[OperatorCall, ...]:
        """The operators that the network runs."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class AdditiveCost(FittedCost):
    """A metric as the sum over a network's calls; see FittedCost for what it rests on.

    Attributes:
        runtime: Whose merging of calls is assumed.
        unit_cost: What the operators' costs are relative to, in s or J.
        operators: Cost of an operator over ``unit_cost``.
        parts: The calls that cost something.
        overhead: What the network costs beside its calls, in s or J.
    """

    form = "additive"

    runtime: str
    unit_cost: float
    operators: OperatorCosts
    parts: tuple[Part, ...]
    overhead: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        values = (self.overhead, *(part.factor for part in self.parts))
        if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values) > 0:
            raise InputError("AdditiveCost: factors and overhead must be finite, not negative and not all zero")
        if not 0 < self.unit_cost < math.inf:
            raise InputError(f"AdditiveCost(unit_cost=...) must be positive, got {self.unit_cost}")

    @property
    def coefficients(self) -> dict[str, float]:
        """What calls cost at dense widths, in s or J, summed by kind; ``overhead`` is what there is beside them."""
        with torch.no_grad():
            costs = self._costs(self._full)[0].tolist()
        found = {"overhead": self.overhead}
        for part, cost in zip(self.parts, costs, strict=True):
            found[part.operator.kind] = found.get(part.operator.kind, 0.0) + cost * part.factor
        return found

    @property
    def _full(self) -> Tensor:
        return torch.tensor([self.space.dense], dtype=torch.float64)

    @cached_property
    def _shapes(self) -> _Shapes:
        return _Shapes(self.space, self.parts)

    @cached_property
    def _factors(self) -> Tensor:
        return torch.tensor([part.factor for part in self.parts], dtype=torch.float64)

    def evaluate(self, widths: Tensor) -> Tensor:
        """Overhead and calls at channels of shape (…, n_groups): shape (…).

        The gradient is that of a cost which is smooth between the steps of the hardware.
        """
        flat = widths.to(torch.float64).reshape(-1, len(self.space))
        total: Tensor = self.overhead + self._costs(flat) @ self._factors
        return total.reshape(widths.shape[:-1])

    def _costs(self, widths: Tensor) -> Tensor:
        """Of all calls of each part by the operator profile alone, in s or J; shape (n, n_parts)."""
        rows = max(1, _MOST_CELLS // (max(len(self.parts), 1) * 256))
        return (
            torch.cat([self._some_costs(some) for some in torch.split(widths, rows)])
            if len(widths) > rows
            else (self._some_costs(widths))
        )

    def _some_costs(self, widths: Tensor) -> Tensor:
        columns = [
            self.operators(kind, sizes).reshape(len(widths), -1) for kind, sizes in self._shapes.at(widths).items()
        ]
        costs = torch.cat(columns, 1)[:, self._shapes.order]
        return costs * self._shapes.counts * self.unit_cost

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval: as of FittedCost where rows of the network were held out.

        Where there was none yet, from what is uncertain of the operators, and of sums of operators in general.
        """
        if self.calibration or self.samples:
            return super().interval(widths, level)
        if not 0 < level < 1:
            raise InputError(f"interval(level=...) must be in (0, 1), got {level}")
        predicted = self(widths)
        vectors = as_vector(self.space, widths).reshape(-1, len(self.space))
        with torch.no_grad():
            spread = torch.stack([self._spread(each[None]) for each in vectors]).reshape(predicted.shape)
        reach = float(stats.norm.ppf((1 + level) / 2)) * spread
        return predicted * torch.exp(-reach), predicted * torch.exp(reach)

    def _spread(self, widths: Tensor) -> Tensor:
        """Standard deviation of the logarithm of what an uncalibrated model predicts at one width vector."""
        share = self._costs(widths)[0] * self._factors
        share = share / share.sum()
        return (share @ self._uncertainty(widths) @ share).sqrt()

    def _uncertainty(self, widths: Tensor) -> Tensor:
        """Covariance of the relative errors of all parts at one width vector, before any row; (n_parts, n_parts)."""
        kinds = np.array([KINDS.index(part.operator.kind) for part in self.parts])
        total = torch.full((len(self.parts),) * 2, _COMMON**2, dtype=torch.float64)
        total = total + _PER_KIND**2 * torch.from_numpy(kinds[:, None] == kinds)
        shapes = self._shapes.at(widths)
        for model in self.operators.models:
            mine = [kind for kind in shapes if kind in model.kinds]
            if not mine:
                continue
            inputs = torch.cat([model.inputs(model.kinds.index(kind), kind, shapes[kind]) for kind in mine])
            places = torch.tensor([place for kind in mine for place in self._shapes.places[kind]])
            alike = (inputs[:, None] == inputs).all(-1)  # the same shape has the same peculiarity
            peculiar = (model.process.stretch * model.process.nugget) ** 2 * alike
            total[places[:, None], places] += model.process.covariance(inputs) + peculiar
        return total

    def calibrate(self, table: ProfileTable) -> AdditiveCost:
        """The same model, corrected by rows of the whole network; its intervals come from rows left out one by one.

        Raises:
            InputError: If the rows are of another device, runtime, network or number of threads, or cannot carry a fit.
        """
        samples = Samples.of(table, self.metric)
        found = self.calibrate_samples(samples)
        errors = []
        everything = np.arange(len(samples))
        for part in np.array_split(everything, min(len(samples), 10)):
            other = self.calibrate_samples(samples.take(np.setdiff1d(everything, part)))
            with torch.no_grad():
                predicted = other.evaluate(torch.from_numpy(samples.widths[part])).numpy() / other.dense
            errors += (predicted / samples.ratio[part]).tolist()
        relative = np.array(errors)
        size = np.abs(relative - 1)
        held = {"mape": float(size.mean()), "p95": float(np.quantile(size, 0.95)), "worst": float(size.max())}
        return replace(
            found,
            calibration=tuple(np.sort(np.abs(np.log(relative))).tolist()),
            holdout={**held, "within_10pct": float((size <= 0.1).mean())},
        )

    def calibrate_samples(self, samples: Samples) -> AdditiveCost:
        """The same model, corrected by rows that are already checked."""
        self._demand_same(samples.space, samples.provenance)
        here = replace(self, space=samples.space)
        dense = samples.reference[0]
        with torch.no_grad():
            rows = torch.cat([torch.from_numpy(samples.widths), here._full])
            costs = here._costs(rows).numpy() / dense
            prior = here._uncertainty(here._full).numpy()
        noise = np.append(np.hypot(_MISFIT, np.nan_to_num(samples.noise)), _DENSE_NOISE)
        factors, overhead = _posterior(costs, np.append(samples.ratio, 1.0), noise, prior)
        parts = tuple(replace(part, factor=float(factor)) for part, factor in zip(self.parts, factors, strict=True))
        rest = {**ground_of(samples), "extrapolate": self.extrapolate}
        return replace(here, **rest, parts=parts, overhead=overhead * dense, calibration=(), holdout=None)

    def _demand_same(self, space: WidthSpace, measured: Provenance) -> None:
        """Refuse rows of something else."""
        if (space.names, space.dense) != (self.space.names, self.space.dense):
            raise InputError(
                f"the rows are of {measured.network}, whose groups are not those that the cost was composed of; "
                "compose it of the network that was profiled"
            )
        if self.provenance is not None:
            _demand_like(self.provenance, measured, self.runtime)

    def members(self) -> dict[str, Any]:
        """Calls, and what operators cost."""
        return {
            "runtime": self.runtime,
            "unit_cost": self.unit_cost,
            "overhead": self.overhead,
            "parts": [
                {
                    "name": part.name,
                    "kind": part.operator.kind,
                    "shape": list(part.operator.shape.values()),
                    "sides": {column: side.to_json() for column, side in part.sides},
                    "count": part.count,
                    "factor": part.factor,
                }
                for part in self.parts
            ],
            "operators": self.operators.to_json(),
        }

    @classmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``."""
        entries = objects(fields, "parts")
        if not 0 < len(entries) <= _MOST_PARTS:
            raise InputError(f"cost model: 'parts' must hold between 1 and {_MOST_PARTS} calls")
        parts = tuple(_part(each, ground["space"]) for each in entries)
        refuse_large([tuple(side for _, side in part.sides) for part in parts])
        operators = OperatorCosts.from_fields(fields, "operators").of_kinds([part.operator.kind for part in parts])
        return cls(
            **ground,
            runtime=fields.text("runtime"),
            unit_cost=fields.number("unit_cost"),
            operators=operators,
            parts=parts,
            overhead=fields.number("overhead"),
        )


class _Shapes:
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
        """Columns of the operators of each kind at n width vectors; those of one vector together; shape (n · n_kind,)."""
        n = len(widths)
        fractions = torch.cat([self._sides(widths), torch.ones((n, 1), dtype=torch.float64)], 1)
        found = {}
        for kind, dense in self._dense.items():
            follow = self._follow[kind]
            found[kind] = {
                column: (size * fractions[:, follow[column]]).clamp_min(1).reshape(-1)
                if column in follow
                else size.repeat(n)
                for column, size in dense.items()
            }
        return found


def compose(
    network: Composable,
    operators: OperatorTable,
    metric: str = "latency",
    *,
    provenance: Provenance | None = None,
    runtime: str | None = None,
    learnt: OperatorCosts | None = None,
) -> AdditiveCost:
    """The cost of a network that was never profiled, from an operator profile of the device.

    Args:
        network: A WidthGraph, or a ProfileTable whose calls were recorded.
        metric: One that was measured of the operators.
        provenance: Of the network's own measurements where there are any; must be of the operators' device.
        runtime: Whose merging of calls is assumed; that of the operator profile by default. A profile made with
            another runtime says little of absolute costs until the model is calibrated.
        learnt: ``OperatorCosts.of(operators, metric)``, where it is there already: learning takes seconds.

    Raises:
        InputError: If no calls are known, operators of some kind were not profiled, or measurements do not go together.
    """
    if metric not in FITTED:
        raise InputError(f"compose(metric=...) must be one of {', '.join(FITTED)}, got {metric!r}")
    if not network.calls:
        raise InputError(
            "the operators that the network runs are not known (its profile is from an older version, or nothing in "
            "it could be followed); profile it again, or compose its WidthGraph"
        )
    chosen = runtime or operators.provenance.runtime
    if provenance is not None:
        _demand_like(operators.provenance, provenance, chosen)
    parts = _parts(network.calls, chosen)
    known = OperatorCosts.of(operators, metric) if learnt is None else learnt
    unit = operators.reference[metric][0]
    cost = AdditiveCost(
        metric=metric,
        space=network.space,
        reference=(unit, unit, unit),
        provenance=provenance or replace(operators.provenance, network="composed", fingerprint=_fingerprint(network)),
        runtime=chosen,
        unit_cost=unit,
        operators=known.of_kinds([part.operator.kind for part in parts]),
        parts=parts,
    )
    with torch.no_grad():
        dense = float(cost.evaluate(cost._full)[0])
        reach = float(stats.norm.ppf(0.975) * cost._spread(cost._full))
    return replace(cost, reference=(dense, dense * math.exp(-reach), dense * math.exp(reach)))


def fit_samples(samples: Samples, operators: OperatorTable | None, learnt: OperatorCosts | None = None) -> AdditiveCost:
    """Compose the cost of a profiled network and correct it by its rows, which are already checked.

    Raises:
        InputError: As of ``compose``, or if there is no operator profile.
    """
    if operators is None:
        raise InputError("an additive cost is composed of what operators cost; give an operator profile")
    composed = compose(samples, operators, samples.metric, provenance=samples.provenance, learnt=learnt)
    return composed.calibrate_samples(samples)


def _fingerprint(network: object) -> str:
    """Of the architecture; empty where what the calls come from has none."""
    return str(getattr(network, "fingerprint", ""))


def _demand_like(operators: Provenance, measured: Provenance, runtime: str) -> None:
    """Refuse measurements that say nothing of each other.

    Raises:
        InputError: If they are of several devices, runtimes, numbers of threads or types of numbers.
    """
    dtypes = [each.environment.get("dtype", "") for each in (operators, measured)]
    differences = {
        "device": (operators.device_fingerprint, measured.device_fingerprint),
        "runtime": (runtime, measured.runtime),
        "threads": (operators.threads, measured.threads),
        "dtype": tuple(dtypes) if all(dtypes) else ("", ""),
    }
    for name, (mine, other) in differences.items():
        if mine != other:
            raise InputError(
                f"the operators were measured on another {name} ({mine}) than {measured.network} ({other}); "
                f"profile operators with the {name} of the network"
            )


def _parts(calls: Sequence[OperatorCall], runtime: str) -> tuple[Part, ...]:
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


def _posterior(costs: Floats, ratio: Floats, noise: Floats, prior: Floats) -> tuple[Floats, float]:
    r"""Factors and overhead of most posterior density, none negative.

    Minimises :math:`\sum_i ((o + x_i θ)/y_i - 1)^2/σ_i^2 + (θ - 1)^T Σ^{-1} (θ - 1) + (o/τ)^2`.

    Args:
        costs: What each part costs by itself, over the dense network's measured value, shape (n, p).
        ratio: Measured, shape (n,).
        noise: Relative standard deviation, shape (n,).
        prior: Σ, shape (p, p).
    """
    p = costs.shape[1]
    rows = np.column_stack([np.ones(len(ratio)), costs]) / (ratio * noise)[:, None]
    root = linalg.cholesky(prior + 1e-9 * np.eye(p), lower=True)
    pull = linalg.solve_triangular(root, np.eye(p), lower=True)
    extra = np.zeros((p + 1, p + 1))
    extra[0, 0] = 1 / _OVERHEAD
    extra[1:, 1:] = pull
    matrix = np.vstack([rows, extra])
    aim = np.concatenate([1 / noise, [0.0], pull.sum(1)])
    q, r = np.linalg.qr(matrix)
    solution, _ = optimize.nnls(r, q.T @ aim, maxiter=100 * (p + 1))
    return solution[1:], float(solution[0])


def _part(fields: Fields, space: WidthSpace) -> Part:
    """One entry of a file."""
    inner = fields.inner("sides")
    if not set(inner) <= set(COLUMNS):
        raise InputError("cost model: a call has sides of columns that there are not")
    shape, kind = fields.wholes("shape", 1), fields.text("kind")
    if len(shape) != len(COLUMNS) or max(shape) > 1 << 31 or kind not in KINDS:
        raise InputError("cost model: a call has an impossible shape")
    sides = tuple((column, as_side(inner.items(column), space, foreign=True)) for column in inner)
    return Part(fields.text("name"), Operator(kind, *shape), sides, fields.whole("count", 1), fields.number("factor"))
