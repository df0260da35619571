"""Limits of secondary stages: bytes of the file, and energy of the weights as they are stored.

The energy is that of a systolic array on which pruned and quantised weights save energy alike
(``ecc.energy_models.systolic.stored_weights``), as a fraction of the dense network's.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ecc.api.stage_start import Start
from ecc.api.weight_verdicts import stored_check, stored_of
from ecc.core.budget import Budget
from ecc.core.code import Stage, Stored
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.core.weights import Masks
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.graph import WidthGraph
from ecc.network.input_masks import stored_masks
from ecc.network.tracing import trace
from ecc.stages.bits import ByteExpense, Expense, Sharing
from ecc.stages.candidates import TensorStage
from ecc.stages.code import PackedCode

__all__ = ["EnergyLimit", "StageLimits", "parse_bytes"]

_COST_FILE = "cost-energy.json"
_BYTES = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%×]*)")
_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1} | {
    f"{prefix}{suffix}": base**power
    for base, suffix in ((1000, "b"), (1024, "ib"))
    for power, prefix in enumerate("kmg", 1)
}


def parse_bytes(text: str | int, dense_bytes: int) -> int:
    """Bytes from ``50KB``, ``1.5 MiB``, ``50000``; from ``10x`` or ``5%`` of the dense network's.

    Args:
        dense_bytes: Parameters of the dense network as floats of 32 bits.

    Raises:
        InputError: If it is none of these, or less than a byte.
    """
    match = _BYTES.fullmatch(str(text).strip())
    number, unit = (float(match[1]), match[2].lower()) if match is not None else (math.nan, "")
    if unit in ("x", "×") and number > 0:
        found = dense_bytes / number
    elif unit == "%":
        found = dense_bytes * number / 100
    else:
        found = number * _UNITS.get(unit, math.nan)
    if not 1 <= found < math.inf:
        raise InputError(
            f"bytes {text!r:.60} are no size of a file; write 50KB, 1.5MiB, 50000, or 10x or 5% of the dense network's "
            f"{dense_bytes:,} bytes"
        )
    return math.floor(found)


@dataclass(frozen=True, eq=False)
class EnergyLimit:
    """A limit on the energy of one inference, as an expense that is shared out.

    Attributes:
        budget: As the user gave it.
        cost: Of the network that is staged.
        dense: Relaxed energy of the dense network, which the budget is a fraction of.
        masks: Of inputs, by layer.
        aliases: Further names of tied weights, by the name that a code has.
    """

    budget: Budget
    cost: WeightEnergy
    dense: float
    masks: Masks
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def limit(self) -> float:
        """In the array's unit."""
        return self.budget.absolute(self.dense, self.cost.unit)

    def of(self, name: str, tensor: Tensor, stored: Stored) -> float:
        """What the layers take that multiply by a tensor."""
        names = (name, *self.aliases.get(name, ()))
        return self.cost.of_stored(dict.fromkeys(names, tensor), dict.fromkeys(names, stored), self.masks, names)

    def total(self, code: PackedCode) -> float:
        """Of the whole network."""
        return self.cost.of_stored(code.decode(), stored_of(code), self.masks)

    def shown(self, value: float) -> str:
        """Relative to dense."""
        return f"energy of {value / self.dense:.4g} of dense"


