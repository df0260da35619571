"""k-means in one dimension: exact Lloyd steps on sorted values, with prefix sums.

Clusters of numbers are intervals, so a step needs the borders between centroids only: k searches and k differences of
prefix sums, whatever the number of values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError

__all__ = ["INITS", "lloyd", "nearest"]

Floats = NDArray[np.float64]
_NODES = 4096  # quantiles by which a density is estimated


def lloyd(
    values: NDArray[np.floating],
    k: int,
    *,
    weights: NDArray[np.floating] | None = None,
    init: str = "linear",
    steps: int = 100,
    seed: int = 0,
) -> Floats:
    """At most ``k`` centroids, rising and distinct, each the mean of the values that are nearest to it.

    A centroid that no value is nearest to goes to where mass is spread widest, and is left out if it is without values
    at the end.

    Args:
        values: Shape (n,), n ≥ 1, finite.
        k: Of centroids, at least 1.
        weights: Of the values, shape (n,), not negative, not all zero; all equal where None.
        init: A key of ``INITS``.
        steps: At most; fewer where no border moves over a value.
        seed: Of the inits that draw.

    Raises:
        InputError: If an argument is none of these.
    """
    _demand(values, k, weights, init)
    x, mass, moment = _sorted(values, weights)
    centroids = np.unique(INITS[init](x, mass, k, np.random.default_rng(seed)))
    before = np.zeros(0, np.int64)
    for _ in range(steps):
        centroids = _refilled(x, mass, centroids, k)
        cuts = _cuts(x, centroids)
        if np.array_equal(cuts, before):
            break
        before = cuts
        filled = np.diff(mass[cuts]) > 0
        means = np.divide(np.diff(moment[cuts]), np.diff(mass[cuts]), out=centroids.copy(), where=filled)
        centroids = np.unique(np.clip(means, float(x[0]), float(x[-1])))
    found: Floats = centroids[np.diff(mass[_cuts(x, centroids)]) > 0]
    return found


def _refilled(x: NDArray[np.floating], mass: Floats, centroids: Floats, k: int) -> Floats:
    """The centroids that have values, and those without in the clusters that spread most mass widest."""
    cuts = _cuts(x, centroids)
    if len(centroids) == k and (np.diff(mass[cuts]) > 0).all():
        return centroids
    filled = np.diff(mass[cuts]) > 0
    low, high = x[cuts[:-1][filled]].astype(np.float64), x[cuts[1:][filled] - 1].astype(np.float64)
    kept = centroids[filled]
    spread = np.diff(mass[cuts])[filled] * (high - low) ** 2
    chosen = np.argsort(-spread, kind="stable")[: k - len(kept)]
    chosen = chosen[spread[chosen] > 0]
    wider = np.where(high - kept > kept - low, (high + kept) / 2, (low + kept) / 2)[chosen]
    return np.unique(np.concatenate([kept, wider]))


def _sorted(
    values: NDArray[np.floating], weights: NDArray[np.floating] | None
) -> tuple[NDArray[np.floating], Floats, Floats]:
    """Sorted values; the mass, and the mass times values, before each and behind the last."""
    mass, moment = np.zeros(len(values) + 1), np.zeros(len(values) + 1)
    if weights is None:
        x = np.sort(values)
        mass[:] = np.arange(len(mass))
        np.cumsum(x, dtype=np.float64, out=moment[1:])
        return x, mass, moment
    order = np.argsort(values)
    x, w = values[order], weights[order].astype(np.float64)
    np.cumsum(w, out=mass[1:])
    np.cumsum(w * x, out=moment[1:])
    return x, mass, moment


def nearest(values: NDArray[np.floating], centroids: Floats) -> NDArray[np.int64]:
    """For each value the number of the nearest of rising centroids; of two equally near, the greater."""
    found: NDArray[np.int64] = np.searchsorted(_borders(centroids, values.dtype), values, side="right").astype(np.int64)
    return found


def _borders(centroids: Floats, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """The least numbers of the dtype that are as near to the centroid above as to the one below."""
    middles = centroids[:-1] + np.diff(centroids) / 2
    borders = middles.astype(dtype)
    return np.asarray(np.where(borders < middles, np.nextafter(borders, dtype.type(np.inf)), borders))


def _cuts(x: NDArray[np.floating], centroids: Floats) -> NDArray[np.int64]:
    """Where in the sorted values each cluster begins, and the end of the last."""
    inner = np.searchsorted(x, _borders(centroids, x.dtype), side="left")
    return np.concatenate([[0], inner, [len(x)]])


def _demand(values: NDArray[np.floating], k: int, weights: NDArray[np.floating] | None, init: str) -> None:
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("k-means needs a vector of finite values, at least one; a weight that is NaN has no centroid")
    if k < 1:
        raise InputError(f"k-means needs at least one centroid, got k={k}")
    if init not in INITS:
        raise InputError(f"k-means begins with {', '.join(INITS)}, not with {init!r}")
    if weights is not None and (weights.shape != values.shape or not (weights >= 0).all() or not weights.any()):
        raise InputError("k-means needs a weight per value, none negative and not all zero")


_Init = Callable[[NDArray[np.floating], Floats, int, np.random.Generator], Floats]


def _linear(x: NDArray[np.floating], mass: Floats, k: int, draw: np.random.Generator) -> Floats:
    return np.linspace(float(x[0]), float(x[-1]), k)


def _quantile(x: NDArray[np.floating], mass: Floats, k: int, draw: np.random.Generator) -> Floats:
    wanted = (np.arange(k) + 0.5) / k * mass[-1]
    return _at(x, mass, wanted)


def _at(x: NDArray[np.floating], mass: Floats, wanted: Floats) -> Floats:
    """The values up to which so much mass lies."""
    found: Floats = x[np.clip(np.searchsorted(mass[1:], wanted), 0, len(x) - 1)].astype(np.float64)
    return found


def _cube_root(x: NDArray[np.floating], mass: Floats, k: int, draw: np.random.Generator) -> Floats:
    """As densely as the cube root of the values' density, the optimum for many centroids (Panter and Dite, 1951).

    Between two neighbours of m quantiles, a distance of d apart, the density is 1/(m d), and its cube root times d
    goes with d^(2/3).
    """
    nodes = _at(x, mass, np.linspace(0, mass[-1], min(len(x), _NODES)))
    share = np.concatenate([[0.0], np.cumsum(np.diff(nodes) ** (2 / 3))])
    return np.asarray(np.interp((np.arange(k) + 0.5) / k * share[-1], share, nodes))


def _forgy(x: NDArray[np.floating], mass: Floats, k: int, draw: np.random.Generator) -> Floats:
    """Random values."""
    return _at(x, mass, draw.random(k) * mass[-1])


def _plus_plus(x: NDArray[np.floating], mass: Floats, k: int, draw: np.random.Generator) -> Floats:
    """Each a value drawn by its squared distance to those before (Arthur and Vassilvitskii, 2007).

    Among quantiles where the values are many: the nearest of them stands for a value.
    """
    nodes = x.astype(np.float64) if len(x) <= 16 * _NODES else _at(x, mass, np.linspace(0, mass[-1], 16 * _NODES))
    heavy = np.diff(mass) if len(nodes) == len(x) else np.ones(len(nodes))
    chosen = [nodes[draw.choice(len(nodes), p=heavy / heavy.sum())]]
    distance = (nodes - chosen[0]) ** 2
    while len(chosen) < k and (chance := distance * heavy).any():
        chosen.append(nodes[draw.choice(len(nodes), p=chance / chance.sum())])
        distance = np.minimum(distance, (nodes - chosen[-1]) ** 2)
    return np.array(chosen)


INITS: Mapping[str, _Init] = MappingProxyType(
    {
        "linear": _linear,
        "quantile": _quantile,
        "cube-root": _cube_root,
        "forgy": _forgy,
        "kmeans++": _plus_plus,
    }
)
"""Where centroids begin, by name: (sorted values, mass before each, k, generator) → centroids.

``linear`` gives rare large weights centroids of their own, which suits weights that are pruned and then tuned (Deep
Compression); ``cube-root`` leaves fewer to outliers and is near the least squared error.
"""
