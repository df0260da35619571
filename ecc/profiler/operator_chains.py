"""Chains: operators one after the other, as networks run them, to learn what they cost beside being run alone.

An operator that is timed alone finds its code, its weights and what it writes in the nearest caches. In a network that
does not fit there, all of these come from farther away at each call. A chain holds a few kinds in turn, as networks do,
each call with weights of its own, and reads what was read a moment ago; chains differ in length, so that short ones fit
into the caches of a device and long ones do not. The operators are some of the first of the design, whose cost alone is
measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecc.core.operators import Operator
from ecc.profiler.operator_design import WEIGHTS, sequence

__all__ = ["Chains", "count"]

_CHAINS = 48
_PER_CHAIN = 25  # operators of a design for each of its chains: those of few are not worth the time
_FEWEST = 16
_POOL = 200  # operators that chains are made of, the first of the sequence that any device does in a moment
_MACS, _NUMBERS, _NUMBERS_IN_WEIGHTS = 20_000_000, 1 << 19, 1 << 22
_KINDS = 4  # in turn
_SHORTEST, _LONGEST = 4, 192  # calls


def count(samples: int) -> int:
    """Chains beside that many operators."""
    found = min(_CHAINS, samples // _PER_CHAIN)
    return found if found >= _FEWEST else 0


class Chains:
    """The chains of a design.

    Args:
        seed: Of the design.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        found: dict[Operator, None] = {}
        for operator in sequence(seed):
            if _is_brief(operator):
                found[operator] = None
            if len(found) == _POOL:
                break
        self._of_kind: dict[str, list[Operator]] = {}
        for operator in found:
            self._of_kind.setdefault(operator.kind, []).append(operator)

    def operators(self, number: int) -> tuple[Operator, ...]:
        """Those of one chain, in order."""
        generator = np.random.default_rng([self._seed, number])
        calls = round(_SHORTEST * (_LONGEST / _SHORTEST) ** generator.uniform())
        kinds = list(self._of_kind)
        often = np.array([WEIGHTS[kind] for kind in kinds])
        turns = generator.choice(len(kinds), min(_KINDS, len(kinds)), replace=False, p=often / often.sum())
        return tuple(_drawn(self._of_kind[kinds[turns[call % len(turns)]]], generator) for call in range(calls))


def _drawn(operators: Sequence[Operator], generator: np.random.Generator) -> Operator:
    return operators[int(generator.integers(len(operators)))]


def _is_brief(operator: Operator) -> bool:
    """Small but for its weights, of which chains need many."""
    few = operator.reads + operator.writes <= _NUMBERS and operator.weights <= _NUMBERS_IN_WEIGHTS
    return few and operator.macs <= _MACS
