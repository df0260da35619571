"""Blocks: units of a width graph taken together, so that every legal width suits the hardware.

Kernels work on channels in vectors or tiles of a fixed size: a convolution with 17 channels can take as long as one
with 32 (tile quantisation). Here the units of a group are merged into blocks of equal size, the most important units of
the trained network in the first block and so on (as HALP groups channels by the latency step). The result is a width
graph like any other, with longer steps; ``base_units`` translates what is kept of it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ecc.core.errors import InputError
from ecc.core.widths import Kept, WidthGroup
from ecc.network.examining import is_meta
from ecc.network.graph import WidthGraph
from ecc.network.ranking import rank_units

__all__ = ["aligned_steps", "base_units", "in_blocks"]

_LEAST_BLOCKS = 4  # fewer choices than that are too coarse, however well they suit the hardware


def aligned_steps(graph: WidthGraph, multiple: int) -> dict[str, int]:
    """For each prunable group the step that suits kernels which take ``multiple`` channels at a time.

    The shortest step that is a multiple of it, divides the width and leaves four blocks; else the longest of those
    that divide it.

    Raises:
        InputError: If ``multiple`` is not positive.
    """
    if multiple < 1:
        raise InputError(f"the step must be at least 1 channel, got {multiple}")
    return {group.name: group.step * _block(group, multiple) for group in graph.prunable}


def in_blocks(graph: WidthGraph, model: nn.Module, steps: Mapping[str, int]) -> WidthGraph:
    """The graph with units merged so that each named group has the given step (channels).

    Args:
        model: The trained network; its weights decide which units share a block.
    Raises:
        InputError: If a step is not a whole number of the group's units, or does not divide its width.
    """
    longer = {name: step for name, step in steps.items() if step != graph.group(name).step}
    # Without values no unit is better than another.
    plain = {name: np.arange(graph.group(name).units) for name in longer}
    orders = plain if is_meta(model) else rank_units(model, graph, list(longer))
    groups = tuple(
        _merged(group, longer[group.name], orders[group.name]) if group.name in longer else group
        for group in graph.groups
    )
    return replace(graph, groups=groups)


def base_units(blocks: WidthGraph, graph: WidthGraph, kept: Kept) -> Kept:
    """Blocks kept of ``in_blocks(graph, …)`` as units kept of ``graph``."""
    found: dict[str, NDArray[np.int64]] = {}
    for name, chosen in kept.items():
        slots = zip(blocks.group(name).slots, graph.group(name).slots, strict=True)
        merged, single = next(slots)
        positions = merged.indices[np.asarray(chosen, dtype=np.int64)].reshape(-1)
        found[name] = np.flatnonzero(np.isin(single.indices[:, 0], positions))
    return found


def _block(group: WidthGroup, multiple: int) -> int:
    """Units per block."""
    sizes = [size for size in range(1, group.units // _LEAST_BLOCKS + 1) if group.units % size == 0]
    aligned = (size for size in sizes if group.step * size % multiple == 0)
    dividing = (size for size in sizes if multiple % (group.step * size) == 0)
    return min(aligned, default=0) or max(dividing, default=1)


def _merged(group: WidthGroup, step: int, order: NDArray[np.int64]) -> WidthGroup:
    size, rest = divmod(step, group.step)
    if rest or size < 1 or group.units % size:
        raise InputError(
            f"group {group.name!r} of {group.width} channels in units of {group.step} cannot have a step of {step}"
        )
    table = order.reshape(-1, size)
    slots = tuple(replace(slot, indices=slot.indices[table].reshape(len(table), -1)) for slot in group.slots)
    return replace(group, step=step, slots=slots)
