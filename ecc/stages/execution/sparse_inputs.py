"""Sparse inputs: a linear layer that multiplies by the weights of the inputs that are not zero.

The weight lies in memory input by input. An input that is zero, as half of them are behind a ReLU, then leaves out a
row of it: nothing of the row is read. Two ways: a compiled loop (``kernels``) and, without numba, torch's sum of a bag
of embeddings, which is the same sum of rows but costs three calls more, which small layers notice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.mixed_precision import mixed_type
from ecc.network.recording import recorded
from ecc.stages.execution.kernels import kernels, suit

__all__ = ["SparseInputLinear", "fan_out"]

_MOST_ROWS = 8  # beyond them a product of matrices shares what it reads, and is faster


def fan_out(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weight + bias by the rows of the weight whose inputs are not zero; without gradients.

    An infinite weight of an input that is zero adds nothing, where a dense product gives NaN.

    Args:
        x: Shape (batch, inputs).
        weight: Shape (inputs, outputs), of the same type, row by row in memory.
        bias: Shape (outputs,).
    Returns:
        Shape (batch, outputs).
    Raises:
        InputError: If shapes or types do not fit.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != len(weight) or x.dtype != weight.dtype:
        raise InputError(
            f"fan_out takes x (batch, inputs) and a weight (inputs, outputs) of one type, got {x.dtype} of shape "
            f"{tuple(x.shape)} and {weight.dtype} of shape {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[1:]:  # the loop would read beyond it
        raise InputError(f"fan_out takes a bias of shape ({weight.shape[1]},) here, got {tuple(bias.shape)}")
    if x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad):
        x, weight, bias = x.detach(), weight.detach(), None if bias is None else bias.detach()
    compiled = kernels()
    if compiled is None or not suit(x := x.contiguous(), weight):
        found = _bags(x, weight)
        return found if bias is None else found + bias
    matrix = weight.numpy()
    sums = np.empty((x.shape[0], matrix.shape[1]), matrix.dtype)
    start = np.empty(0, matrix.dtype) if bias is None else bias.to(x.dtype).numpy()
    compiled.fan_out(x.numpy(), matrix, start, sums)
    return torch.from_numpy(sums)


def _bags(x: Tensor, weight: Tensor) -> Tensor:
    """Sums of rows, a bag of those that are not zero per input of the batch."""
    rows, columns = x.nonzero(as_tuple=True)
    starts = torch.searchsorted(rows, torch.arange(len(x), device=x.device)) if len(x) > 1 else rows.new_zeros(len(x))
    found: Tensor = torch.embedding_bag(weight, columns, starts, False, 0, False, x[rows, columns])[0]
    return found


class SparseInputLinear(nn.Module):
    """A linear layer for inputs of which many are zero, one or few at a time.

    More than eight rows, and inputs that want gradients, are multiplied densely with the same weight; so is all under
    autocast, in its type, and where the layer is compiled, exported, traced or without data (``meta``).

    Args:
        layer: Whose weight, which must be finite, and bias are copied.

    Raises:
        InputError: If it is no linear layer, or its weight is not finite.

    Attributes:
        weight: As the layer has it, shape (out_features, in_features); in memory it lies input by input.
        bias: Shape (out_features,); None for none.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear):
            raise InputError(f"SparseInputLinear(layer=...) must be a linear layer, got {type(layer).__name__}")
        if not bool(layer.weight.isfinite().all()):
            raise InputError("a layer whose weights are not all finite cannot leave out zeros; mend its weights first")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("weight", layer.weight.detach().t().clone(memory_format=torch.contiguous_format).t())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, in_features) → (…, out_features)."""
        weight, bias, flat = self.weight, self.bias, x.ndim == 2
        rows = x if flat else x.reshape(-1, x.shape[-1])
        trained = x.requires_grad and torch.is_grad_enabled()
        if rows.shape[0] > _MOST_ROWS or trained or x.is_meta or recorded() or mixed_type(x) is not None:
            return F.linear(x, weight, bias)
        if rows.shape[1] != self.in_features:
            raise InputError(f"inputs of this layer have shape (…, {self.in_features}), got {tuple(x.shape)}")
        found = fan_out(rows, weight.t(), bias)
        return found if flat else found.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
