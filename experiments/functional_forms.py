"""Which form of cost model needs how many rows, on simulated hardware that works in steps.

    python experiments/functional_forms.py [--rows N …] [--seeds S] [--only FORM …] [--fresh]

Eight convolutions one after the other, widths drawn evenly in single channels, three devices whose cost is known
exactly: a 32 × 32 systolic array that keeps outputs or weights in place (the closed forms of SCALE-Sim), and a toy GPU
with tiles of 64 × 64, waves of 16 of them and a cost per launch. Rows that forms are fitted to carry 5 % log-normal
noise; the error is that at 2,000 other widths, without noise. Every form of the package is fitted as ``ecc fit``
does; ``auto`` chooses among them by nested cross-validation. Peers are boosted trees and random forests of scikit-learn
on the logarithm of the ratio, reading the widths, or the widths and the products that the bilinear form is made of.

Writes measurements/functional_forms.csv, one row per device, form, number of rows and seed, as each is done; what is
there is left alone unless ``--fresh``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import MEASUREMENTS, Records
from sampling import chain, drawn
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from staircase import ARRAY, NOISE, Hardware, as_table

from ecc.core.layers import SumOfProducts
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.fitted import ground_of
from ecc.energy_models.forms import AUTO, FORMS, Options
from ecc.energy_models.judging import judge
from ecc.energy_models.least_squares import row_weights, shrunken_nnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import terms_of

ROWS = (50, 100, 200, 500, 2000)
SEEDS = 5
TESTED = 2000
TILE, SMS, BATCH = 64, 16, 16
LAUNCH = 1000  # in steps of a tile's inner products: 5 µs where one takes 5 ns

Floats = NDArray[np.float64]
Predictor = Callable[[NDArray[np.int64]], Floats]


@dataclass(frozen=True, eq=False)
class Device:
    """What a network's layers cost, in cycles.

    Attributes:
        cycles: Output pixels, filters and words per filter of each layer, each of shape (…, n_layers) → cycles.
        batch: Examples at once.
    """

    cycles: Callable[[Floats, Floats, Floats], Floats]
    batch: int = 1


def output_stationary(m: Floats, n: Floats, k: Floats) -> Floats:
    return np.asarray(np.ceil(m / ARRAY) * np.ceil(n / ARRAY) * (k + 2 * ARRAY - 2))


def weight_stationary(m: Floats, n: Floats, k: Floats) -> Floats:
    return np.asarray(np.ceil(k / ARRAY) * np.ceil(n / ARRAY) * (m + 3 * ARRAY - 2))


def toy_gpu(m: Floats, n: Floats, k: Floats) -> Floats:
    """Tiles in waves; a tile takes as long as its inner products, and as its own side to fill and drain."""
    waves = np.ceil(np.ceil(m / TILE) * np.ceil(n / TILE) / SMS)
    return np.asarray(LAUNCH + waves * (k + TILE))


DEVICES: Mapping[str, Device] = {
    "OS-32": Device(output_stationary),
    "WS-32": Device(weight_stationary),
    "toy GPU": Device(toy_gpu, BATCH),
}


def ratios(network: Hardware, device: Device, widths: NDArray[np.int64]) -> Floats:
    """The cost at widths of shape (n, n_groups), relative to the dense network: shape (n,)."""
    pixels, filters, words = network.sizes.T

    def cycles(at: NDArray[np.int64]) -> Floats:
        reads, writes = (
            SumOfProducts(network.graph.space, [(side,) for side in sides])(torch.tensor(at)).numpy()
            for sides in ([layer.reads for layer in network.layers], [layer.writes for layer in network.layers])
        )
        return np.asarray(
            device.cycles(device.batch * pixels, np.round(writes * filters, 6), np.round(reads * words, 6)).sum(-1)
        )

    return np.asarray(cycles(widths) / cycles(np.array([network.graph.space.dense])))


def products_only(samples: Samples) -> BilinearCost:
    """The bilinear form as published: a constant and the products, no linear terms."""
    found = terms_of(samples.space, samples.layers)
    keep = np.flatnonzero(found.macs)
    products = replace(
        found,
        names=tuple(found.names[i] for i in keep),
        factors=tuple(found.factors[i] for i in keep),
        macs=found.macs[keep],
    )
    values = SumOfProducts(samples.space, products.factors)(torch.tensor(samples.widths)).numpy()
    shares = shrunken_nnls(
        np.column_stack([np.ones(len(samples)), values]),
        samples.ratio,
        row_weights(samples.noise, NOISE),
        np.concatenate([[products.fixed_macs], products.macs]),
        noise=0.03,
    )
    dense = samples.reference[0]
    return BilinearCost(
        **ground_of(samples), constant=float(shares[0]) * dense, terms=products.with_values(shares[1:] * dense)
    )


def trees(samples: Samples, make: Callable[[], Any], *, products: bool) -> Predictor:
    """A tree model of scikit-learn on widths, or widths and products."""
    evaluate = SumOfProducts(samples.space, terms_of(samples.space, samples.layers).factors)

    def features(widths: NDArray[Any]) -> Floats:
        own = widths / np.array(samples.space.dense)
        return np.column_stack([own, evaluate(torch.tensor(widths)).numpy()]) if products else own

    model = make().fit(features(samples.widths), np.log(samples.ratio))
    return lambda widths: np.asarray(np.exp(model.predict(features(widths))))


def boosted(seed: int) -> Any:
    return GradientBoostingRegressor(n_estimators=300, max_depth=3, learning_rate=0.1, random_state=seed)


def forest(seed: int) -> Any:
    return RandomForestRegressor(n_estimators=200, random_state=seed)


Made = tuple[Predictor, str]
"""A fitted model and the form that it is of."""


def fitters(seed: int) -> dict[str, Callable[[Any], Made]]:
    """Table → predictions, by the name of the form."""

    def of(cost: Any) -> Made:
        return (lambda widths: cost(torch.tensor(widths)).detach().numpy() / cost.dense), cost.form

    def package(name: str, table: Any) -> Made:
        return of(FORMS[name].fit(Samples.of(table, "latency"), Options(seed=seed)))

    def peer(make: Callable[[int], Any], products: bool, table: Any) -> Made:
        return trees(Samples.of(table, "latency"), partial(make, seed), products=products), ""

    return {
        "products only": lambda table: of(products_only(Samples.of(table, "latency"))),
        **{name: partial(package, name) for name, form in FORMS.items() if not form.needs_operators},
        AUTO: lambda table: of(judge(table, "latency", form=AUTO, seed=seed).cost),
        "boosted trees": partial(peer, boosted, False),
        "boosted trees, products": partial(peer, boosted, True),
        "random forest": partial(peer, forest, False),
        "random forest, products": partial(peer, forest, True),
    }


def measure(network: Hardware, device: Device, fit: Callable[[Any], Made], rows: int, seed: int) -> dict[str, Any]:
    """Held-out error of one fit in per one, and its process time in s."""
    space = network.graph.space
    widths = drawn(space, rows, seed)
    noise = np.exp(np.random.default_rng((seed, rows)).normal(0, NOISE, rows))
    table = as_table(network.graph, widths, ["random"] * rows, ratios(network, device, widths) * noise, NOISE)
    start = time.process_time()
    predict, form = fit(table)
    took = time.process_time() - start
    rest = drawn(space, TESTED, 10_000 + seed)
    error = np.abs(predict(rest) / ratios(network, device, rest) - 1)
    return {"mape": error.mean(), "p95": np.quantile(error, 0.95), "chosen": form, "process_s": round(took, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", nargs="+", help="forms to measure; all when left out")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = chain()
    records = Records(MEASUREMENTS / "functional_forms.csv", ("device", "form", "rows", "seed"), fresh=given.fresh)
    for seed in range(given.seeds):
        for rows in given.rows:
            for name, fit in fitters(seed).items():
                for place, device in DEVICES.items() if not given.only or name in given.only else ():
                    key = {"device": place, "form": name, "rows": rows, "seed": seed}
                    records.add(key, partial(measure, network, device, fit, rows, seed))


if __name__ == "__main__":
    main()
