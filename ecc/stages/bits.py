"""Bits per tensor: limits on a whole network shared out among its tensors, by what each setting costs in loss.

For every tensor all settings of the stages that have choices are encoded as they would be in the file. What a setting
loses is found tensor by tensor (``ecc.stages.calibration``), taken to add up, and one setting per tensor is selected
within all limits (``ecc.stages.multiple_choice``). Behind each stage, with its training, the settings of those that
follow are chosen anew from what there is then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Stage, Stored, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.calibration import Calibration, Judging
from ecc.stages.candidates import Candidate, Plan, Steps, TensorStage, applied, candidates
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.multiple_choice import Selection, select
from ecc.stages.nodes import Form, Node, is_same
from ecc.stages.shared_parts import shared_parts

__all__ = ["ByteExpense", "Expense", "Share", "Sharing"]

Floats = NDArray[np.float64]

_RESERVE = 0.01  # of what choices change
_TRIES = 12  # at limits that are exact, when costs do not quite add up


class Expense(Protocol):
    """What a code costs, with a limit: a sum over tensors and a constant."""

    @property
    def limit(self) -> float:
        """Of the whole."""

    def of(self, name: str, tensor: Tensor, stored: Stored) -> float:
        """What one tensor adds."""

    def total(self, code: PackedCode) -> float:
        """Of the whole code, exactly."""

    def shown(self, value: float) -> str:
        """A value for people, with its unit."""


@dataclass(frozen=True, slots=True)
class ByteExpense:
    """Bytes of the file.

    Attributes:
        limit: Bytes.
    """

    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise InputError(f"ByteExpense(limit=...) must be a positive number of bytes, got {self.limit}")

    def of(self, name: str, tensor: Tensor, stored: Stored) -> float:
        """Its section of the file, up to the few bytes that names of neighbours share."""
        return stored.nbytes

    def total(self, code: PackedCode) -> float:
        """Size of the file."""
        return code.nbytes

    def shown(self, value: float) -> str:
        """In bytes."""
        return f"{math.ceil(value):,} bytes"


@dataclass(frozen=True, slots=True)
class Share:
    """What was chosen for the tensors of one stage, and how sure that is.

    Attributes:
        labels: By tensor.
        judged: How losses were found: ``measured``, ``second-order`` or ``squared error``.
        loss: Sum of the losses of single tensors that the choice expects.
        bound: No choice within the limits has a smaller sum.
        gap: As of ``Selection``.
        measured: Increase of the calibration loss with all tensors coded so, before any training; None without data.
    """

    labels: Mapping[str, str]
    judged: str
    loss: float
    bound: float
    gap: float
    measured: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Options:
    """What there is to choose from.

    Attributes:
        candidates: Of each tensor; those of one group have the same settings, place by place.
        groups: Tensors that share a part, and so have one setting together; most are alone.
        costs: Of each group, shape (candidates, expenses).
        constants: What each expense is beside them.
    """

    candidates: Mapping[str, Sequence[Candidate]]
    groups: Sequence[tuple[str, ...]]
    costs: Sequence[Floats]
    constants: Floats

    @property
    def least(self) -> Floats:
        """That each expense can come down to."""
        found: Floats = self.constants + np.sum([each.min(0) for each in self.costs], axis=0)
        return found

    @property
    def most(self) -> Floats:
        """With the dearest candidates."""
        found: Floats = self.constants + np.sum([each.max(0) for each in self.costs], axis=0)
        return found


@dataclass(frozen=True, eq=False)
class Sharing:
    """How limits are shared out.

    Attributes:
        expenses: Their limits hold for the code behind the last stage.
        own: Names of stages that keep to their own options.
        examples: Of the training data, on which losses are found.
        judging: How.
    """

    expenses: tuple[Expense, ...]
    own: frozenset[str] = field(default_factory=frozenset)
    examples: int = 512
    judging: Judging = "auto"
    _known: list[tuple[PackedCode, Steps, _Options]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.expenses:
            raise InputError("Sharing(expenses=...) needs a limit to share out")
        if self.examples < 1:
            raise InputError(f"Sharing(examples=...) must be at least 1, got {self.examples}")
        if self.judging not in ("auto", "measured", "second-order"):
            raise InputError(f"Sharing(judging=...) must be auto, measured or second-order, got {self.judging!r}")

    def chooses(self, stage: Stage) -> bool:
        """Whether the settings of a stage are chosen."""
        return isinstance(stage, TensorStage) and stage.name not in self.own

    def demand_reachable(self, code: PackedCode, stages: Sequence[Stage]) -> None:
        """Refuse limits that no settings keep; nothing is trained.

        Raises:
            InputError: With the least that can be reached; or if no stage has anything to choose.
            NothingToDo: If the code is within all limits.
        """
        steps = self._steps(stages)
        if not any(choosing for _, choosing in steps):
            named = ", ".join(stage.name for stage in stages)
            raise InputError(
                f"a limit is shared out by choosing settings tensor by tensor, and {named} has none to choose; apply "
                f"svd, prune, codebook, log-quant, product-quant or fixed-point{self._own_size(stages)}"
            )
        first = next(place for place, (_, choosing) in enumerate(steps) if choosing)
        totals = [each.total(code) for each in self.expenses]
        if all(total <= each.limit for total, each in zip(totals, self.expenses, strict=True)):
            there = " and ".join(each.shown(total) for total, each in zip(totals, self.expenses, strict=True))
            limits = " and ".join(each.shown(each.limit) for each in self.expenses)
            raise NothingToDo(f"the network takes {there}, which is within {limits} already; give a smaller limit")
        self._demand(self._options(applied(code, steps[:first], {}), steps[first:]))

    def encode(
        self, code: PackedCode, stage: Stage, rest: Sequence[Stage], workshop: Workshop | None
    ) -> tuple[PackedCode, Share]:
        """The code behind a stage whose settings are chosen.

        Args:
            rest: The stages behind it.
        Raises:
            InputError: If the stage has nothing to choose, or the limits cannot be reached.
        """
        steps = self._steps((stage, *rest))
        return _Choice(self, code, steps, self._options(code, steps), workshop).run()

    def _own_size(self, stages: Sequence[Stage]) -> str:
        """Where a limit on bytes can go to an option of one of the stages, its name."""
        sized = [stage.name for stage in stages if hasattr(stage, "nbytes")]
        limits = [math.floor(each.limit) for each in self.expenses if isinstance(each, ByteExpense)]
        if not sized or not limits:
            return ""
        return f", or give the size to {sized[0]} itself, by its option {sized[0]}.nbytes={limits[0]}"

    def _steps(self, stages: Sequence[Stage]) -> Steps:
        return [
            (stage, stage if isinstance(stage, TensorStage) and stage.name not in self.own else None)
            for stage in stages
        ]

    @property
    def _limits(self) -> Floats:
        return np.array([expense.limit for expense in self.expenses], dtype=np.float64)

    def _options(self, code: PackedCode, steps: Steps) -> _Options:
        """All options, those that were asked for last without more work."""
        for known, stages, options in self._known:
            if known is code and stages == steps:
                return options
        self._known[:] = [(code, steps, self._found(code, steps))]
        return self._known[0][2]

    def _found(self, code: PackedCode, steps: Steps) -> _Options:
        found = candidates(code, steps)
        groups = _tied(code, list(found))
        for group in groups:
            found |= _alike({name: found[name] for name in group})
        costs = [np.array(self._costs({name: found[name] for name in group}), dtype=np.float64) for group in groups]
        first = applied(code, steps, {name: each[0].settings for name, each in found.items()})
        totals = np.array([expense.total(first) for expense in self.expenses])
        return _Options(found, groups, costs, totals - np.sum([each[0] for each in costs], axis=0))

    def _costs(self, group: Mapping[str, Sequence[Candidate]]) -> list[list[float]]:
        """Of each setting of a group, what its tensors take together: a shared part counts once."""
        found: list[list[float]] = []
        for place in range(len(next(iter(group.values())))):
            nodes = {name: each[place].node for name, each in group.items()}
            stored = PackedCode(nodes).stored()
            tensors = {name: decode_node(node) for name, node in nodes.items()}
            found.append([sum(cost.of(name, tensors[name], stored[name]) for name in nodes) for cost in self.expenses])
        return found

    def _demand(self, options: _Options) -> None:
        """Refuse limits below the least."""
        for expense, least, most in zip(self.expenses, options.least, options.most, strict=True):
            if least > expense.limit:
                raise InputError(
                    f"{expense.shown(expense.limit)} cannot be reached by choosing settings of these stages: the least "
                    f"is {expense.shown(least)} (and the most {expense.shown(most)}); give a larger limit, or apply a "
                    "stage more"
                )


@dataclass(frozen=True, eq=False)
class _Choice:
    """One choice for all tensors, and the first of the stages by it."""

    sharing: Sharing
    code: PackedCode
    steps: Steps
    options: _Options
    workshop: Workshop | None

    def run(self) -> tuple[PackedCode, Share]:
        """The code behind the first of the stages.

        Where the whole exceeds a limit, as costs do not quite add up or training changed them, it is chosen anew within
        limits that are lower by as much.
        """
        self.sharing._demand(self.options)
        calibration = Calibration.of(self.code, self.workshop, examples=self.sharing.examples)
        nodes = {name: [one.node for one in each] for name, each in self.options.candidates.items()}
        losses = calibration.losses(nodes, self.sharing.judging)
        limits, least = self.sharing._limits, self.options.least * (1 + 1e-9)
        if self._later:  # room for what training does to the bytes of later stages; they use what is left of it
            limits = np.maximum(limits - _RESERVE * np.maximum(limits - self.options.constants, 0), least)
        for attempt in range(_TRIES):
            selection = self._selected(losses, limits)
            chosen = self._chosen(selection)
            plan = {name: one.settings for name, one in chosen.items()}
            beyond = self._beyond(applied(self.code, self.steps, plan))
            if (beyond <= 0).all():
                coded = self._encoded(plan)
                beyond = self._beyond_after(coded)
                if (beyond <= 0).all():
                    return coded, self._share(calibration, nodes, selection, chosen)
            spent = np.minimum(limits, self.options.constants + np.array(selection.costs))  # else it is chosen again
            lower = np.maximum(spent - beyond * (1 + 1e-9), least)
            limits = np.where(beyond > 0, least if attempt == _TRIES - 2 else lower, limits)
        raise InputError("no settings were found that keep the limits, though single ones would; give a larger limit")

    @property
    def _later(self) -> bool:
        """Whether stages that follow have something to choose."""
        return any(choosing for _, choosing in self.steps[1:])

    def _beyond_after(self, code: PackedCode) -> Floats:
        """What the expenses exceed their limits by at least, behind the first stage and its training."""
        if not self._later:
            return self._beyond(applied(code, self.steps[1:], {}))
        least: Floats = self.sharing._options(code, self.steps[1:]).least - self.sharing._limits
        return least

    def _selected(self, losses: Mapping[str, Floats], limits: Floats) -> Selection:
        options = self.options
        summed = [np.sum([losses[name] for name in group], axis=0) for group in options.groups]
        found = select(summed, options.costs, limits - options.constants)
        if found is None:
            said = " and ".join(expense.shown(expense.limit) for expense in self.sharing.expenses)
            raise InputError(f"no settings of these stages keep {said}; give a larger limit, or apply a stage more")
        return found

    def _chosen(self, selection: Selection) -> dict[str, Candidate]:
        pairs = zip(self.options.groups, selection.places, strict=True)
        return {name: self.options.candidates[name][place] for group, place in pairs for name in group}

    def _beyond(self, code: PackedCode) -> Floats:
        """What the expenses exceed their limits by."""
        return np.array([expense.total(code) - expense.limit for expense in self.sharing.expenses])

    def _encoded(self, plan: Plan) -> PackedCode:
        """The code behind the first stage, with its training."""
        stage = self.steps[0][1]
        if stage is None:
            raise InputError(f"stage {self.steps[0][0].name} keeps to its own options, and nothing is chosen for it")
        settings = {name: each[0] for name, each in plan.items() if each[0] is not None}
        try:
            return packed(stage.encode(self.code, self.workshop, chosen=settings))
        except NothingToDo:  # as was chosen: every tensor stays
            return self.code

    def _share(
        self,
        calibration: Calibration,
        nodes: Mapping[str, Sequence[Node]],
        selection: Selection,
        chosen: Mapping[str, Candidate],
    ) -> Share:
        together = replace(self.code, nodes={**self.code.nodes, **{name: one.node for name, one in chosen.items()}})
        before, after = calibration.loss(self.code), calibration.loss(together)
        return Share(
            {name: one.settings[0].label for name, one in chosen.items() if one.settings[0] is not None},
            calibration.method(sum(map(len, nodes.values())), self.sharing.judging),
            selection.loss,
            selection.bound,
            selection.gap,
            None if before is None or after is None else after - before,
        )


def _tied(code: PackedCode, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The names, those together whose tensors share a part."""
    groups: list[tuple[Form | None, list[str]]] = []
    for name in names:
        part = next((form for _, form in shared_parts(code.nodes[name])), None)
        group = next((each for first, each in groups if part and first and is_same(first, part)), None)
        if group is None:
            groups.append((part, [name]))
        else:
            group.append(name)
    return [tuple(each) for _, each in groups]


def _alike(group: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    """The candidates with settings that all tensors of a group have, in one order.

    Raises:
        InputError: If they have none in common.
    """
    if len(group) == 1:
        return dict(group)
    each = [{one.settings: one for one in some} for some in group.values()]
    common = [settings for settings in each[0] if all(settings in known for known in each)]
    if not common:
        raise InputError(f"{' and '.join(group)} share what is stored, and no setting of the stages fits all of them")
    return {name: [known[settings] for settings in common] for name, known in zip(group, each, strict=True)}
