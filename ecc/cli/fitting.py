"""fit: from a profile to a cost model, judged on rows that it has not seen."""

from __future__ import annotations

import argparse
import math

import torch

from ecc.api.fitting import judge, read_profile
from ecc.cli.command import Command, Outcome
from ecc.cli.composing import OF_A_MODEL, add_composition, composed
from ecc.cli.outputs import add_output
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import percent, quantity
from ecc.core.errors import InputError
from ecc.energy_models.forms import AUTO, FORMS, demand_form
from ecc.energy_models.judging import Fit
from ecc.profiler.meters import METRICS
from ecc.report.files import COST, PAGE
from ecc.report.fits import write_fit

__all__ = ["COMMANDS", "fit_text"]

_NEAR = 0.8  # of the error that is asked for: a fit is never quite as good as the noise allows


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="profile store")
    parser.add_argument("--metric", choices=METRICS, default="latency", help="what to model (default latency)")
    forms = "; ".join(f"{name}: {form.summary}" for name, form in FORMS.items())
    parser.add_argument(
        "--form", choices=(AUTO, *FORMS), default=AUTO, help=f"{AUTO}: what held-out error speaks for; {forms}"
    )
    parser.add_argument(
        "--operators", metavar="OPS.db", help="operator profile of the same device, which form additive is made of"
    )
    add_composition(parser)
    parser.add_argument("--robust", action="store_true", help="let rows count less that disagree with the others")
    parser.add_argument(
        "--extrapolate", action="store_true", help="let the model be asked for widths outside those profiled"
    )
    parser.add_argument(
        "--max-error", metavar="SHARE", help="exit with 1 if the held-out MAPE is above, for example 0.05 or 5%%"
    )
    add_output(parser, "--html", kind=PAGE, metavar="PAGE", help="also write all figures of the fit as a page")
    add_output(parser, "-o", "--out", kind=COST, required=True, metavar="FILE", help="cost model, JSON")


def _fit(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    max_error = None if arguments.max_error is None else _share(arguments.max_error)
    if arguments.model is not None:
        return composed(arguments)
    for name in OF_A_MODEL:
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} goes with --model alone, where STORE holds operators; leave it out")
    demand_form(arguments.form, given=arguments.operators is not None)
    profiled = read_profile(arguments.store)
    fit = judge(
        profiled,
        arguments.metric,
        form=arguments.form,
        operators=arguments.operators,
        robust=arguments.robust,
        extrapolate=arguments.extrapolate,
        seed=arguments.seed,
        progress=progress,
    )
    fit.cost.save(arguments.out)
    short = max_error is not None and fit.holdout["mape"] > max_error
    page = None if arguments.html is None else str(write_fit(fit, arguments.html, profiled))
    value = fit.to_json() | {"cost": arguments.out, "page": page, "max_error": max_error}
    text = f"{fit_text(fit, arguments.out, max_error)}\n{_next(fit, arguments.out)}"
    return Outcome(value, text, exit_code=int(short))


def _share(text: str) -> float:
    """An error as a share, which may be typed in per cent; 5 is refused, as who types it means 5 %."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise InputError(f"--max-error must be a share between 0 and 1 such as 0.05 or 5%, got {text!r:.80}")
    return share


def fit_text(fit: Fit, out: str, max_error: float | None = None) -> str:
    """What a fit is worth, for people."""
    cost, held = fit.cost, fit.holdout
    floor = "unknown" if fit.noise_floor != fit.noise_floor else percent(fit.noise_floor)
    meaning = "what a perfect model would show"
    if held["mape"] < fit.noise_floor:
        meaning = "of the rows' intervals; the rows turn out to be less noisy than these say"
    lines = [
        f"{fit.form} model of {cost.metric}, {fit.samples} rows, dense {quantity(cost.dense, cost.metric)}",
        f"held-out error {percent(held['mape'])} (mean), {percent(held['p95'])} (95th percentile), "
        f"{percent(held['worst'])} (worst); {percent(held['within_10pct'])} of the rows within 10 %",
        f"noise floor {floor} ({meaning}); MACs alone {percent(fit.macs_only)}; "
        f"95 % intervals cover {percent(fit.interval_coverage)}",
        *_forms(fit),
        *fit.notes,
        f"written to {out}",
    ]
    if max_error is not None and held["mape"] > max_error:
        lines.append(f"the held-out error is above --max-error {percent(max_error)}; {_mend(fit, max_error)}")
    return "\n".join(lines)


def _next(fit: Fit, out: str) -> str:
    """How far down budgets can go, and what to do now."""
    cost = fit.cost
    with torch.no_grad():
        least = float(cost(cost.floor)) / cost.dense
    return (
        f"the smallest admissible network is predicted at {percent(least)} of dense; next: ecc compress MODEL "
        f"--data DATA --budget {cost.metric}=SHARE --cost {out} --out DIR"
    )


def _mend(fit: Fit, max_error: float) -> str:
    """What to do about an error above the user's: more rows say nothing where their noise is as large as it."""
    if fit.noise_floor > _NEAR * max_error:
        return (
            f"the noise of the rows alone shows as {percent(fit.noise_floor)}, so more rows will not bring it there; "
            "measure again where less else runs, or allow more"
        )
    return "profile more samples"


def _forms(fit: Fit) -> list[str]:
    """All forms beside each other, where there was a choice."""
    if len(fit.forms) < 2:
        return []
    rows = [
        [each.form, percent(each.mape), f"± {percent(each.standard_error or 0.0)}", f"in {each.chosen_in}"]
        if each.mape is not None
        else [each.form, "", "", f"left out: {each.left_out}"]
        for each in fit.forms
    ]
    return [table(["form", "held out", "standard error", "chosen, of the folds"], rows), fit.chosen_because]


COMMANDS = (
    Command(
        "fit",
        "ecc fit resnet20.db --metric latency -o latency.json",
        _arguments,
        _fit,
    ),
)
