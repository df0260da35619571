r"""Diagnostics of a fitted sum: how well each coefficient is known, which rows decide it, whether the errors are even.

Terms that the fit has set to zero are left out; on the others the fit is weighted least squares in relative error,

.. math:: \frac{w_i}{\hat y_i}\, y_i = \frac{w_i}{\hat y_i}\, x_i a + \varepsilon_i,

whose standard errors, influence and tests are those of statsmodels. They answer "what if noise had been drawn anew",
*given* that these are the terms which cost something and that no prior holds the coefficients. A coefficient near zero
could as well have been left out, so its interval is too narrow near zero, and terms whose widths rise and fall
together share wide intervals although their sum is well known. Predictions have intervals of their own, from rows held
out (``FittedCost.interval``), which rest on none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import linalg

from ecc.core.errors import InputError
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.fitted import demand_level
from ecc.energy_models.least_squares import check_strengths, row_weights
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost

__all__ = ["Diagnostics", "diagnose"]

Floats = NDArray[np.float64]

_DEPENDENT = 1e-8  # of the longest column, the length of what is left of one that the others make up
_PART = 1e-6  # share of a column in another, above which it is part of it
_LEVERS = 2.0  # times the mean leverage from which a row counts as deciding (Hoaglin and Welsch, 1978)


@dataclass(frozen=True, slots=True, eq=False)
class Diagnostics:
    """What the rows say of the coefficients and of one another.

    Attributes:
        unit: Of the coefficients, s or J.
        coefficients: One row per term that costs something, ``constant`` first, by name: ``value`` (as fitted),
            ``estimate`` (least squares without a prior), ``standard_error``, ``robust_error`` (HC3: right whether or
            not errors are even), ``low`` and ``high`` (interval of the estimate, cut at 0), at dense widths. All but
            the value are NaN where terms make one another up, as a concatenation and its parts do: then only sums of
            them are known.
        rows: One row per sample, by its number in the profile: ``residual`` (relative error in standard deviations),
            ``leverage`` (how much of its own prediction the row decides, in [0, 1]), ``cooks_distance`` (how far the
            coefficients move without it) and ``decides`` (whether Cook's distance exceeds 4 / n and the leverage twice
            its mean).
        level: Of the intervals.
        freedom: Rows less terms that do not make one another up.
        spread: Standard deviation of the relative error of a row of weight 1.
        uneven: p-value of the test of Breusch and Pagan, in Koenker's form, that relative errors are as large for cheap
            networks as for costly ones; below 0.05 they are not, and ``robust_error`` is the one to believe.
        condition: Condition number of the design with columns of length 1; from about 30 on terms share intervals.
        left_out: Names of the terms that the fit set to zero.
    """

    unit: str
    coefficients: pd.DataFrame
    rows: pd.DataFrame
    level: float
    freedom: int
    spread: float
    uneven: float
    condition: float
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON value; of the rows those that decide, the most influential first."""
        deciding = (
            self.rows[self.rows["decides"]].sort_values("cooks_distance", ascending=False).drop(columns="decides")
        )
        return {
            "unit": self.unit,
            "level": self.level,
            "coefficients": [{"term": str(name), **values} for name, values in _records(self.coefficients)],
            "deciding_rows": [{"row": int(number), **values} for number, values in _records(deciding)],
            "freedom": self.freedom,
            "spread": self.spread,
            "uneven": self.uneven,
            "condition": self.condition,
            "left_out": list(self.left_out),
        }


