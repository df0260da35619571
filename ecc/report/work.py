"""Where the work went: per layer what it takes in and makes and its share of the work, per group what it saves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.widths import Widths
from ecc.network.graph import WidthGraph

__all__ = ["ChannelRow", "channel_rows", "group_rows"]


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A layer before and after.

    Attributes:
        name: Module path.
        kind: ``conv``, ``linear`` …
        taken: Channels that it takes in, dense and now; empty where no group lies there.
        made: Channels that it makes, as ``taken``.
        share: Its MACs in those of the dense network.
        left: Its MACs now in its own when dense; 0 where it went with its block.
        share_now: Its MACs now in those of the network now.
        track: Its dense MACs in those of the layer with the most, for a bar.
    """

    name: str
    kind: str
    taken: tuple[int, int] | tuple[()]
    made: tuple[int, int] | tuple[()]
    share: float
    left: float
    share_now: float
    track: float


def channel_rows(graph: WidthGraph, widths: Widths, removed: Collection[str] = ()) -> tuple[ChannelRow, ...]:
    """A row per layer that multiplies, in order of execution.

    Args:
        graph: Of the dense network.
        widths: Channels kept per group; one that is not named is dense.
        removed: Residual blocks that went whole.
    """
    relative = graph.relative({name: width for name, width in widths.items() if name in graph.space.full})
    gone = {name for block in graph.removable(removed) for name in block.layers} if removed else set()
    layers = [layer for layer in graph.layers if layer.macs]
    left = [
        0.0
        if layer.name.partition("@")[0] in gone or layer.name in gone
        else layer.reads.fraction(relative) * layer.writes.fraction(relative)
        for layer in layers
    ]
    dense = sum(layer.macs for layer in layers) or 1
    now = sum(layer.macs * share for layer, share in zip(layers, left, strict=True)) or 1.0
    most = max((layer.macs for layer in layers), default=1)
    return tuple(
        ChannelRow(
            name=layer.name,
            kind=layer.kind,
            taken=_sizes(layer.channels_in, layer.reads.fraction(relative) if share else 0.0),
            made=_sizes(layer.channels_out, layer.writes.fraction(relative) if share else 0.0),
            share=layer.macs / dense,
            left=share,
            share_now=layer.macs * share / now,
            track=layer.macs / most,
        )
        for layer, share in zip(layers, left, strict=True)
    )


def _sizes(channels: int, fraction: float) -> tuple[int, int] | tuple[()]:
    return (channels, round(channels * fraction)) if channels else ()


def group_rows(costs: Sequence[CostModel], dense: Widths, widths: Widths) -> list[dict[str, Any]]:
    """A row per group: ``name``, ``dense``, ``kept``, and ``saved``: per cost the part of the dense network's that goes
    where this group alone is as narrow as it is now; None where the cost says nothing of that.
    """
    return [
        {
            "name": name,
            "dense": width,
            "kept": widths.get(name, width),
            "saved": [_saved(cost, name, widths.get(name, width)) for cost in costs],
        }
        for name, width in dense.items()
    ]


def _saved(cost: CostModel, name: str, width: int) -> float | None:
    full = cost.space.full
    if name not in full or width < 1:
        return None
    with suppress(InputError):  # a width that was not profiled
        return 1 - float(cost(full | {name: width})) / float(cost(full))
    return None
