"""Sparse layers: convolutions and linear layers that multiply by the weights that are not zero, held in CSR.

A convolution gathers its inputs into columns first (im2col), which dense kernels need not do: it pays only where next
to nothing is left of its weights.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.input_masks import BUFFER
from ecc.network.mixed_precision import mixed_type, unmixed

__all__ = ["SparseConv2d", "SparseLinear", "sparse_layer"]

_SHORT = (torch.float16, torch.bfloat16)


class _Compressed(nn.Module):
    """A matrix in CSR, as three tensors that can be copied, moved and saved; times matrices of columns."""

    rows: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        with warnings.catch_warnings():  # said once in a process
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            found = matrix.to_sparse_csr()
        self.shape = tuple(matrix.shape)
        # Copies: views of a tensor in CSR cannot be exported.
        self.register_buffer("rows", found.crow_indices().clone())
        self.register_buffer("columns", found.col_indices().clone())
        self.register_buffer("values", found.values().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The product with x of shape (columns of the matrix, n), in the type that a dense one would have.

        There is none in 16 bits on a CPU: it is one in 32, and rounded. Under autocast it is in the matrix's own type,
        and rounded. What is compiled, exported or without data (``meta``) is dense.
        """
        if torch.compiler.is_compiling() or x.is_meta:
            return self.dense() @ x
        values, mixed = self.values, mixed_type(x)
        dtype = mixed or x.dtype
        if mixed is not None:
            x = x.to(values.dtype)
        if x.is_cpu and x.dtype == values.dtype and values.dtype in _SHORT:
            values, x = values.float(), x.float()
        with unmixed(x):
            matrix = torch.sparse_csr_tensor(self.rows, self.columns, values, self.shape, check_invariants=False)
            product: Tensor = torch.sparse.mm(matrix, x)
        return product.to(dtype)

    def dense(self) -> Tensor:
        """The matrix with its zeros, made anew."""
        lines = torch.repeat_interleave(self.rows.diff(), output_size=len(self.values))
        return self.values.new_zeros(self.shape).index_put((lines, self.columns), self.values)


class SparseLinear(nn.Module):
    """A linear layer whose weights are held in CSR; inputs of shape (…, in_features).

    Inputs that are masked have no weights in it. Under autocast results are in its type, as those of a dense layer are.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        mask = layer._buffers.get(BUFFER)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.matrix = _Compressed(weight if mask is None else weight * (mask.flatten() != 0))
        self.register_buffer("bias", _copied(layer.bias))

    @property
    def weight(self) -> Tensor:
        """Shape (out_features, in_features); made anew each time it is asked for."""
        return self.matrix.dense()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (…, out_features)."""
        rows = x.reshape(-1, x.shape[-1]).t()
        found: Tensor = self.matrix(rows).t()
        found = found if self.bias is None else found + self.bias.to(found.dtype)
        return found.reshape(*x.shape[:-1], self.out_features)


class SparseConv2d(nn.Module):
    """A convolution as a product of its weights in CSR and columns of inputs, of shape (batch, channels, h, w).

    Inputs may come without the axis of the batch, and under autocast results are in its type, as in a dense layer. The
    matrix of a grouped convolution has zeros between the groups, which CSR does not hold.
    """

    bias: Tensor | None
    mask: Tensor | None

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.out_channels = layer.out_channels
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.padding = _padding(layer)
        self.matrix = _Compressed(_matrix(layer))
        self.register_buffer("bias", _copied(layer.bias))
        self.register_buffer("mask", _copied(layer._buffers.get(BUFFER)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (batch, out_channels, h', w'), or (out_channels, h', w') for one input."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        x = F.pad(x if self.mask is None else x * self.mask, self.padding)
        height, width = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, dilation, kernel, stride in zip(
                x.shape[2:], self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        columns = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride)  # (batch, channels · taps, positions)
        found: Tensor = self.matrix(columns.transpose(0, 1).flatten(1))
        found = found.reshape(self.out_channels, len(x), height, width).transpose(0, 1)
        return found if self.bias is None else found + self.bias.to(found.dtype)[:, None, None]


def sparse_layer(layer: nn.Module) -> nn.Module:
    """A layer that computes the same from the weights that are not zero; the layer is left as it is.

    Raises:
        InputError: If there is no such layer for it; the message says why.
    """
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise InputError(f"{type(layer).__name__} has no sparse form")
    masked = isinstance(layer._buffers.get(BUFFER), Tensor)
    if layer._forward_hooks or len(layer._forward_pre_hooks) > masked:
        raise InputError("it has hooks, which its sparse form would not run")
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros":
            raise InputError(f"its padding is {layer.padding_mode}, and that of the sparse form is of zeros")
        return SparseConv2d(layer).eval()
    return SparseLinear(layer).eval()  # type: ignore[arg-type]


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _matrix(layer: nn.Conv2d) -> Tensor:
    """The weights of a convolution as a matrix of shape (out_channels, in_channels · taps)."""
    weight = layer.weight.detach()
    rows = weight.reshape(layer.groups, layer.out_channels // layer.groups, -1)
    matrix: Tensor = torch.block_diag(*rows)  # type: ignore[no-untyped-call]
    return matrix


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Zeros to the left and right of each row, and above and below: as ``F.pad`` takes them."""
    if isinstance(layer.padding, str):
        sizes = (
            [0, 0]
            if layer.padding == "valid"
            else [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        )
        (above, below), (left, right) = ((size // 2, size - size // 2) for size in sizes)
        return left, right, above, below
    rows, columns = (int(size) for size in layer.padding)
    return columns, columns, rows, rows
