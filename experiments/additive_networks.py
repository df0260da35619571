"""Error of costs composed of an operator profile, for networks that were never profiled and with few rows of them.

    python experiments/additive_networks.py OPERATORS.db NETWORK.db [NETWORK.db …]

NETWORK.db are profiles of networks of the zoo on the same device. Each network is traced anew, so that profiles without
calls serve too. For each, a row for 0 calibration rows (absolute values and ratios to dense), one for 0 rows but with
what the rows of each other network tell of the device, and for 5 to 100 rows the median and worst of DRAWS random
choices of them, judged on all others. Writes measurements/additive_networks.csv, with the environment.

A profile of another runtime than the operators' is composed by that runtime's own rules of merging calls; absolute
values then mean little, and the row says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from records import environment

from ecc.core.table import OperatorTable
from ecc.energy_models.additive import AdditiveCost
from ecc.energy_models.composition import compose
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.operators import read_operators
from ecc.profiler.store import Store
from ecc.zoo.loading import load_model

HERE = Path(__file__).resolve().parent / "measurements"
DRAWS = 15
ROWS = (5, 10, 20, 50, 100)
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profile:
    """A profiled network of the zoo.

    Attributes:
        title: Of its store.
        graph: Traced anew.
        samples: Its rows.
    """

    title: str
    graph: WidthGraph
    samples: Samples

    @classmethod
    def read(cls, path: Path) -> Profile:
        with Store(path) as store:
            table = store.table()
        model = load_model(f"zoo:{table.provenance.network}").module
        graph = trace(model, torch.zeros(table.provenance.input_shape))
        if graph.fingerprint != table.provenance.fingerprint:
            raise SystemExit(f"{path} holds another {table.provenance.network} than the zoo has")
        return cls(path.stem, graph, Samples.of(table, "latency"))

    def predicted(self, cost: AdditiveCost) -> Floats:
        with torch.no_grad():
            return np.asarray(cost.evaluate(torch.tensor(self.samples.widths)).numpy())


def composed(
    profile: Profile, operators: OperatorTable, learnt: OperatorCosts, like: AdditiveCost | None = None
) -> AdditiveCost:
    """The network's cost before any of its rows."""
    runtime = profile.samples.provenance.runtime
    return compose(profile.graph, operators, "latency", runtime=runtime, like=like, learnt=learnt)


def unseen(profile: Profile, cost: AdditiveCost) -> dict[str, float]:
    """Errors of a cost that has seen no row of the network."""
    ratio, dense = profile.samples.ratio, profile.samples.reference[0]
    found, widths = profile.predicted(cost), torch.tensor(profile.samples.widths)
    low, high = (bound.detach().numpy() for bound in cost.interval(widths))
    return {
        "mape_seconds": float(np.abs(found / (ratio * dense) - 1).mean()),
        "mape_ratio": float(np.abs(found / cost.dense / ratio - 1).mean()),
        "interval_covers": float(((low <= ratio * dense) & (ratio * dense <= high)).mean()),
    }


def calibrated(profile: Profile, cost: AdditiveCost, rows: int) -> dict[str, float]:
    """Errors of ratios after calibration on random rows, over all others."""
    generator = np.random.default_rng(rows)
    errors = []
    for _ in range(DRAWS):
        order = generator.permutation(len(profile.samples))
        found = cost.calibrate_samples(profile.samples.take(order[:rows]))
        relative = profile.predicted(found) / found.dense / profile.samples.ratio - 1
        errors.append(float(np.abs(relative[order[rows:]]).mean()))
    return {"mape_ratio": float(np.median(errors)), "worst_draw": max(errors), "draws": DRAWS}


def compare(profiles: list[Profile], operators: OperatorTable, learnt: OperatorCosts) -> Iterator[Mapping[str, Any]]:
    """Rows of figures, network by network."""
    plain = {profile.title: composed(profile, operators, learnt) for profile in profiles}
    for profile in profiles:
        mine, cost = profile.samples.provenance, plain[profile.title]
        key = {"profile": profile.title, "network": mine.network, "runtime": mine.runtime}
        key |= {"operators": operators.provenance.runtime}
        yield {**key, "rows": 0, "corrected_by": "", **unseen(profile, cost)}
        for other in profiles:
            theirs = other.samples.provenance
            if theirs.runtime == mine.runtime and theirs.fingerprint != mine.fingerprint:
                found = composed(profile, operators, learnt, plain[other.title].calibrate_samples(other.samples))
                yield {**key, "rows": 0, "corrected_by": other.title, **unseen(profile, found)}
        for rows in (count for count in ROWS if count <= len(profile.samples) / 2):  # enough are left to judge by
            start = time.process_time()
            found = calibrated(profile, cost, rows)
            yield {**key, "rows": rows, "corrected_by": "", **found, "process_s": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", help="store of an operator profile")
    parser.add_argument("networks", nargs="+", type=Path, help="stores of profiles of networks")
    parser.add_argument("--out", type=Path, default=HERE / "additive_networks.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    operators = read_operators(arguments.operators)
    learnt = OperatorCosts.of(operators, "latency")
    rows = compare([Profile.read(path) for path in arguments.networks], operators, learnt)
    pd.DataFrame([row | environment() for row in rows]).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
