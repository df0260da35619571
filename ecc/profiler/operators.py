"""The operator profile: what operators cost on a device, measured once for all networks that will run on it.

It is kept and measured as the profile of a network is: an operator's kind and sizes stand where the widths of groups
stand, and the reference is one convolution. So rows are durable, resumed, checked, flagged and paired as those are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.core.meter import Meter, Runtime
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.problem import Progress
from ecc.core.table import OperatorTable, ProfileTable, describe_operators
from ecc.core.widths import WidthGroup, Widths, WidthSpace
from ecc.network.graph import WidthGraph
from ecc.profiler.clock import Clock
from ecc.profiler.conditions import Gauge
from ecc.profiler.operator_design import REFERENCE, Prediction, choose, is_small
from ecc.profiler.operator_modules import AloneRuntime, build
from ecc.profiler.protocol import ProfileResult, profile
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.store import Store
from ecc.profiler.window import Window

__all__ = [
    "DTYPES",
    "OperatorProfile",
    "Subject",
    "holds_operators",
    "operator_from",
    "operator_table",
    "profile_operators",
    "read_operators",
]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
"""Types of numbers that operators are measured in, by name."""

_NAME = "operators"
_MOST_KINDS, _MOST = 1 << 10, 1 << 24
_SPACE = WidthSpace(("kind", *COLUMNS), (_MOST_KINDS, *(_MOST for _ in COLUMNS)), (1,) * (1 + len(COLUMNS)))
_PILOTS = 3  # small operators of each kind that are measured first, to know which others take too long


@dataclass(frozen=True, slots=True, eq=False)
class OperatorProfile:
    """An operator profile and how it came about.

    Attributes:
        table: Everything that the store holds now.
        result: How it was measured.
        skipped: Operators of the design that would take too long here, as predicted from small ones.
    """

    table: OperatorTable
    result: ProfileResult
    skipped: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What a profile is of, in words for people.

    Attributes:
        reference: What every row is measured in turn with.
        short: The same in one word.
        row: What a row is.
    """

    reference: str
    short: str
    row: str

    @classmethod
    def of(cls, space: WidthSpace) -> Subject:
        """That of a profile over this space."""
        if holds_operators(space):
            return cls("the reference convolution", "reference", "operator")
        return cls("the dense network", "dense", "configuration")


def profile_operators(
    meters: Sequence[Meter],
    *,
    samples: int = 1000,
    longest_s: float = 0.05,
    dtype: str = "float32",
    runtime: Runtime | None = None,
    window: Window | None = None,
    store: Store | str | Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    gauge: Gauge | None = None,
    clock: Clock | None = None,
    wait: bool = True,
) -> OperatorProfile:
    """Measure operators of all kinds over the shapes that networks have, each in turn with one reference convolution.

    A few small operators of each kind come first; from them is predicted which others take longer than ``longest_s``,
    and those are left out. Operators that the store holds stay in the design, so that it can be resumed and extended.

    Args:
        meters: One per metric, latency among them.
        samples: Operators.
        longest_s: The longest that an operator may take, by prediction.
        dtype: One of DTYPES.
        runtime: How operators are run; eager on the CPU by default.
        store: Where rows are kept; in memory by default.
        seed: Of the design and of the order of measurement.
        gauge: As for ``profile``, like the arguments that are not named here.
    Raises:
        InputError: If an argument makes no sense, or the store belongs to something else.
        MeterError: If a meter stops answering; rows measured so far stay in the store.
        UnavailableError: If another process measures on the device and ``wait`` is off.
        Interrupted: On Ctrl-C; rows measured so far stay in the store.
    """
    if not longest_s > 0:
        raise InputError(f"profile_operators(longest_s=...) must be a positive number of seconds, got {longest_s}")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose from {', '.join(DTYPES)}")
    if "latency" not in [meter.metric for meter in meters]:
        raise InputError("an operator profile needs latency, by which operators that take too long are left out")
    pilot = _pilot(samples, seed)
    rest = _Rest(pilot, samples, seed, longest_s)
    result = profile(
        nn.Identity(),
        _graph(dtype),
        torch.zeros(1, dtype=DTYPES[dtype]),
        [_widths(operator) for operator in pilot],
        meters,
        window=window,
        runtime=AloneRuntime(runtime or Eager()),
        store=store,
        progress=progress,
        seed=seed,
        network=_NAME,
        build=lambda widths: build(operator_from(widths), DTYPES[dtype]),
        gauge=gauge,
        clock=clock,
        wait=wait,
        more=rest,
    )
    return OperatorProfile(operator_table(result.table), result, rest.skipped)


