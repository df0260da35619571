"""Fall: limits that go down to a budget while the network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ecc.solvers.hooks import Step

__all__ = ["FALLS", "Fall", "FallKind", "due"]

FallKind = Literal["geometric", "exponential", "linear"]
"""How limits fall."""

FALLS: tuple[str, ...] = get_args(FallKind)
"""The same as a tuple."""

_MOVES = 20
_LEAST = 1e-3  # of what weights spend at first, where the budget leaves them nothing


@dataclass(frozen=True, slots=True)
class Fall:
    """Limits between what the network costs at first and the budget; where that is met at first, it is the limit.

    With a constant that weights cannot save near the budget, ``exponential`` takes the most from what they may still
    spend at its very end; ``geometric`` takes the same share of it at each step.

    Attributes:
        start: Costs at first, one per constraint.
        end: The budget.
        constants: What is spent with all weights zero.
        kind: ``geometric``: what is spent beyond the constant falls by the same factor at each step; ``exponential``:
            the whole cost does, as published; ``linear``: by the same amount.
        part: Of all steps, over which they fall; 0 for the budget from the first step on.
    """

    start: tuple[float, ...]
    end: tuple[float, ...]
    constants: tuple[float, ...]
    kind: FallKind
    part: float

    def at(self, step: Step) -> list[float]:
        """The limits behind a step; exactly the budget from the end of the part on."""
        done = (step.index + 1) / step.total
        share = 1.0 if done >= self.part else done / self.part
        each = zip(self.start, self.end, self.constants, strict=True)
        return [self._between(start, end, constant, share) for start, end, constant in each]

    def _between(self, start: float, end: float, constant: float, share: float) -> float:
        if share == 1 or start <= end:
            return end
        if self.kind == "linear":
            return start + (end - start) * share
        if self.kind == "exponential":
            return max(end, start * float((end / start) ** share))
        spent = start - constant
        return max(end, constant + spent * float(max(_LEAST, (end - constant) / spent) ** share))


def due(step: Step, every: int, epochs: int, part: float = 1.0) -> bool:
    """Whether a step is one of every so many, or the last one of an epoch.

    Args:
        every: Fewer in a short run, so that limits which fall over a ``part`` of it do so in 20 moves at least.
    """
    done = step.index + 1
    if part > 0:
        every = max(1, min(every, int(part * step.total / _MOVES)))
    return done % every == 0 or done % max(1, step.total // max(1, epochs)) == 0
