"""How ADMM converges: duals and violation of two budgets over the steps, for penalties over two decades.

    python experiments/admm_convergence.py

Compresses the network for scikit-learn's digits to 0.5 of its MACs and 0.6 of its parameters at once, with each form
and each width step. Writes one row per step to experiments/measurements/admm_convergence.csv, one per run to
admm_convergence_summary.csv with the environment, and the pictures to admm_convergence-FORM-STEP.png beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from records import MEASUREMENTS, environment

from ecc.core.problem import Constraint, Problem, Task
from ecc.data import load_data
from ecc.energy_models.counting import CountCost
from ecc.network.tracing import trace
from ecc.solvers.admm import Admm
from ecc.solvers.alternation import Alternation
from ecc.solvers.limits import Limits
from ecc.solvers.training import Step, TrainConfig, train
from ecc.zoo.loading import load_model

matplotlib.use("Agg")
from matplotlib import pyplot

RHO = (1.0, 10.0, 100.0)
METHODS = (("paper", "allocation"), ("paper", "gradient"), ("code", "gradient"))
BUDGETS = {"macs": 0.5, "params": 0.6}


class Recorder:
    """An alternation whose state is noted behind every step."""

    def __init__(self, hook: Alternation) -> None:
        self.hook = hook
        self.rows: list[dict[str, Any]] = []

    @property
    def key(self) -> str:
        return self.hook.key

    def after_step(self, step: Step) -> bool:
        done = self.hook.after_step(step)
        hook = self.hook
        row: dict[str, Any] = {"step_index": step.index, "y_max": float(hook.y.max()), "done": done}
        at_phi, at_s = hook.limits.costs(hook.phi).tolist(), hook.limits.costs(hook.s).tolist()
        for name, *values in zip(hook.limits.names, at_phi, at_s, hook.current.tolist(), hook.z.tolist(), strict=True):
            row |= dict(zip((f"{name}", f"{name}_s", f"{name}_limit", f"z_{name}"), values, strict=True))
        row["gap"] = float(((hook.phi - hook.s) / hook.limits.dense).clamp(min=0).max())
        self.rows.append(row)
        return done

    def figures(self) -> Mapping[str, float]:
        return self.hook.figures()

    def state(self) -> dict[str, Any]:
        return self.hook.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.hook.restore(state)


def run(posed: Problem, method: Admm, model: torch.nn.Module) -> list[dict[str, Any]]:
    """One row per step until the budgets are met."""
    recorder = Recorder(Alternation(method, posed, Limits(posed, method.min_fraction), model))
    train(model, posed.task, method.training, teacher=posed.model, hook=recorder)
    return recorder.rows


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Costs with their limits, violation and duals over the steps; a column per rho."""
    figure, axes = pyplot.subplots(3, len(RHO), figsize=(4 * len(RHO), 8), sharex=True, squeeze=False)
    for column, rho in zip(axes.T, RHO, strict=True):
        seen = rows[rows.rho == rho]
        for metric, colour in zip(BUDGETS, ("tab:blue", "tab:orange"), strict=True):
            column[0].plot(seen.step_index, seen[metric], color=colour, label=metric)
            column[0].plot(seen.step_index, seen[f"{metric}_limit"], color=colour, linestyle=":")
            column[1].plot(seen.step_index, (seen[metric] - BUDGETS[metric]).clip(lower=0), color=colour)
            column[2].plot(seen.step_index, seen[f"z_{metric}"], color=colour, label=f"z {metric}")
        column[2].plot(seen.step_index, seen.y_max, color="grey", label="largest y")
        column[0].set_title(f"rho = {rho:g}")
        column[2].set_yscale("symlog", linthresh=1e-3)
        column[2].set_xlabel("step")
    for label, axis in zip(("cost / dense, limit dotted", "above the budget", "duals"), axes[:, 0], strict=True):
        axis.set_ylabel(label)
    axes[0, 0].legend()
    axes[2, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """What a picture shows, in figures."""
    metrics = list(BUDGETS)
    rises = [float(rows[name].diff().clip(lower=0).sum() / rows[name].diff().abs().sum()) for name in metrics]
    last = rows.iloc[-1]
    return {
        "steps": len(rows),
        "met": all(last[name] <= BUDGETS[name] * (1 + 1e-9) for name in metrics),
        "used": max(last[name] / BUDGETS[name] for name in metrics),
        "share_of_rises": max(rises),  # of all that the costs moved: 0 where they only fall
        "worst_lag": max(float((rows[name] - rows[f"{name}_limit"]).clip(lower=0).max()) for name in metrics),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="of each run")
    parser.add_argument("--out", type=Path, default=MEASUREMENTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits", batch_size=64)
    task: Task = data.task()
    torch.manual_seed(0)
    dense = load_model("zoo:digits-resnet").module
    train(dense, task, TrainConfig(epochs=6, lr=3e-3))
    graph = trace(dense, data.example(2))
    costs = [CountCost(metric, graph) for metric in BUDGETS]
    limits = tuple(Constraint(cost, BUDGETS[cost.metric] * cost.dense) for cost in costs)
    posed = Problem(dense, graph.prunable, graph.space, task, limits)
    training = TrainConfig(epochs=options.epochs, lr=2e-3, schedule="constant", dropout=False)
    every, summaries = [], []
    for form, step in METHODS:
        for rho in RHO:
            model = load_model("zoo:digits-resnet").module
            model.load_state_dict(dense.state_dict())
            key = {"form": form, "step": step, "rho": rho}
            method = Admm(training, rho=rho, form=form, step=step)  # type: ignore[arg-type]
            rows = pd.DataFrame(run(posed, method, model))
            every.append(rows.assign(**key))
            summaries.append(key | summary(rows) | environment())
            print(summaries[-1], flush=True)
        draw(pd.concat(every[-len(RHO) :]), options.out / f"admm_convergence-{form}-{step}.png")
    pd.concat(every).to_csv(options.out / "admm_convergence.csv", index=False, float_format="%.6g")
    pd.DataFrame(summaries).to_csv(options.out / "admm_convergence_summary.csv", index=False)


if __name__ == "__main__":
    main()
