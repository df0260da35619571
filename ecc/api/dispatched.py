"""Dispatched: how each layer of a network is to be run on a device, as a value that can be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from ecc.api.replacing import replaced
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.network.copying import copy_sharing
from ecc.stages.execution.ways import WAYS
from ecc.stages.layers.modules import ProductLinear

__all__ = ["KEPT", "Choice", "Dispatch", "Ratio", "weight_shape"]

KEPT = "as it is"
"""The way of a layer that stays."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A latency relative to another, with its 95 % interval.

    Attributes:
        value: The median of paired ratios.
        low: Lower end.
        high: Upper end; infinite where readings are too few.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """A JSON value; an infinite end is null."""
        return {"value": self.value, "low": self.low, "high": None if math.isinf(self.high) else self.high}

    @classmethod
    def read(cls, fields: Fields) -> Ratio:
        """From a JSON value."""
        high = fields.optional_number("high")
        return cls(fields.number("value"), fields.number("low"), math.inf if high is None else high)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a layer is run.

    Attributes:
        way: A name of ``ecc.stages.execution.ways.WAYS``, or ``KEPT``.
        shape: Of its weight.
        rows: Of the inputs that it was measured with.
        zero_inputs: Share of these that is zero.
        zero_weights: Share of its weights that is zero.
        tried: Latency relative to the layer as it came, by way.
        refused: Why a way could not be measured, by way.
    """

    way: str
    shape: tuple[int, ...]
    rows: int
    zero_inputs: float
    zero_weights: float
    tried: Mapping[str, Ratio]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """What was chosen for a network; ``apply`` makes the network that runs so.

    Attributes:
        choices: By path of a layer; one that is not named stays.
        device: Fingerprint of where it was measured.
        threads: With which.
        overall: Latency of the whole network relative to the one that came; None where no layer gains.
    """

    choices: Mapping[str, Choice]
    device: str
    threads: int
    overall: Ratio | None

    @property
    def pays(self) -> bool:
        """Whether the network was measured faster as a whole."""
        return self.overall is not None and self.overall.high < 1

    @property
    def layers(self) -> pd.DataFrame:
        """A row per layer, index ``name``, with the ratio of each way that was tried."""
        rows = [
            {"name": name, "way": each.way, "rows": each.rows, "zero_inputs": each.zero_inputs}
            | {"zero_weights": each.zero_weights}
            | {way: ratio.value for way, ratio in each.tried.items()}
            for name, each in self.choices.items()
        ]
        return pd.DataFrame(rows, columns=None if rows else ["name", "way"]).set_index("name")

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of a network, in eval mode, with each layer as it was chosen; its weights may be others since.

        Nothing is measured, nor asked whether this is the device of then.

        Raises:
            InputError: If a layer is missing, has another shape, or cannot be run so with its weights.
        """
        found = copy_sharing(model, {}).eval()
        layers = dict(found.named_modules())
        for name, choice in self.choices.items():
            if name not in layers or weight_shape(layers[name]) != choice.shape:
                raise InputError(f"the network has no layer {name!r} with a weight of shape {choice.shape}")
            if choice.way == KEPT:
                continue
            try:
                found = replaced(found, name, WAYS[choice.way](layers[name]))
            except InputError as error:
                raise InputError(f"layer {name!r} cannot run by {choice.way} ({error}); dispatch it again") from error
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON value, which ``from_json`` reads."""
        layers = [
            {
                "name": name,
                "way": each.way,
                "shape": list(each.shape),
                "rows": each.rows,
                "zero_inputs": each.zero_inputs,
                "zero_weights": each.zero_weights,
                "tried": {way: ratio.to_json() for way, ratio in each.tried.items()},
                "refused": dict(each.refused),
            }
            for name, each in self.choices.items()
        ]
        overall = None if self.overall is None else self.overall.to_json()
        return {"device": self.device, "threads": self.threads, "overall": overall, "layers": layers}

    @classmethod
    def from_json(cls, value: object) -> Dispatch:
        """What ``to_json`` gave.

        Raises:
            InputError: If it is nothing of the kind.
        """
        fields = Fields(value, "the dispatch")
        choices: dict[str, Choice] = {}
        for item in fields.items("layers"):
            layer = Fields(item, "a layer of the dispatch")
            choices[layer.text("name")] = _choice(layer)
        # An absent part is a network in which nothing was chosen.
        there = isinstance(value, dict) and value.get("overall") is not None
        overall = Ratio.read(fields.inner("overall")) if there else None
        return cls(choices, fields.text("device"), fields.whole("threads", 1), overall)

    def __str__(self) -> str:
        chosen = [each.way for each in self.choices.values() if each.way != KEPT]
        if self.overall is None:
            return f"none of {len(self.choices)} layers is faster another way here"
        whole = f"{self.overall.value:.3f} of the latency [{self.overall.low:.3f}, {self.overall.high:.3f}]"
        said = "" if self.pays else "; that is not faster, so all stay as they are"
        ways = ", ".join(f"{chosen.count(way)} by {way}" for way in dict.fromkeys(chosen))
        return f"{ways or 'no layer'} of {len(self.choices)}: {whole}{said}"


def weight_shape(layer: nn.Module) -> tuple[int, ...] | None:
    """Of a layer that can be dispatched; None for any other."""
    if isinstance(layer, ProductLinear):
        return layer.product.shape
    return tuple(layer.get_parameter("weight").shape) if type(layer) in (nn.Linear, nn.Conv2d) else None


def _choice(layer: Fields) -> Choice:
    way, tried, refused = layer.text("way"), layer.inner("tried"), layer.inner("refused")
    if way != KEPT and way not in WAYS:
        raise InputError(f"the dispatch runs a layer by {way!r}; there are {', '.join(WAYS)} and {KEPT!r}")
    return Choice(
        way,
        layer.wholes("shape", 1),
        layer.whole("rows"),
        layer.number("zero_inputs"),
        layer.number("zero_weights"),
        {name: Ratio.read(tried.inner(name)) for name in tried},
        {name: refused.text(name) for name in refused},
    )
