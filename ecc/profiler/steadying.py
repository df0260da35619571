"""Steadying: how much of what the reference does from visit to visit the configurations do too.

Where the speed of the core changes, a network and the reference change alike, and their ratio stays. Where other
programs take cache and memory bandwidth, a large reference feels it and a small network does not: dividing by what the
reference took just then adds its noise instead of removing any. The logarithm of a network's reading is therefore
corrected by β times the deviation of the reference, which has the least variance (control variates: Lavenberg & Welch
1981, Management Science 27). β = 1 is the plain ratio and 0 no pairing; it is one number, known from the visits of all
configurations. Deviations are those from the block's median, so that slow drift is divided out in full.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.profiler.pairing import Pairs

__all__ = ["Moment", "shared", "steadied"]

Floats = NDArray[np.float64]

_KNOWN = 20  # configurations visited more than once, of which the share is known


@dataclass(frozen=True, slots=True)
class Moment:
    """When pairs of one metric were measured and of what.

    Attributes:
        configuration: What was measured.
        block: In which block of which run.
        pairs: The readings.
    """

    configuration: Hashable
    block: Hashable
    pairs: Pairs


def shared(moments: Sequence[Moment]) -> float:
    """β in [0, 1]; 1 where too few configurations were visited more than once to tell.

    It minimises the sum of absolute deviations of a configuration's visits from each other: of least absolute
    deviations through the origin, the median of the slopes weighted by the absolute deviations of the reference.
    """
    network, reference = _deviations(moments)
    groups = _rows([moment.configuration for moment in moments])
    repeated = [group for group in groups if len(group) > 1]
    if len(repeated) < _KNOWN:
        return 1.0
    y, x = (np.concatenate([each[group] - each[group].mean() for group in repeated]) for each in (network, reference))
    moving = x != 0
    if not moving.any():
        return 1.0
    slopes, weights = y[moving] / x[moving], np.abs(x[moving])
    order = np.argsort(slopes, kind="stable")
    passed = np.cumsum(weights[order])
    middle = float(slopes[order][np.searchsorted(passed, passed[-1] / 2)])
    return min(1.0, max(0.0, middle))


def steadied(moments: Sequence[Moment]) -> list[Floats]:
    """References that a network's readings are to be divided by, per moment, in s or J, shape (n,)."""
    share, levels = shared(moments), _levels(moments)
    if share == 1.0:
        return [moment.pairs.references for moment in moments]
    return [
        np.exp(share * np.log(moment.pairs.references) + (1 - share) * level)
        for moment, level in zip(moments, levels, strict=True)
    ]


def _deviations(moments: Sequence[Moment]) -> tuple[Floats, Floats]:
    """Logarithms of network and reference per moment, above the level of the block."""
    levels = _levels(moments)
    network = np.array([np.median(np.log(moment.pairs.values)) for moment in moments])
    return network - levels, _references(moments) - levels


def _levels(moments: Sequence[Moment]) -> Floats:
    """Logarithm of the reference in the block of each moment."""
    references, levels = _references(moments), np.empty(len(moments))
    for group in _rows([moment.block for moment in moments]):
        levels[group] = np.median(references[group])
    return levels


def _references(moments: Sequence[Moment]) -> Floats:
    return np.array([np.median(np.log(moment.pairs.references)) for moment in moments])


def _rows(names: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal names."""
    found: dict[Hashable, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return list(found.values())
