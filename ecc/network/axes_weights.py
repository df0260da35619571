"""Operators that compute weights from parameters: weight normalisation and its kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ecc.network.values import PLAIN, Axes, Axis, Call, computed

__all__ = ["WEIGHTS"]


def _weight_norm(call: Call) -> list[Axes]:
    """g · v / ‖v‖, the norm taken over all axes but one (over all if ``dim`` is −1).

    Rows go where g is zero; those of v are divided by their norm and must not be. Zero columns add nothing to a norm.
    """
    direction, size = call.value("v"), call.value("g")
    dim = call.get("dim")
    axes: Axes = []
    for i, axis in enumerate(direction.axes):
        if i == dim:
            call.avoid_zero(axis)
            call.tie(axis, size.axes[i])
            labels = axis.labels if size.axes[i].labels is not None else None
            axes.append(Axis(labels, size.axes[i].zero, call.relate([axis, size.axes[i]])))
        else:
            if not axis.zero:
                call.fix(axis, f"{call.place} takes a norm over channels that are not zero once removed")
            axes.append(computed(axis))
    return [axes, *([PLAIN] * len(shape) for shape in call.shapes[1:])]


WEIGHTS: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), _weight_norm),
    }
)
"""Rules of the operators in this file."""
