"""What operators cost as functions of their shape, learnt from an operator profile.

The logarithm of a cost is that of a line with non-negative coefficients (a call, its MACs, the numbers moved: the
roofline's terms, so that it is sane far from all rows) plus a Gaussian process over the logarithms of sizes, which
learns how far from that line the device is, and how sure that is. Kinds with few rows share one process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.table import OperatorTable
from ecc.energy_models.cost_files import numbers, objects
from ecc.energy_models.gaussian_process import Process, learn
from ecc.energy_models.operator_work import TERMS, Sizes, features, sizes_of, work

__all__ = ["FEWEST", "KindCosts", "OperatorCosts"]

Floats = NDArray[np.float64]

FEWEST = 10
"""Rows below which nothing is learnt."""

_ALONE = 20  # rows from which a kind has a process of its own
_BORROWED = 3.0  # rows' weight of all others in the line of a kind of few rows
_MOST_ROWS = 1500  # conditioned on, of one process; drawn at random from more
_FREEDOM = 3.0  # of the Student t that lines are fitted with
_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class KindCosts:
    """Some kinds of operators that share a process.

    Attributes:
        kinds: Their names.
        lines: Cost per term of ``work``, shape (len(TERMS),) for each kind, not negative.
        rows: The operators learnt from, and the number of each one's kind.
        process: Of the logarithm of cost over line.
    """

    kinds: tuple[str, ...]
    lines: Mapping[str, Tensor]
    rows: tuple[tuple[int, Operator], ...]
    process: Process

    def inputs(self, number: int, kind: str, sizes: Sizes) -> Tensor:
        """What the process sees of operators: features, and where kinds share it, which one it is."""
        return _inputs(self.kinds, number, kind, sizes)

    def line(self, name: str, kind: str, sizes: Sizes) -> Tensor:
        """Logarithm of the line, shape (n,)."""
        return (work(kind, sizes) @ self.lines[name]).log()


@dataclass(frozen=True, eq=False)
class OperatorCosts:
    """The cost of any operator of the kinds that were profiled, in the unit of what it was learnt from.

    Attributes:
        models: By the names of kinds that share one.
    """

    models: tuple[KindCosts, ...]

    @cached_property
    def _place(self) -> dict[str, tuple[KindCosts, int]]:
        return {kind: (model, i) for model in self.models for i, kind in enumerate(model.kinds)}

    @property
    def kinds(self) -> frozenset[str]:
        """Those that can be asked for."""
        return frozenset(self._place)

    @classmethod
    def of(cls, table: OperatorTable, metric: str) -> OperatorCosts:
        """Learn from the paired ratios of an operator profile: costs relative to its base operator.

        Raises:
            InputError: If the metric was not measured, or hardly any row can be used.
        """
        if metric not in table.metrics or f"{metric}_ratio" not in table.rows:
            measured = ", ".join(table.metrics) or "nothing"
            raise InputError(
                f"{metric} of operators was not measured on {table.provenance.device} (the profile holds {measured}); "
                f"profile them with --metric {metric}"
            )
        ratio, low, high = (
            np.array(table.rows[f"{metric}_ratio{end}"], dtype=np.float64) for end in ("", "_low", "_high")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            noise = np.log(high / low) / (2 * _Z95)
        return cls.learn(table.operators, ratio, noise=noise)

    @classmethod
    def learn(
        cls,
        operators: Sequence[Operator],
        cost: Sequence[float] | Floats,
        *,
        noise: Sequence[float] | Floats | None = None,
        names: Sequence[str] | None = None,
    ) -> OperatorCosts:
        """Learn from measured operators; rows that have no positive cost are left out.

        Args:
            cost: Of each operator, any unit.
            noise: Standard deviation of each cost's logarithm; NaN where unknown.
            names: What tells kinds apart where that is more than the kinds of operators; these by default.

        Raises:
            InputError: If fewer than FEWEST rows can be used.
        """
        values = np.asarray(cost, dtype=np.float64)
        known = np.nan_to_num(np.zeros(len(values)) if noise is None else np.asarray(noise, dtype=np.float64))
        called = [operator.kind for operator in operators] if names is None else list(names)
        if not len(values) == len(known) == len(operators) == len(called):
            raise InputError("OperatorCosts.learn(): operators, cost, noise and names must have equal lengths")
        usable = np.flatnonzero(np.isfinite(values) & (values > 0)).tolist()
        if len(usable) < FEWEST:
            raise InputError(
                f"the operator profile holds {len(usable)} rows with a cost, at least {FEWEST} are needed; "
                "profile more operators"
            )
        count = Counter(called[i] for i in usable)
        alone = [name for name, rows in count.items() if rows >= _ALONE]
        few = tuple(sorted(name for name, rows in count.items() if rows < _ALONE))
        parts = [(name,) for name in alone] + ([few] if few else [])
        models = []
        for kinds in parts:
            mine = [i for i in usable if called[i] in kinds]
            if len(mine) > _MOST_ROWS:
                mine = sorted(np.random.default_rng(0).choice(mine, _MOST_ROWS, replace=False).tolist())
            numbered = [(kinds.index(called[i]), operators[i]) for i in mine]
            models.append(_learn(kinds, numbered, np.log(values[mine]), np.clip(known[mine], 0, 1)))
        return cls(tuple(models))

    def of_kinds(self, kinds: Sequence[str]) -> OperatorCosts:
        """Only the models that these kinds need.

        Raises:
            InputError: If one was not profiled.
        """
        missing = sorted(set(kinds) - self.kinds)
        if missing:
            raise InputError(
                f"the operator profile holds no {missing[0]!r}, which the network runs; profile more operators"
            )
        return OperatorCosts(tuple(model for model in self.models if set(model.kinds) & set(kinds)))

    def __call__(self, kind: str, sizes: Sizes, *, name: str | None = None) -> Tensor:
        """Cost of operators of a kind, shape (n,), differentiable in the sizes.

        Args:
            name: What the kind is called, where it was learnt under names.
        """
        model, number = self._place[name or kind]
        return (model.line(name or kind, kind, sizes) + model.process.mean(model.inputs(number, kind, sizes))).exp()

    def spread(self, kind: str, sizes: Sizes, *, name: str | None = None) -> Tensor:
        """Standard deviation of the logarithm of each cost, shape (n,)."""
        model, number = self._place[name or kind]
        return model.process.spread(model.inputs(number, kind, sizes))

    def place(self, kind: str) -> tuple[KindCosts, int]:
        """The model of a kind, and the kind's number there."""
        return self._place[kind]

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON value; ``from_fields`` is the inverse."""
        return [
            {
                "kinds": list(model.kinds),
                "lines": {name: line.tolist() for name, line in model.lines.items()},
                "operators": [[number, KINDS.index(each.kind), *each.shape.values()] for number, each in model.rows],
                "residual": model.process.target.tolist(),
                "variance": model.process.variance.tolist(),
                "scale": model.process.scale.tolist(),
                "amplitude": model.process.amplitude,
                "nugget": model.process.nugget,
                "stretch": model.process.stretch,
            }
            for model in self.models
        ]

    @classmethod
    def from_fields(cls, fields: Fields, name: str) -> OperatorCosts:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        entries = objects(fields, name)
        if not 0 < len(entries) <= len(KINDS):
            raise InputError(f"cost model: {name!r} must hold between 1 and {len(KINDS)} models")
        models = tuple(_model(each) for each in entries)
        kinds = [kind for model in models for kind in model.kinds]
        if len(set(kinds)) != len(kinds):
            raise InputError("cost model: a kind of operators has two models")
        return cls(models)


def _inputs(kinds: Sequence[str], number: int, kind: str, sizes: Sizes) -> Tensor:
    seen = features(kind, sizes)
    if len(kinds) == 1:
        return seen
    which = torch.zeros((len(seen), len(kinds)), dtype=torch.float64)
    which[:, number] = 1.0
    return torch.cat([seen, which], -1)


def _by_kind(rows: Sequence[tuple[int, Operator]]) -> dict[tuple[int, str], list[int]]:
    """Positions of the rows of each kind; operators of one name may be of several kinds."""
    found: dict[tuple[int, str], list[int]] = {}
    for i, (number, operator) in enumerate(rows):
        found.setdefault((number, operator.kind), []).append(i)
    return found


def _seen(kinds: Sequence[str], rows: Sequence[tuple[int, Operator]]) -> tuple[Tensor, Tensor]:
    """What the process sees of rows, shape (n, d), and their work, shape (n, len(TERMS))."""
    width = features("conv", sizes_of([Operator("conv")])).shape[1] + (len(kinds) if len(kinds) > 1 else 0)
    inputs = torch.empty((len(rows), width), dtype=torch.float64)
    done = torch.empty((len(rows), len(TERMS)), dtype=torch.float64)
    for (number, kind), places in _by_kind(rows).items():
        sizes = sizes_of([rows[i][1] for i in places])
        inputs[places], done[places] = _inputs(kinds, number, kind, sizes), work(kind, sizes)
    return inputs, done


def _learn(kinds: tuple[str, ...], rows: list[tuple[int, Operator]], log_cost: Floats, known: Floats) -> KindCosts:
    inputs, done = _seen(kinds, rows)
    numbers_ = np.array([number for number, _ in rows])
    lines, base = {}, np.empty(len(rows))
    for number, name in enumerate(kinds):
        mine = numbers_ == number
        weights = np.where(mine, 1.0, _BORROWED / len(rows))
        line = _line(done.numpy(), log_cost, weights)
        lines[name] = torch.from_numpy(line)
        base[mine] = np.log(done.numpy()[mine] @ line)
    process = learn(inputs, torch.from_numpy(log_cost - base), torch.from_numpy(known))
    return KindCosts(kinds, lines, tuple(rows), process)


def _line(done: Floats, log_cost: Floats, weights: Floats) -> Floats:
    """Positive cost per term that explains the logarithms best, rows far from all others counting little.

    A row that is wrong by a factor of a thousand would decide least squares of relative errors alone.
    """
    middle = math.exp(float(np.median(log_cost)))
    usual = np.array([np.median(column[column > 0]) if (column > 0).any() else 1.0 for column in done.T])
    shares, aim = done / usual, log_cost - math.log(middle)
    live = (shares > 0).any(0) & (np.ptp(shares, axis=0) > 1e-12)
    live[0] = True
    shares = shares[:, live]

    def loss(free: Floats) -> tuple[float, Floats]:
        parts = shares * np.exp(free[:-1])
        total = parts.sum(1)
        error, scale = np.log(total) - aim, math.exp(2 * free[-1])
        far = error**2 / (scale * _FREEDOM)
        value = float((weights * ((_FREEDOM + 1) / 2 * np.log1p(far) + free[-1])).sum())
        pull = weights * (_FREEDOM + 1) * error / (scale * _FREEDOM) / (1 + far)
        widen = float((weights * (1 - (_FREEDOM + 1) * far / (1 + far))).sum())
        return value + 0.1 * (free[-1] + 2) ** 2, np.append((pull / total) @ parts, widen + 0.2 * (free[-1] + 2))

    found = []
    for power in (0.0, 0.5, 1.0):  # where to start from: absolute to relative least squares
        scale = weights * np.exp(-power * aim)
        first, _ = optimize.nnls(shares * scale[:, None], np.exp(aim) * scale, maxiter=100 * shares.shape[1])
        start = np.append(np.log(np.clip(first, 1e-4, 1e2)), -1.0)
        bounds = [(-16.0, 8.0)] * len(first) + [(-4.0, 3.0)]
        found.append(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds))
    line = np.zeros(done.shape[1])
    line[live] = np.exp(min(found, key=lambda each: float(each.fun)).x[:-1]) * middle / usual[live]
    return line


def _model(fields: Fields) -> KindCosts:
    """One model of a file."""
    kinds = fields.texts("kinds")
    inner = fields.inner("lines")
    if not 0 < len(kinds) <= len(KINDS) or len(set(kinds)) != len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError("cost model: a model of operators names kinds that there are not")
    lines = {kind: torch.tensor(numbers(inner, kind, length=len(TERMS)), dtype=torch.float64) for kind in kinds}
    if not all(float(line[0]) > 0 and float(line.sum()) < 1e30 for line in lines.values()):
        raise InputError("cost model: an operator's line must cost something even for a call that does nothing")
    rows = tuple(_row(entry, kinds) for entry in fields.items("operators")[: _MOST_ROWS + 1])
    if not 0 < len(rows) <= _MOST_ROWS:
        raise InputError(f"cost model: a model of operators must have between 1 and {_MOST_ROWS} rows")
    inputs, _ = _seen(kinds, rows)
    variance = torch.tensor(numbers(fields, "variance", length=len(rows)), dtype=torch.float64)
    scale = torch.tensor(numbers(fields, "scale", length=inputs.shape[1]), dtype=torch.float64)
    residual = [
        Fields({"value": value}, "cost model: 'residual'").number("value") for value in fields.items("residual")
    ]
    amplitude, nugget, stretch = (fields.number(name) for name in ("amplitude", "nugget", "stretch"))
    sane = 0 < amplitude < 1e3 and 0 <= nugget < 1e3 and 0 < stretch < 1e3 and float(scale.max()) < 1e6
    if not sane or len(residual) != len(rows) or max(map(abs, residual)) > 1e3 or not 0 < float(variance.max()) < 1e9:
        raise InputError("cost model: a model of operators has impossible numbers")
    process = Process(inputs, torch.tensor(residual, dtype=torch.float64), variance, amplitude, nugget, scale, stretch)
    if not process.sound:
        raise InputError("cost model: the rows of a model of operators contradict its parameters")
    return KindCosts(kinds, lines, rows, process)


def _row(entry: object, kinds: Sequence[str]) -> tuple[int, Operator]:
    row = Fields({"row": entry}, "cost model: an operator").wholes("row")
    if len(row) != len(COLUMNS) + 2 or row[0] >= len(kinds) or row[1] >= len(KINDS) or max(row) > 1 << 31:
        raise InputError("cost model: an operator has impossible numbers")
    return row[0], Operator(KINDS[row[1]], *row[2:])