def holds_operators(space: WidthSpace) -> bool:
    """Whether rows over that space are operators, not widths of a network."""
    return space == _SPACE


def read_operators(path: str | Path) -> OperatorTable:
    """The operator profile in a store.

    Raises:
        InputError: If the file is none, is damaged or holds no row yet.
    """
    with Store(path) as store:
        table = store.table()
    if not holds_operators(table.space):
        raise InputError(
            f"profile store {str(path)!r} holds a profile of {table.provenance.network}, not of operators; "
            "make one with `ecc profile --operators`"
        )
    return operator_table(table)


def operator_table(table: ProfileTable) -> OperatorTable:
    """A profile whose rows are operators, as their table.

    Raises:
        InputError: If they are not.
    """
    dtype = table.provenance.environment.get("dtype", "")
    if not holds_operators(table.space) or dtype not in DTYPES:
        raise InputError(f"the profile of {table.provenance.network} is not one of operators")
    operators = [operator_from(table.space.widths(row)) for row in table.widths]
    described = describe_operators(operators, torch.empty(0, dtype=DTYPES[dtype]).element_size())
    rows = pd.concat([described, table.rows.reset_index(drop=True)], axis=1)
    return OperatorTable(table.provenance, REFERENCE, rows, table.reference)


class _Rest:
    """Chooses what is measured after the pilot.

    Attributes:
        skipped: Operators left out.
    """

    def __init__(self, pilot: Sequence[Operator], samples: int, seed: int, longest_s: float) -> None:
        self._pilot, self._samples, self._seed, self._longest_s = frozenset(pilot), samples, seed, longest_s
        self._asked = False
        self.skipped = 0

    def __call__(self, table: ProfileTable) -> list[Widths]:
        """All operators of the design but the pilot, those that the store knew included; nothing the second time."""
        if self._asked:
            return []
        self._asked = True
        found = operator_table(table)
        seconds = dict(zip(found.operators, found.rows["latency_s"].tolist(), strict=True))
        prediction = Prediction({operator: s for operator, s in seconds.items() if is_small(operator) and s > 0})
        refused: set[Operator] = set()

        def admits(operator: Operator) -> bool:
            if operator in seconds or prediction.seconds(operator) <= self._longest_s:
                return True
            refused.add(operator)
            return False

        chosen = choose(self._samples, seed=self._seed, admits=admits)
        self.skipped = len(refused)
        return [_widths(operator) for operator in chosen if operator not in self._pilot]


def _pilot(samples: int, seed: int) -> list[Operator]:
    """The first few small operators of each kind among the first of the design; the reference if there is none."""
    taken = Counter[str]()
    found = []
    for operator in choose(samples, seed=seed):
        if is_small(operator) and taken[operator.kind] < _PILOTS:
            taken[operator.kind] += 1
            found.append(operator)
    return found or [REFERENCE]


def _widths(operator: Operator) -> dict[str, int]:
    return {"kind": KINDS.index(operator.kind) + 1, **operator.shape}


def operator_from(widths: Widths) -> Operator:
    """The operator of a row; the reference stands at the greatest sizes of all, which no operator has.

    Raises:
        InputError: If there is none of these sizes.
    """
    if dict(widths) == _SPACE.full:
        return REFERENCE
    sizes = dict(widths)
    code = sizes.pop("kind")
    if code > len(KINDS):
        raise InputError(f"an operator of kind {code} is not known here; use a newer ecc, or profile again")
    return Operator(KINDS[code - 1], **sizes)


def _graph(dtype: str) -> WidthGraph:
    """Kind and sizes as groups of channels, and the reference with its type of numbers as the only layer."""
    names = zip(_SPACE.names, _SPACE.dense, strict=True)
    groups = tuple(WidthGroup(name, most, 1, True, "", (), ()) for name, most in names)
    layer = Layer(f"reference {REFERENCE.kind} in {dtype}", REFERENCE.kind, Side(), Side(), REFERENCE.macs)
    return WidthGraph(groups, (layer,), {}, ((1,),))
