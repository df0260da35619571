"""The memory that a forward takes beside the weights, with the sides that it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from ecc.core.layers import Side
from ecc.core.memory import Activation
from ecc.network.capture import Capture
from ecc.network.channels import Labels
from ecc.network.lives import storages
from ecc.network.values import values_in

__all__ = ["find_activations", "holding"]


def find_activations(
    captured: Capture, values: Mapping[fx.Node, Any], side_of: Callable[[Labels | None], Side]
) -> tuple[Activation, ...]:
    """One activation per life of a record.

    Args:
        values: What each node of it gives, with the labels of its axes.
        side_of: The side of an axis with these labels.
    """
    found = []
    for life in captured.lives:
        given = list(values_in([values.get(life.node)]))
        axes = given[life.tensor].axes if life.tensor < len(given) else []
        sides = tuple(side for axis in axes if (side := side_of(axis.labels)).groups)
        found.append(Activation(life.nbytes, sides, life.uses))
    return tuple(found)


def holding(captured: Capture, node: fx.Node) -> int:
    """Number of the first activation that what a node gives lies in; −1 where it lies in none."""
    mine = storages(node)
    return next((i for i, life in enumerate(captured.lives) if life.storage in mine), -1)
