"""Tables of what was measured: of one network, or of the operators that networks are made of, on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecc.core.calls import OperatorCall
from ecc.core.layers import Layer
from ecc.core.markup import card
from ecc.core.operators import COLUMNS, Operator
from ecc.core.widths import WidthSpace

__all__ = [
    "OPERATOR_COLUMNS",
    "PURPOSES",
    "RANDOM",
    "Chain",
    "OperatorTable",
    "ProfileTable",
    "Provenance",
    "describe_operators",
]

RANDOM = "random"
"""Purpose of rows that were drawn evenly from all admissible widths, and so may be held out to judge a model."""

PURPOSES = (RANDOM, "corner", "sweep", "adaptive")
"""Why a row was measured: drawn at random; an extreme point; a step along one group; where a fit was least certain."""

OPERATOR_COLUMNS: tuple[str, ...] = ("kind", *COLUMNS, "macs", "read_bytes", "written_bytes")
"""The columns of a table that follow from the operators alone."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a measurement belongs to; two measurements may be compared only if their ``key`` agrees.

    Attributes:
        network: Name for people.
        fingerprint: Hash of the dense architecture (tensor names and shapes, groups), weights excluded.
        input_shape: Shape of one input batch, batch axis included.
        device: Name for people.
        device_fingerprint: Hash of what identifies the device and its settings.
        runtime: How the network is run: ``eager`` …
        threads: Intra-op threads of the CPU runtime; 0 on an accelerator.
        environment: Versions and settings that may matter.
    """

    network: str
    fingerprint: str
    input_shape: tuple[int, ...]
    device: str
    device_fingerprint: str
    runtime: str = "eager"
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cores(self) -> str:
        """Numbers of the CPU's cores that the process was kept on, apart by commas; empty where it was not."""
        return self.environment.get("pinned", "")

    @property
    def energy_source(self) -> str:
        """What energy was read from: ``counter``, ``power`` or a monitor's name; empty where it was not measured."""
        return self.environment.get("energy", "")

    @property
    def key(self) -> tuple[Any, ...]:
        """What must agree for two measurements to be comparable."""
        return (self.fingerprint, self.input_shape, self.device_fingerprint, self.runtime, self.threads, self.cores)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse."""
        value = asdict(self)
        value["input_shape"] = list(self.input_shape)
        value["environment"] = dict(self.environment)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Provenance:
        """The inverse of ``to_json``."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "input_shape": tuple(int(size) for size in value["input_shape"])})


