"""Products with a weight that is stored as parts: what layers are made of that run from these."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.recording import traced
from ecc.stages.low_rank import decompose

__all__ = ["FactorProduct", "Product", "check_sizes"]


class Product(nn.Module, ABC):
    """x → x Wᵀ for a weight W that is not there as such.

    Attributes:
        shape: Of W as its layer has it: (outputs, inputs, …).
        outputs: Rows of W.
        inputs: Columns of W as a matrix.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.outputs, self.inputs = shape, shape[0], math.prod(shape[1:])

    @abstractmethod
    def weight(self) -> Tensor:
        """W, differentiable in the parts."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, inputs) → (…, outputs).

        Raises:
            InputError: If the input has another width.
        """
        # A trace would write the comparison down; what follows is of torch's own operators there, which compare.
        if not traced() and (not x.ndim or x.shape[-1] != self.inputs):
            raise InputError(f"inputs of this layer have shape (…, {self.inputs}), got {tuple(x.shape)}")
        return self.applied(x)

    def applied(self, x: Tensor) -> Tensor:
        """What ``forward`` gives for an input of the right width."""
        return F.linear(x, self.weight().flatten(1))

    def rows(self, index: Tensor) -> Tensor:
        """Some rows of W as a matrix: shape (…) → (…, inputs)."""
        return F.embedding(index, self.weight().flatten(1))

    def extra_repr(self) -> str:
        """Sizes and what is stored."""
        stored = sum(each.numel() for each in self.parameters())
        return f"{' × '.join(map(str, self.shape))} from {stored} floats"


class FactorProduct(Product):
    """W = left · right, in two steps; or blocks of such products below each other.

    Args:
        left: Shape (m, r) or (g, m, r).
        right: Shape (r, n) or (g, r, n).
        shape: Of W, (g·m, …) with n elements in a row; (m, n) when None.
    """

    def __init__(self, left: Tensor, right: Tensor, shape: tuple[int, ...] | None = None) -> None:
        m, n = math.prod(left.shape[:-1]), right.shape[-1]
        super().__init__((m, n) if shape is None else shape)
        if (
            left.shape[:-2] != right.shape[:-2]
            or left.shape[-1] != right.shape[-2]
            or (self.outputs, self.inputs) != (m, n)
        ):
            raise InputError(
                f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} make no weight of shape {self.shape}"
            )
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    @classmethod
    def drawn(cls, outputs: int, inputs: int, rank: int, *, generator: torch.Generator | None = None) -> FactorProduct:
        """Random factors for training from scratch, such that W is the best of its rank to a linear layer's init.

        Raises:
            InputError: If the rank is not from 1 to the smaller side.
        """
        check_sizes("FactorProduct.drawn", outputs=outputs, inputs=inputs, rank=rank)
        if not rank <= min(outputs, inputs):
            raise InputError(f"a rank must be from 1 to {min(outputs, inputs)} here, got {rank}")
        weight = (2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(inputs)
        left, right = decompose(weight).factors(rank)
        gain = (weight.square().sum() / (left @ right).square().sum()) ** 0.25  # the variance of the whole
        return cls((gain * left).float(), (gain * right).float())

    def weight(self) -> Tensor:
        """The product."""
        return (self.left @ self.right).reshape(self.shape)

    def applied(self, x: Tensor) -> Tensor:
        """Through the rank: r(m + n) multiplications a row of x, not mn."""
        inner = F.linear(x, self.right.flatten(0, -2))
        if self.left.ndim == 2:
            return F.linear(inner, self.left)
        blocks = inner.reshape(*x.shape[:-1], len(self.left), -1)
        return torch.einsum("...gr,gmr->...gm", blocks, self.left).flatten(-2)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the left factor times the right one."""
        if self.left.ndim == 2:
            return F.embedding(index, self.left) @ self.right
        return super().rows(index)


def check_sizes(maker: str, **sizes: int) -> None:
    """Refuse sizes of a layer that are no whole numbers of at least 1.

    Raises:
        InputError: For the first of them.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"{maker}({name}=...) must be a whole number of at least 1, got {size!r}")
