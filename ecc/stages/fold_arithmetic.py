"""The arithmetic of folding: a scale and a shift per channel go into the weights before or behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["Layer", "after", "before"]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A linear map with a bias, in float64.

    Attributes:
        weight: Shape (out, in / groups, …) as of a convolution, or (in, out / groups, …) where transposed.
        bias: Shape (out,).
        groups: Of its channels; 1 for linear layers.
        transposed: Whether it is a transposed convolution.
    """

    weight: Tensor
    bias: Tensor
    groups: int = 1
    transposed: bool = False


def after(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """scale · (W x + b) + shift as one map: W' = scale W per output channel, b' = scale b + shift.

    Args:
        scale: Shape (out,).
        shift: Shape (out,).
    """
    rows = _grouped_rows(scale, layer) if layer.transposed else scale.reshape(-1, 1)
    return replace(layer, weight=_times(layer.weight, rows), bias=layer.bias * scale + shift)


def before(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """W (scale · x + shift) + b as one map: W' = W diag(scale), b' = b + W shift, with the old W in the last term.

    That holds where every tap of a kernel meets a number of x: without padding, or where shift is zero. A transposed
    convolution has fewer taps at its borders, so its shift must be zero.

    Args:
        scale: Shape (in,).
        shift: Shape (in,).
    """
    if layer.transposed:
        return replace(layer, weight=_times(layer.weight, scale.reshape(-1, 1)))
    taps = layer.weight.reshape(*layer.weight.shape[:2], -1).sum(-1)
    bias = layer.bias + (taps * _grouped_rows(shift, layer)).sum(1)
    return replace(layer, weight=_times(layer.weight, _grouped_rows(scale, layer)), bias=bias)


def _grouped_rows(values: Tensor, layer: Layer) -> Tensor:
    """Values of the channels along axis 1 of a weight, which are numbered within a group: shape weight.shape[:2]."""
    rows, columns = layer.weight.shape[:2]
    per_group = values.reshape(layer.groups, 1, columns)
    return per_group.expand(-1, rows // layer.groups, -1).reshape(rows, columns)


def _times(weight: Tensor, factors: Tensor) -> Tensor:
    """Factors along the first two axes."""
    return weight * factors.reshape(*factors.shape, *[1] * (weight.ndim - 2))
