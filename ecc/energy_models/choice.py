"""Choice: which of several forms the held-out errors speak for, and why.

The simplest form wins unless another one makes the rows that were held out likelier by a factor of e, one unit of
log-likelihood. (The one-standard-error rule, which was here before, asks whether a form would be better on other rows,
each with its own noise; over simulated devices, networks and noises it missed the best form by twice as much.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidate", "choose", "explain", "surprise"]

Floats = NDArray[np.float64]

_MOST_ODDS = 1000  # beyond that a figure says nothing
_CERTAIN = 1.0  # unit of log-likelihood by which a form must beat simpler ones
_FREEDOM = 6.0  # degrees, of the distribution that errors are taken to have
_FINEST = 1e-3  # relative error below which better is no better
_ROUNDS = 15  # in which the scale of errors settles


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form and what became of it.

    Attributes:
        form: Its name.
        mape: Mean relative error of rows held out; None where it was left out.
        standard_error: Of that mean; None likewise.
        chosen_in: Number of folds whose other rows alone speak for it.
        left_out: Why it was not fitted; empty where it was.
    """

    form: str
    mape: float | None = None
    standard_error: float | None = None
    chosen_in: int = 0
    left_out: str = ""

    @classmethod
    def of(cls, form: str, error: Floats, chosen_in: int) -> Candidate:
        """A form with the absolute relative error of each row that was held out."""
        return cls(form, float(error.mean()), _standard_error(error), chosen_in)

    def to_json(self) -> dict[str, Any]:
        """An entry of ``forms``."""
        return asdict(self)


def surprise(errors: Floats) -> float:
    """How unlikely relative errors are: their negative log-likelihood at the scale that suits them.

    They are taken to be distributed as Student's t with six degrees of freedom, so that a few outliers decide nothing,
    and to be no smaller than 0.1 %, so that what is exact in two ways is equally good.

    Args:
        errors: Of shape (n,), with or without sign.
    """
    squares = errors**2
    scale = float(squares.mean())
    for _ in range(_ROUNDS):
        scale = max(scale, _FINEST**2)
        scale = float(((_FREEDOM + 1) * squares / (_FREEDOM + squares / scale)).mean())
    scale = max(scale, _FINEST**2)
    tails = np.log1p(squares / (_FREEDOM * scale)).sum()
    return float(len(errors) / 2 * math.log(scale) + (_FREEDOM + 1) / 2 * tails)


def choose(errors: Mapping[str, Floats]) -> str:
    """The form to take.

    Args:
        errors: Relative errors of the same rows by form, with or without sign, the simplest form first, each of shape
            (n_rows,).
    """
    surprises = {form: surprise(error) for form, error in errors.items()}
    least = min(surprises.values())
    return next(form for form, each in surprises.items() if each - least <= _CERTAIN)


def explain(errors: Mapping[str, Floats]) -> str:
    """Why ``choose`` takes what it takes, in one sentence.

    Args:
        errors: As of ``choose``, without sign.
    """
    chosen = choose(errors)
    if len(errors) == 1:
        return f"{chosen} is the only form that can be fitted to these rows"
    surprises = {form: surprise(error) for form, error in errors.items()}
    best = min(surprises, key=lambda form: surprises[form])
    if chosen != best:
        return (
            f"{chosen} is the simplest form whose held-out errors, {_points(errors[chosen])}, are about as good as "
            f"those of {best}, {_points(errors[best])}: the held-out rows speak for {best} by only "
            f"{_odds(surprises[chosen] - surprises[best])}"
        )
    simpler = list(errors)[: list(errors).index(chosen)]
    rest = f"{chosen} has the best held-out errors, {_points(errors[chosen])}"
    if not simpler:
        return f"{rest}, and is the simplest form"
    losses = " and ".join(f"{_odds(surprises[form] - surprises[chosen])} against {form}" for form in simpler)
    return f"{rest}; the held-out rows speak against what is simpler: {losses}"


def _odds(difference: float) -> str:
    """How much likelier the rows are under one form than under another.

    Args:
        difference: Of their ``surprise``.
    """
    most = math.log(_MOST_ODDS)
    return f"more than {_MOST_ODDS:,} to 1" if difference > most else f"{math.exp(difference):.2g} to 1"


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _points(error: Floats) -> str:
    return f"{100 * error.mean():.2f} ± {100 * _standard_error(error):.2f} %"