def diagnose(
    cost: BilinearCost | StaircaseCost, samples: Samples, *, noise: float = 0.03, level: float = 0.95
) -> Diagnostics:
    """Standard errors, influence and evenness of the errors of a cost that was fitted to these rows.

    Args:
        cost: A fitted sum of products.
        samples: The rows that it was fitted to.
        noise: Relative error to expect even of a row without noise, as in the fit.
        level: Of the intervals of coefficients, in (0, 1).

    Raises:
        InputError: If the rows belong to other groups, or are no more than the terms.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.diagnostic import het_breuschpagan

    check_strengths(noise, 1.0)
    demand_level("diagnose", level)
    names, values, features = _design(cost, samples)
    predicted = features @ values / cost.dense
    scale = row_weights(samples.noise, noise) / predicted
    design, aim = features * scale[:, None], samples.ratio * scale
    kept, alone, condition = _independent(design)
    if len(aim) <= len(kept):
        raise InputError(
            f"{len(aim)} profile rows cannot tell how well {len(kept)} terms are known; profile more samples"
        )
    answer = OLS(aim, design[:, kept]).fit()
    influence = answer.get_influence()
    low, high = np.maximum(answer.conf_int(1 - level).T, 0.0)
    leverage, distance = influence.hat_matrix_diag, influence.cooks_distance[0]
    deciding = (distance > 4 / len(aim)) & (leverage > _LEVERS * leverage.mean())
    evenness = het_breuschpagan(answer.resid, np.column_stack([np.ones(len(aim)), np.log(predicted)]))
    found = pd.DataFrame(
        {
            "estimate": answer.params,
            "standard_error": answer.bse,
            "robust_error": answer.HC3_se,
            "low": low,
            "high": high,
        },
        index=kept,
    ).loc[lambda frame: alone[frame.index]]
    coefficients = (found * cost.dense).reindex(range(len(names))).set_index(pd.Index(names, name="term"))
    coefficients.insert(0, "value", values)
    rows = pd.DataFrame(
        {
            "residual": influence.resid_studentized_internal,
            "leverage": leverage,
            "cooks_distance": distance,
            "decides": deciding,
        },
        index=pd.Index(samples.numbers, name="row"),
    )
    return Diagnostics(
        unit=cost.unit,
        coefficients=coefficients,
        rows=rows,
        level=level,
        freedom=int(answer.df_resid),
        spread=float(np.sqrt(answer.scale)),
        uneven=float(evenness[1]),
        condition=condition,
        left_out=_left_out(cost),
    )


def _design(cost: BilinearCost | StaircaseCost, samples: Samples) -> tuple[list[str], Floats, Floats]:
    """Names and values of the terms that cost something, in s or J, and their products at the rows, (n, p)."""
    if cost.space != samples.space or cost.metric != samples.metric:
        raise InputError(
            f"the cost model is of the {cost.metric} of {len(cost.space)} groups, the profile of the {samples.metric} "
            f"of {len(samples.space)} others; give the profile that it was fitted to"
        )
    products = cost.active_products(torch.tensor(samples.widths)).numpy()
    names, values = [term.name for term in cost.active_terms], [term.value for term in cost.active_terms]
    if cost.constant > 0:
        products = np.column_stack([np.ones(len(samples)), products])
        names, values = ["constant", *names], [cost.constant, *values]
    return names, np.array(values), products


def _left_out(cost: BilinearCost | StaircaseCost) -> tuple[str, ...]:
    constant = () if cost.constant > 0 else ("constant",)
    return (*constant, *(term.name for term in cost.terms if term.value == 0))


def _independent(design: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_], float]:
    """Numbers of columns that span all, whether each column stands for itself, and the condition of those that span.

    A column that is part of a linear dependence does not stand for itself: its coefficient can go up and others down
    without any row noticing. Dependences are found with columns of length 1.
    """
    unit = design / np.sqrt((design**2).sum(0))
    _, triangle, order = linalg.qr(unit, mode="economic", pivoting=True)
    size = np.abs(np.diag(triangle))
    rank = int((size > _DEPENDENT * size[0]).sum())
    kept, others = order[:rank], order[rank:]
    mixture = linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])  # of kept columns in the others
    alone = np.ones(design.shape[1], dtype=bool)
    alone[others] = False
    alone[kept[(np.abs(mixture) > _PART).any(axis=1)]] = False
    return np.sort(kept), alone, float(np.linalg.cond(unit[:, kept]))


def _records(frame: pd.DataFrame) -> list[tuple[Any, dict[str, float | None]]]:
    return [
        (name, {key: None if np.isnan(value) else float(value) for key, value in zip(frame.columns, row, strict=True)})
        for name, row in zip(frame.index, frame.to_numpy(dtype=np.float64), strict=True)
    ]
