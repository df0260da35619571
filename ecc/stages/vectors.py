"""Clustering of short vectors: weighted k-means with D² sampling, for product quantisation.

One-dimensional codebooks have exact methods of their own (``ecc.stages.kmeans``); this is Lloyd's algorithm for parts
of a few dimensions and up to some thousand centroids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ecc.core.errors import InputError

__all__ = ["cluster", "nearest"]

Floats = NDArray[np.floating]

_BLOCK = 1 << 22  # distances that are in memory at once
_TREE = 4  # up to so many dimensions a k-d tree is faster than a product of matrices
_MOST, _PER_CENTROID = 1 << 16, 32  # points that a codebook is fitted to: at most the larger of both limits
_ROUNDS = 32  # in which the first centroids are drawn


def cluster(
    points: Floats, size: int, *, weights: Floats | None = None, steps: int = 30, seed: int = 0
) -> NDArray[np.float32]:
    """Centroids that make the weighted squared distance of the points to the nearest one small.

    First centroids by D² sampling (Arthur and Vassilvitskii, SODA 2007), several per round (k-means||, Bahmani et al.,
    VLDB 2012); then Lloyd's steps, in which a centroid without points moves to the point that is worst off. Of more
    than 65,536 points and 32 per centroid a random part is used.

    Args:
        points: Shape (n, d).
        size: Of the codebook; where there are fewer different points, they are the codebook.
        weights: Of the points, shape (n,), not negative; all equal when None.
        steps: Lloyd's steps at most; they end once the error falls by less than 0.03 %.
        seed: Of the sampling.

    Returns:
        Shape (at most ``size``, d).

    Raises:
        InputError: If there is no point.
    """
    if points.ndim != 2 or not points.size:
        raise InputError(f"a codebook needs points of shape (n, d), at least one, got shape {points.shape}")
    random = np.random.default_rng(seed)
    most = max(_MOST, _PER_CENTROID * size)
    part = np.sort(random.permutation(len(points))[:most]) if len(points) > most else slice(None)
    x = np.ascontiguousarray(points[part], dtype=np.float32)
    w = np.ones(len(x)) if weights is None else np.asarray(weights[part], dtype=np.float64)
    if not w.any():
        w = np.ones(len(x))
    centroids = _drawn(x, w, size, random)
    last = np.inf
    for _ in range(steps):
        codes = nearest(x, centroids)
        errors = w * _squares(x, centroids[codes])
        total = float(errors.sum())
        if total >= 0.9997 * last:
            break
        last = total
        centroids = _means(x, w, codes, errors, centroids)
    return centroids


def nearest(points: Floats, centroids: Floats) -> NDArray[np.int64]:
    """Number of the nearest centroid of every point; points (n, d), centroids (k, d) → (n,)."""
    x, c = np.asarray(points, dtype=np.float32), np.asarray(centroids, dtype=np.float32)
    if c.shape[1] <= _TREE and len(c) > 16:
        return np.asarray(cKDTree(c).query(x)[1], dtype=np.int64)
    codes = np.empty(len(x), dtype=np.int64)
    half_norms = 0.5 * np.square(c).sum(1)
    rows = max(1, _BLOCK // len(c))
    for i in range(0, len(x), rows):  # |x - c|² is least where x·c - |c|²/2 is largest
        codes[i : i + rows] = np.argmax(x[i : i + rows] @ c.T - half_norms, axis=1)
    return codes


def _drawn(x: NDArray[np.float32], w: Floats, size: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Points drawn with chances that grow with the squared distance to those that were drawn before."""
    first = random.choice(len(x), p=w / w.sum())
    chosen = x[first : first + 1]
    distances = _squares(x, chosen)
    while len(chosen) < size:
        chances = w * distances
        if not (candidates := int(np.count_nonzero(chances))):
            break  # every point of weight is a centroid
        count = min(max(1, len(chosen) // 2, size // _ROUNDS), size - len(chosen), candidates)
        drawn = random.choice(len(x), size=count, replace=False, p=chances / chances.sum())
        new = np.unique(x[drawn], axis=0)
        distances = np.minimum(distances, _squares(x, new[nearest(x, new)]))
        chosen = np.concatenate([chosen, new])
    return chosen


def _squares(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distance of each row of x to that of y; exactly zero where they agree."""
    difference = (x - y).astype(np.float64)
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def _means(
    x: NDArray[np.float32], w: Floats, codes: NDArray[np.int64], errors: Floats, before: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weighted means of the clusters; the centroids of empty ones move to the points with the largest errors."""
    mass = np.bincount(codes, w, minlength=len(before))
    sums = np.stack([np.bincount(codes, w * column, minlength=len(before)) for column in x.T], axis=1)
    full = mass > 0
    means = before.copy()
    means[full] = sums[full] / mass[full, None]
    empty = np.flatnonzero(~full)
    if empty.size:
        worst = np.argpartition(errors, -min(empty.size, len(errors)))[-empty.size :]
        means[empty[: worst.size]] = x[worst]
    return means
