r"""The additive cost model: what a network's operators cost one by one, composed.

.. math:: E(w) = o + \kappa B(w) + \gamma\, \mathrm{cold}(w) + \sum_j \theta_j\, e_j(w)

with e_j the cost of call j at its shape under the widths, as learnt from an operator profile, cold(w) what calls cost
more where near caches are too small (``cold``), and B the numbers in all weights; calls that the runtime merges into
others (``fusion``) cost nothing. Without any row of any network γ and all θ are 1, o and κ are 0. What a profile of
operators cannot know is learnt from rows: where no chains were measured, above all what fetching weights from afar
costs (κ). θ has a prior whose covariance is that of the operators' own uncertainty, of a factor common to all calls and
of one per kind of call, so that few rows move all calls together and many rows move each.

κ and the common factor belong to the device more than to the network: what rows of one network say of them serves
another one that was never profiled (``Correction``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from ecc.core.cost import as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, joint_interactions
from ecc.core.operators import KINDS
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.call_parts import Part, Shapes, part_from, parts_of
from ecc.energy_models.cold import Cold
from ecc.energy_models.corrections import COLD, COMMON, FAR, MISFIT, PER_KIND, Correction, correction_of, posterior
from ecc.energy_models.cost_files import objects, refuse_large
from ecc.energy_models.fitted import FittedCost, demand_level, ground_of
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph

__all__ = ["AdditiveCost", "demand_like"]

Floats = NDArray[np.float64]

_MOST_PARTS, _MOST_CELLS = 1 << 12, 1 << 22


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AdditiveCost(FittedCost):
    """A metric as the sum over a network's calls; see FittedCost for what it rests on.

    Attributes:
        runtime: Whose merging of calls is assumed.
        unit_cost: What the operators' costs are relative to, in s or J.
        operators: Cost of an operator over ``unit_cost``.
        parts: The calls that cost something.
        overhead: What the network costs beside its calls, in s or J.
        per_weight: κ, in s or J for each number in the weights.
        cold: What calls cost more in a network than alone, over ``unit_cost``.
        cold_factor: γ, as which that is taken.
        correction: What is known of the device from this network, or was taken over from another.
    """

    form = "additive"

    runtime: str
    unit_cost: float
    operators: OperatorCosts
    parts: tuple[Part, ...]
    overhead: float = 0.0
    per_weight: float = 0.0
    cold: Cold = field(default_factory=Cold)
    cold_factor: float = 1.0
    correction: Correction = field(default_factory=Correction)

    def __post_init__(self) -> None:
        super().__post_init__()
        values = (self.overhead, self.per_weight, self.cold_factor, *(part.factor for part in self.parts))
        if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values) > 0:
            raise InputError("AdditiveCost: factors and what is added must be finite, not negative and not all zero")
        if not 0 < self.unit_cost < math.inf:
            raise InputError(f"AdditiveCost(unit_cost=...) must be positive, got {self.unit_cost}")

    @property
    def coefficients(self) -> dict[str, float]:
        """What calls cost at dense widths, in s or J, summed by kind; ``overhead`` is what there is beside them,
        ``weights`` what it costs to fetch weights, ``cold`` what calls cost more in a network than alone.
        """
        with torch.no_grad():
            costs, weights = self._costs(self._full)
        found = {"overhead": self.overhead, "weights": self.per_weight * float(weights[0])}
        if self.cold.known:
            found["cold"] = float(costs[0, -1]) * self.cold_factor
        for part, cost in zip(self.parts, costs[0, :-1].tolist(), strict=True):
            found[part.operator.kind] = found.get(part.operator.kind, 0.0) + cost * part.factor
        return found

    @property
    def _full(self) -> Tensor:
        return torch.tensor([self.space.dense], dtype=torch.float64)

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes(self.space, self.parts)

    @cached_property
    def _factors(self) -> Tensor:
        return torch.tensor([*(part.factor for part in self.parts), self.cold_factor], dtype=torch.float64)

    def evaluate(self, widths: Tensor) -> Tensor:
        """Overhead and calls at channels of shape (…, n_groups): shape (…).

        The gradient is that of a cost which is smooth between the steps of the hardware.
        """
        flat = widths.to(torch.float64).reshape(-1, len(self.space))
        costs, weights = self._costs(flat)
        total: Tensor = self.overhead + self.per_weight * weights + costs @ self._factors
        return total.reshape(widths.shape[:-1])

    def _costs(self, widths: Tensor) -> tuple[Tensor, Tensor]:
        """Of all calls of each part alone, then what they cost more in a network, in s or J, shape (n, n_parts + 1).

        And the numbers in weights, shape (n,).
        """
        rows = max(1, _MOST_CELLS // (len(self.parts) * 256))
        pieces = [self._some_costs(some) for some in torch.split(widths, rows)]
        return torch.cat([costs for costs, _ in pieces]), torch.cat([weights for _, weights in pieces])

    def _some_costs(self, widths: Tensor) -> tuple[Tensor, Tensor]:
        shapes = self._shapes.at(widths)
        columns = [self.operators(kind, sizes).reshape(len(widths), -1) for kind, sizes in shapes.items()]
        costs = torch.cat(columns, 1)[:, self._shapes.order] * self._shapes.counts * self.unit_cost
        weights, moved = self._shapes.memory(shapes, len(widths))
        cold = self.cold(costs.sum(1) / self.unit_cost, weights, moved, len(self.parts)) * self.unit_cost
        return torch.cat([costs, cold[:, None]], 1), weights

    @property
    def interactions(self) -> Interactions:
        """The groups of each call: what an operator costs depends on all of its sizes together."""
        return joint_interactions(
            self.space, ({n for _, side in part.sides for n in side.groups} for part in self.parts)
        )

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> Self:
        """As of FittedCost: the calls that are left, those of one shape with the factor that they have here."""
        known = {(part.operator, part.sides): part.factor for part in self.parts}
        if {(part.operator, part.sides) for part in parts_of(graph.calls, self.runtime)} != known.keys():
            raise InputError(
                f"the {self.metric} cost model was composed of other calls than those of this network and this batch, "
                "so it cannot say what single blocks cost; compose it anew with ecc fit"
            )
        parts = parts_of(graph.without(blocks).calls, self.runtime)
        factors = [known.get((part.operator, part.sides), self.correction.scale) for part in parts]
        return replace(self, parts=tuple(replace(part, factor=each) for part, each in zip(parts, factors, strict=True)))

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval: as of FittedCost where rows of the network were held out.

        Where there was none yet, from what is uncertain of the operators, and of sums of operators in general.
        """
        if self.calibration or self.samples:
            return super().interval(widths, level)
        demand_level("interval", level)
        predicted = self(widths)
        vectors = as_vector(self.space, widths).reshape(-1, len(self.space))
        with torch.no_grad():
            spread = torch.stack([self.spread(each[None]) for each in vectors]).reshape(predicted.shape)
        reach = float(stats.norm.ppf((1 + level) / 2)) * spread
        return predicted * torch.exp(-reach), predicted * torch.exp(reach)

    def spread(self, widths: Tensor) -> Tensor:
        """Standard deviation of the logarithm of what an uncalibrated model predicts at one width vector."""
        costs, weights = self._costs(widths)
        share = costs[0] * self._factors
        share = share / (share.sum() + self.per_weight * weights[0])
        known = share @ self._uncertainty(widths) @ share
        return (known if self.per_weight or self.cold.known else known + FAR**2).sqrt()

    def _uncertainty(self, widths: Tensor) -> Tensor:
        """Covariance of the relative errors of all parts and of cold(w) before any row; (n_parts + 1, n_parts + 1)."""
        kinds = np.array([KINDS.index(part.operator.kind) for part in self.parts])
        total = torch.full((len(self.parts),) * 2, COMMON**2, dtype=torch.float64)
        total = total + PER_KIND**2 * torch.from_numpy(kinds[:, None] == kinds)
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
        full = torch.full((len(self.parts) + 1,) * 2, COMMON**2, dtype=torch.float64)
        full[:-1, :-1] = total
        full[-1, -1] += COLD**2
        return full

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
            costs, weights = here._costs(torch.cat([torch.from_numpy(samples.widths), here._full]))
            prior = here._uncertainty(here._full).numpy()
        ratio, noise = np.append(samples.ratio, 1.0), np.append(np.nan_to_num(samples.noise), 0.0)
        columns = np.column_stack([np.ones(len(costs)), weights.numpy() / dense, costs.numpy() / dense])
        known = self.correction
        found = posterior(columns, ratio, np.hypot(MISFIT, noise), prior, known.scale, known.per_weight)
        return replace(
            here,
            **{**ground_of(samples), "extrapolate": self.extrapolate},
            parts=tuple(replace(part, factor=float(each)) for part, each in zip(self.parts, found[2:-1], strict=True)),
            overhead=float(found[0]) * dense,
            per_weight=float(found[1]),
            cold_factor=float(found[-1]),
            correction=correction_of(columns, ratio),
            calibration=(),
            holdout=None,
        )

    def _demand_same(self, space: WidthSpace, measured: Provenance) -> None:
        """Refuse rows of something else."""
        if (space.names, space.dense) != (self.space.names, self.space.dense):
            raise InputError(
                f"the rows are of {measured.network}, whose groups are not those that the cost was composed of; "
                "compose it of the network that was profiled"
            )
        if self.provenance is not None:
            demand_like(self.provenance, measured, self.runtime)

    def members(self) -> dict[str, Any]:
        """Calls, and what operators cost."""
        return {
            "runtime": self.runtime,
            "unit_cost": self.unit_cost,
            "overhead": self.overhead,
            "per_weight": self.per_weight,
            "cold": {**self.cold.to_json(), "factor": self.cold_factor},
            "correction": {"scale": self.correction.scale, "per_weight": self.correction.per_weight},
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
        parts = tuple(part_from(each, ground["space"]) for each in entries)
        refuse_large([tuple(side for _, side in part.sides) for part in parts])
        correction = fields.inner("correction")
        cold = fields.inner("cold") if "cold" in fields else None  # unknown to files of an older ecc
        operators = OperatorCosts.from_fields(fields, "operators").of_kinds([part.operator.kind for part in parts])
        return cls(
            **ground,
            runtime=fields.text("runtime"),
            unit_cost=fields.number("unit_cost"),
            operators=operators,
            parts=parts,
            overhead=fields.number("overhead"),
            per_weight=fields.number("per_weight"),
            cold=Cold() if cold is None else Cold.from_fields(cold),
            cold_factor=1.0 if cold is None else cold.number("factor"),
            correction=Correction(correction.number("scale"), correction.number("per_weight")),
        )


def demand_like(operators: Provenance, measured: Provenance, runtime: str) -> None:
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
