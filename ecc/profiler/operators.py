"""The operator profile: what operators cost on a device, measured once for all networks that will run on it.

It is kept and measured as the profile of a network is: an operator's kind and sizes stand where the widths of groups
stand, and the reference is one convolution. So rows are durable, resumed, checked, flagged and paired as those are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.core.meter import Meter, Runtime
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.problem import Progress
from ecc.core.table import Chain, OperatorTable, ProfileTable, describe_operators
from ecc.core.widths import WidthGroup, Widths, WidthSpace
from ecc.network.graph import WidthGraph
from ecc.profiler.clock import Clock
from ecc.profiler.conditions import Gauge
from ecc.profiler.operator_chains import Chains, count
from ecc.profiler.operator_design import REFERENCE, Prediction, choose, is_small
from ecc.profiler.operator_modules import Alone, AloneRuntime, build, build_chain
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
    "row_name",
    "without_chains",
]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
"""Types of numbers that operators are measured in, by name."""

_NAME = "operators"
_MOST_KINDS, _MOST = 1 << 10, 1 << 24
_SPACE = WidthSpace(("kind", *COLUMNS), (_MOST_KINDS, *(_MOST for _ in COLUMNS)), (1,) * (1 + len(COLUMNS)))
_CHAIN = _MOST_KINDS - 1  # stands for a kind where a row is a chain
_ONE_BY_ONE = ("eager", "cudagraph")  # runtimes in which a chain of calls is those calls; others merge and leave out
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
    and those are left out. Where there are some hundred operators, chains of some of them come last, in runtimes that
    run calls one by one. Operators that the store holds stay in the design, so that it can be resumed and extended.

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
    runner = runtime or Eager()
    chained = seed + 1 < _MOST and runner.name in _ONE_BY_ONE  # seeds of chains stand in a column
    rest = _Rest(pilot, samples, seed, longest_s, count(samples) if chained else 0)
    result = profile(
        nn.Identity(),
        _graph(dtype),
        torch.zeros(1, dtype=DTYPES[dtype]),
        [_widths(operator) for operator in pilot],
        meters,
        window=window,
        runtime=AloneRuntime(runner),
        store=store,
        progress=progress,
        seed=seed,
        network=_NAME,
        build=_Builder(DTYPES[dtype]),
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
    alone = without_chains(table)
    operators = [operator_from(table.space.widths(row)) for row in alone.widths]
    described = describe_operators(operators, torch.empty(0, dtype=DTYPES[dtype]).element_size())
    rows = pd.concat([described, alone.rows.reset_index(drop=True)], axis=1)
    return OperatorTable(table.provenance, REFERENCE, rows, table.reference, _chains(table))


def without_chains(table: ProfileTable) -> ProfileTable:
    """The rows of a profile of operators that are one operator each."""
    alone = ~_of_chains(table)
    return replace(table, widths=table.widths[alone], rows=table.rows[alone].reset_index(drop=True))


def _of_chains(table: ProfileTable) -> NDArray[np.bool_]:
    return np.asarray(table.widths[:, 0] == _CHAIN)


def _chains(table: ProfileTable) -> tuple[Chain, ...]:
    """The chains in a profile, with what was measured of them."""
    places = np.flatnonzero(_of_chains(table)).tolist()
    seeds = {number for place in places for number in [_chain(table.space.widths(table.widths[place]))[0]]}
    known = {seed: Chains(seed) for seed in seeds}
    found = []
    for place in places:
        seed, number = _chain(table.space.widths(table.widths[place]))
        row = table.rows.iloc[place]
        ratios = {metric: float(row[f"{metric}_ratio"]) for metric in table.metrics if f"{metric}_ratio" in row}
        found.append(Chain(known[seed].operators(number), ratios))
    return tuple(found)


class _Rest:
    """Chooses what is measured after the pilot.

    Attributes:
        skipped: Operators left out.
    """

    def __init__(self, pilot: Sequence[Operator], samples: int, seed: int, longest_s: float, chains: int) -> None:
        self._pilot, self._samples, self._seed, self._longest_s = frozenset(pilot), samples, seed, longest_s
        self._chains: list[Widths] = [_chain_widths(seed, number) for number in range(chains)]
        self._asked = False
        self.skipped = 0

    def __call__(self, table: ProfileTable) -> list[Widths]:
        """All operators of the design but the pilot, those that the store knew included; then chains, then nothing."""
        if self._asked:
            chains, self._chains = self._chains, []
            return chains
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
        left: list[Widths] = [_widths(operator) for operator in chosen if operator not in self._pilot]
        return left or self(table)


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


def _chain_widths(seed: int, number: int) -> Widths:
    return {**dict.fromkeys(_SPACE.names, 1), "kind": _CHAIN, "batch": number + 1, "length": seed + 1}


def _chain(widths: Widths) -> tuple[int, int]:
    """Seed and number of the chain of a row."""
    return widths["length"] - 1, widths["batch"] - 1


class _Builder:
    """Makes what is measured in a row.

    Args:
        dtype: Of its numbers.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._known: dict[int, Chains] = {}

    def __call__(self, widths: Widths) -> Alone:
        if widths["kind"] != _CHAIN:
            return build(operator_from(widths), self._dtype)
        seed, number = _chain(widths)
        if seed not in self._known:
            self._known[seed] = Chains(seed)
        return build_chain(self._known[seed].operators(number), self._dtype)


def row_name(widths: Widths) -> str:
    """What a row is, for people."""
    if widths["kind"] == _CHAIN:
        return f"chain {_chain(widths)[1]} of operators"
    return str(operator_from(widths))


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