@dataclass(frozen=True, slots=True, eq=False)
class ProfileTable:
    """Rows of widths with measured metrics.

    Attributes:
        provenance: What the rows belong to.
        space: The order of the width columns.
        layers: The network's layers, the raw material of cost terms.
        widths: Channels kept, shape (n_rows, n_groups).
        rows: One row per configuration, same order. For each measured metric M in {latency, energy}: ``M_ratio``
            (median of the paired ratios to the dense reference), ``M_ratio_low`` and ``M_ratio_high`` (its 95 %
            interval), ``latency_s`` or ``energy_j`` (the configuration's own median, unpaired); ``flags`` (text, empty
            when clean), ``n`` (pairs), ``block_ratios`` where a configuration was measured in several blocks,
            ``purpose`` (one of PURPOSES; all rows are random where there is no such column).
        reference: Long-run value of the dense network per metric: {"latency": (value, low, high)}, in s or J.
        calls: The operators that the network runs, in order of execution; empty where they were not recorded.
    """

    provenance: Provenance
    space: WidthSpace
    layers: tuple[Layer, ...]
    widths: NDArray[np.int64]
    rows: pd.DataFrame
    reference: Mapping[str, tuple[float, float, float]]
    calls: tuple[OperatorCall, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        """One line for people; the rows are ``rows``."""
        subject = f"{self.provenance.network}, {len(self.space.names)} groups"
        return _line(self, subject, "dense")

    def _repr_html_(self) -> str:
        return _card(self, "dense")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were measured."""
        return tuple(self.reference)


@dataclass(frozen=True, slots=True)
class Chain:
    """Operators that were run one after the other, each with weights of its own.

    Attributes:
        operators: In order.
        ratios: Per metric, what all together cost over the base operator.
    """

    operators: tuple[Operator, ...]
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class OperatorTable:
    """What operators cost on one device, by one runtime, with one number of threads, in one type of numbers.

    Attributes:
        provenance: What the rows belong to; its network is ``operators``.
        base: The operator that all ratios refer to.
        rows: One row per operator: OPERATOR_COLUMNS (bytes read include the weights);
            for each metric M in {latency, energy} ``M_ratio``, ``M_ratio_low`` and ``M_ratio_high`` (median of the
            paired ratios to ``base`` and its 95 % interval), ``latency_s`` or ``energy_j`` (the operator's own median,
            unpaired); ``flags`` and what else ProfileTable names. What was not measured is NaN.
        reference: Long-run value of ``base`` per metric: {"latency": (value, low, high)}, in s or J.
        chains: What operators cost that are run one after the other; none in the profiles of an older ecc.
    """

    provenance: Provenance
    base: Operator
    rows: pd.DataFrame
    reference: Mapping[str, tuple[float, float, float]]
    chains: tuple[Chain, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        """One line for people; the rows are ``rows``."""
        return _line(self, "operators", f"base {self.base.kind}")

    def _repr_html_(self) -> str:
        return _card(self, f"base {self.base.kind}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were measured."""
        return tuple(self.reference)

    @property
    def operators(self) -> list[Operator]:
        """The operator of each row."""
        sizes = self.rows[list(COLUMNS)].to_numpy().tolist()
        return [Operator(kind, *row) for kind, row in zip(self.rows["kind"], sizes, strict=True)]

    def of_kind(self, kind: str) -> pd.DataFrame:
        """The rows of one kind, numbered from 0."""
        return self.rows[self.rows["kind"] == kind].reset_index(drop=True)


def describe_operators(operators: Sequence[Operator], itemsize: int) -> pd.DataFrame:
    """The columns that follow from the operators alone.

    Args:
        itemsize: Bytes of a number.
    """
    entries: list[dict[str, Any]] = [
        {
            "kind": operator.kind,
            **operator.shape,
            "macs": operator.macs,
            "read_bytes": itemsize * (operator.reads + operator.weights),
            "written_bytes": itemsize * operator.writes,
        }
        for operator in operators
    ]
    return pd.DataFrame(entries, columns=[*OPERATOR_COLUMNS])


_UNITS = MappingProxyType({"latency": "s", "energy": "J"})


def _card(table: ProfileTable | OperatorTable, reference: str) -> str:
    """A table as HTML: what was measured where, the reference of each metric, and how far the rows reach."""
    place = table.provenance
    flagged = int((table.rows["flags"] != "").sum()) if "flags" in table.rows else 0
    facts = [
        ("network", place.network),
        ("device", f"{place.device}, {place.runtime}" + (f", {place.threads} threads" if place.threads else "")),
        ("rows", f"{len(table)}, {flagged} of them flagged"),
    ]
    rows = []
    for metric, (value, low, high) in table.reference.items():
        unit, name = _UNITS.get(metric, ""), f"{metric}_ratio"
        known = len(table) > 0 and name in table.rows
        ends = [f"{ratio:.3f}" for ratio in table.rows[name].quantile([0.0, 0.5, 1.0])] if known else ["", "", ""]
        rows.append([metric, f"{value:.4g} {unit}", f"[{low:.4g}, {high:.4g}]", *ends])
    header = ["metric", reference, "95 % interval", "least ratio", "median", "greatest"]
    return card(type(table).__name__, facts, header, rows)


def _line(table: ProfileTable | OperatorTable, subject: str, reference: str) -> str:
    """A table in one line: what was measured, where, how many rows, and what the reference took."""
    place = table.provenance
    threads = f", {place.threads} thread{'' if place.threads == 1 else 's'}" if place.threads else ""
    values = [
        f"{metric} ({reference} {value:.4g} {_UNITS.get(metric, '')}".rstrip() + ")"
        for metric, (value, _, _) in table.reference.items()
    ]
    rows = f"{len(table)} row{'' if len(table) == 1 else 's'}"
    measured = ", ".join(values) or "nothing measured"
    return f"{type(table).__name__}({subject}; {place.device}, {place.runtime}{threads}; {rows}; {measured})"
