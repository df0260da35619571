"""Choice: which of several forms the held-out errors speak for, and why.

The simplest form wins unless another one predicts better by more than chance explains: of all forms whose error exceeds
the least one by no more than the standard error of the difference, over the same rows, the first is taken. (The
one-standard-error rule of Breiman, Friedman, Olshen and Stone, 1984, on paired differences.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidate", "choose", "explain"]

Floats = NDArray[np.float64]


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


def choose(errors: Mapping[str, Floats]) -> str:
    """The form to take.

    Args:
        errors: Absolute relative errors of the same rows by form, the simplest first, each of shape (n_rows,).
    """
    best = min(errors, key=lambda form: float(errors[form].mean()))
    for form, error in errors.items():
        gain = error - errors[best]
        if gain.mean() <= _standard_error(gain):
            return form
    return best


def explain(errors: Mapping[str, Floats]) -> str:
    """Why ``choose`` takes what it takes, in one sentence."""
    chosen = choose(errors)
    best = min(errors, key=lambda form: float(errors[form].mean()))
    if len(errors) == 1:
        return f"{chosen} is the only form that can be fitted to these rows"
    if chosen != best:
        return (
            f"{chosen} is the simplest form whose held-out error cannot be told from the least one: {best} is better "
            f"by {_points(errors[chosen] - errors[best])}, which is no more than its standard error"
        )
    simpler = list(errors)[: list(errors).index(chosen)]
    rest = f"{chosen} has the least held-out error, {_points(errors[chosen])}"
    if not simpler:
        return f"{rest}, and is the simplest form"
    gains = ", ".join(f"{form} by {_points(errors[form] - errors[chosen])}" for form in simpler)
    return f"{rest}; what is simpler is worse by more than one standard error ({gains})"


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _points(error: Floats) -> str:
    return f"{100 * error.mean():.2f} ± {100 * _standard_error(error):.2f} %"
