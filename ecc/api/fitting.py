"""fit and judge: from a profile to a cost model, and to what it is worth."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path

from ecc.core.errors import InputError
from ecc.core.problem import Progress
from ecc.core.table import OperatorTable, ProfileTable
from ecc.energy_models.fitted import FittedCost
from ecc.energy_models.forms import AUTO, demand_form
from ecc.energy_models.judging import Fit
from ecc.energy_models.judging import judge as judge_table
from ecc.profiler.operators import read_operators
from ecc.profiler.store import Store

__all__ = ["fit", "judge", "known_operators", "known_profile", "read_profile"]


def fit(
    table: ProfileTable | str | Path,
    metric: str = "latency",
    *,
    form: str = AUTO,
    operators: OperatorTable | str | Path | None = None,
    robust: bool = False,
    extrapolate: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedCost:
    """The cost model of a profile; ``ecc.judge`` gives its held-out error too.

    Args:
        table: A profile, or the file of a store.
        metric: One that was measured.
        form: ``macs``, ``bilinear``, ``staircase``, ``factored``, ``mlp`` or ``additive``; with ``auto`` held-out error
            decides.
        operators: Operator profile of the same device, or the file of its store; for the form ``additive``.
        robust: Let rows count less that disagree with what the others say.
        extrapolate: Let the model be asked for widths outside those that were profiled.
        seed: Of the folds and of whatever a form draws at random.

    Raises:
        InputError: If the form is unknown, the metric was not measured or the rows cannot carry a fit.
    """
    found = judge(
        table,
        metric,
        form=form,
        operators=operators,
        robust=robust,
        extrapolate=extrapolate,
        seed=seed,
        progress=progress,
    )
    return found.cost


def judge(
    table: ProfileTable | str | Path,
    metric: str = "latency",
    *,
    form: str = AUTO,
    operators: OperatorTable | str | Path | None = None,
    robust: bool = False,
    extrapolate: bool = False,
    seed: int = 0,
    holdout: float = 0.2,
    progress: Progress | None = None,
) -> Fit:
    """Fit a cost model and find its error on rows that it was not fitted to; arguments as of ``fit``.

    Args:
        holdout: Share of the random rows that each fold holds out, in [0.1, 1/3].

    Raises:
        InputError: As of ``fit``, or if the share is out of range.
    """
    demand_form(form, given=operators is not None)
    _demand_seed(seed)
    return judge_table(
        known_profile(table),
        metric,
        form=form,
        operators=None if operators is None else known_operators(operators),
        robust=robust,
        extrapolate=extrapolate,
        seed=seed,
        holdout=holdout,
        progress=progress,
    )


def _demand_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed!r:.80}")


def known_profile(table: object) -> ProfileTable:
    """A profile, or the rows of a store.

    Raises:
        InputError: If it is neither, or as of ``read_profile``.
    """
    if isinstance(table, ProfileTable):
        return table
    if isinstance(table, str | Path):
        return read_profile(table)
    kind = type(table).__name__
    raise InputError(f"a profile cannot be of type {kind}; give what ecc.profile returned, or the file of a store")


def known_operators(operators: OperatorTable | str | Path) -> OperatorTable:
    """An operator profile, or the one in a store.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(operators, str | Path):
        return read_operators(operators)
    if not isinstance(operators, OperatorTable):
        raise InputError(
            f"{operators!r:.80} is no operator profile; give the file of the store "
            "that `ecc profile --operators` has made"
        )
    return operators


def read_profile(path: str | Path) -> ProfileTable:
    """The rows of a store.

    Raises:
        InputError: If there are none, or if they were measured on different things.
    """
    with Store(path) as store:
        origins = store.origins()
        if len(origins) > 1:
            raise InputError(
                f"profile store {str(path)!r} mixes rows of several origins ({'; '.join(origins[:3])}); "
                "keep each in a store of its own"
            )
        return store.table()
