"""Forms: the kinds of cost model that can be fitted to a profile, by name, the simplest first.

Installed packages may add to them: entry points of the group ``ecc.forms``, each a Form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ecc.core.errors import InputError
from ecc.core.parts import Parts
from ecc.core.table import OperatorTable
from ecc.energy_models import bilinear, composition, factored, mlp, staircase
from ecc.energy_models.additive import AdditiveCost
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.factored import FactoredCost
from ecc.energy_models.fitted import FittedCost
from ecc.energy_models.mlp import MlpCost
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost

__all__ = ["AUTO", "FORMS", "MACS", "Form", "Options", "demand_form"]

AUTO = "auto"
"""Instead of a form: the one that held-out error speaks for."""

MACS = "macs"
"""The form that every other one must beat."""


_WITHOUT = (
    "is composed of what operators cost on the device: profile them with `ecc profile --operators` and give the store "
    "with --operators (operators=... in Python)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How forms are fitted; each takes what concerns it.

    Attributes:
        operators: Operator profile of the same device and runtime; None where there is none.
        learnt: What was learnt from it for the metric; learnt anew for each fit where None.
        robust: Let rows count less that disagree with what the others say.
        seed: Of whatever a form draws at random.
    """

    operators: OperatorTable | None = None
    learnt: OperatorCosts | None = None
    robust: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of cost model.

    Attributes:
        cost: Its class, which also reads it from files.
        fit: Fits it to rows that are already checked; InputError where they cannot carry it.
        summary: What it is, in a few words.
        needs_operators: Whether it is made of an operator profile.
    """

    cost: type[FittedCost]
    fit: Callable[[Samples, Options], FittedCost]
    summary: str
    needs_operators: bool = False


def _fit_additive(samples: Samples, options: Options) -> AdditiveCost:
    if options.operators is None:
        raise InputError(f"form additive {_WITHOUT}")
    return composition.fit_samples(samples, options.operators, options.learnt)


def _as_form(name: str, found: Any) -> Form:
    if not isinstance(found, Form) or found.cost.form != name:
        raise InputError(f"form {name!r} must be a Form whose cost has the form {name!r}, got {found!r:.80}")
    return found


FORMS: Mapping[str, Form] = Parts(
    "ecc.forms",
    {
        MACS: Form(
            BilinearCost,
            lambda samples, options: bilinear.fit_macs(samples, robust=options.robust),
            "constant + one price per MAC, which is all that few rows carry",
        ),
        "bilinear": Form(
            BilinearCost,
            lambda samples, options: bilinear.fit_samples(samples, robust=options.robust),
            "constant + products of the widths that a layer reads and writes",
        ),
        "staircase": Form(
            StaircaseCost,
            lambda samples, options: staircase.fit_samples(samples, robust=options.robust),
            "the same on hardware that works in tiles, whose sizes are found in the rows",
        ),
        "factored": Form(
            FactoredCost,
            lambda samples, options: factored.fit_samples(samples, robust=options.robust),
            "staircase times a factor per group, for kernels that prefer some widths",
        ),
        "mlp": Form(
            MlpCost,
            lambda samples, options: mlp.fit_samples(samples, robust=options.robust, seed=options.seed),
            "bilinear times what small neural networks learn of its error",
        ),
        "additive": Form(
            AdditiveCost,
            _fit_additive,
            "the sum of what the network's operators cost alone, corrected by rows; needs --operators",
            needs_operators=True,
        ),
    },
    _as_form,
)
"""The fitted forms by name; of two that predict equally well the earlier one is preferred."""


def demand_form(name: str, *, given: bool) -> None:
    """Refuse a form that does not exist, or whose operator profile is missing or not asked for.

    Args:
        given: Whether there is an operator profile.

    Raises:
        InputError: If so.
    """
    if name not in (AUTO, *FORMS):
        raise InputError(f"cost model form {name!r} is unknown; choose from {', '.join((AUTO, *FORMS))}")
    if name == AUTO:
        return
    if FORMS[name].needs_operators and not given:
        raise InputError(f"form {name} {_WITHOUT}")
    if given and not FORMS[name].needs_operators:
        raise InputError(f"form {name} makes no use of an operator profile; leave it out, or choose another form")