@dataclass(frozen=True, eq=False)
class StageLimits:
    """What a call of ``stage`` has to keep.

    Attributes:
        nbytes: Of the file of the weights; None without a limit.
        energy: Of the weights as they are stored; None without a limit.
        files: That the artefact needs so that its budgets can be verified.
    """

    nbytes: int | None = None
    energy: EnergyLimit | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        start: Start,
        nbytes: str | int | None = None,
        budgets: Sequence[Budget] = (),
        array: SystolicArray | str | Path | None = None,
    ) -> StageLimits | None:
        """The limits on what stages make of a network; None where there are none.

        Args:
            start: What they begin with.
            nbytes: As of ``parse_bytes``.
            budgets: At most one, on energy.
            array: The accelerator of a budget on energy.

        Raises:
            InputError: If a limit is of something else, the network cannot be traced, or an array is missing or idle.
        """
        if wrong := [each.metric for each in budgets if each.metric != "energy"]:
            raise InputError(
                f"secondary stages change no {wrong[0]}; give energy=LIMIT with --cost systolic:eyeriss, or --bytes"
            )
        if len(budgets) > 1:
            raise InputError("budget energy is given several times; give the tightest only")
        if bool(budgets) != (array is not None):
            raise InputError(
                "budget energy needs the model of an accelerator on which few bits and zeros save energy, and that "
                "needs a budget: give --budget energy=LIMIT and --cost systolic:eyeriss together"
            )
        size = None if nbytes is None else parse_bytes(nbytes, start.dense_bytes)
        if array is None:
            return None if size is None else cls(size)
        dense, graph = _traced(start)
        accelerator = SystolicArray.parse(array)
        energy, files = _energy_limit(start, budgets[0], dense, graph, accelerator)
        return cls(size, energy, files)

    def sharing(self, stages: Sequence[Stage], code: PackedCode, given: Mapping[str, Any], examples: int) -> Sharing:
        """How the limits are shared out.

        Args:
            given: Options that the user has set, ``STAGE.OPTION``; a stage with one that its settings stand for keeps
                to its own options.
        """
        expenses: list[Expense] = [] if self.nbytes is None else [ByteExpense(self.nbytes)]
        expenses += [] if self.energy is None else [self.energy]
        own = {stage.name for stage in stages if _chosen_options(stage, code) & _options_of(stage.name, given)}
        return Sharing(tuple(expenses), frozenset(own), examples)

    def checks(self, code: PackedCode) -> tuple[BudgetCheck, ...]:
        """Verdicts on what came out, computed from what is stored."""
        if self.energy is None:
            return ()
        each = self.energy
        return (stored_check(each.budget, each.dense, each.cost, code, each.masks),)


def _traced(start: Start) -> tuple[nn.Module, WidthGraph]:
    """The dense network and its graph."""
    if start.loaded is not None:
        return start.loaded.dense, start.loaded.graph
    if not start.inputs:
        raise InputError(f"the energy of the network is not known: {start.reason or 'it has no example inputs'}")
    return start.model, trace(start.model, start.inputs, check=False)


def _energy_limit(
    start: Start, budget: Budget, dense: nn.Module, graph: WidthGraph, array: SystolicArray
) -> tuple[EnergyLimit, dict[str, bytes]]:
    whole = WeightEnergy.of(dense, graph, array)
    own = graph
    if start.loaded is not None and dict(start.loaded.manifest.widths) != dict(start.loaded.manifest.dense):
        own = trace(start.model, start.loaded.inputs, check=False)
    aliases: dict[str, tuple[str, ...]] = {}
    for alias, name in start.code.aliases.items():
        aliases[name] = (*aliases.get(name, ()), alias)
    cost = whole if own is graph else WeightEnergy.of(start.model, own, array)
    masks = {name: mask.cpu() for name, mask in stored_masks(start.model).items()}
    limit = EnergyLimit(budget, cost, whole.dense, masks, aliases)
    _ = limit.limit  # refuses one in another unit
    with tempfile.TemporaryDirectory() as folder:
        SystolicCost.of(graph, array).save(Path(folder) / _COST_FILE)
        return limit, {_COST_FILE: (Path(folder) / _COST_FILE).read_bytes()}


def _chosen_options(stage: Stage, code: PackedCode) -> set[str]:
    """Names of the options that a stage's settings stand for."""
    if not isinstance(stage, TensorStage):
        return set()
    settings = (choices[0] for name, node in code.nodes.items() if (choices := stage.choices(name, node)))
    first = next(settings, None)
    return set() if first is None else {each.name for each in fields(first)}


def _options_of(name: str, given: Mapping[str, Any]) -> set[str]:
    return {option.partition(".")[2] for option in given if option.partition(".")[0] == name}
