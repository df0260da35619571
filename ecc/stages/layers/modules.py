"""Drop-in layers that run from a product: linear layers, embeddings, convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.mixed_precision import unmixed
from ecc.stages.layers.products import FactorProduct, Product, check_sizes
from ecc.stages.layers.relaid_products import RelaidProduct

__all__ = ["ProductConv2d", "ProductEmbedding", "ProductLinear", "deepthin_linear", "factored_linear"]


class ProductLinear(nn.Module):
    """A linear layer.

    Args:
        product: With the weight.
        bias: Shape (outputs,); None for none.
    """

    def __init__(self, product: Product, bias: Tensor | None = None) -> None:
        super().__init__()
        self.product = product
        self.in_features, self.out_features = product.inputs, product.outputs
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def weight(self) -> Tensor:
        """Made anew each time it is asked for."""
        return self.product.weight()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, inputs) → (…, outputs)."""
        found: Tensor = self.product(x)
        return found if self.bias is None else found + self.bias.to(found.dtype)  # which autocast may have chosen


class ProductEmbedding(nn.Module):
    """An embedding, of which only the rows that are asked for are made.

    Args:
        product: With the table.
        padding_idx: The row that takes no part in training; None for none.
    """

    def __init__(self, product: Product, padding_idx: int | None = None) -> None:
        super().__init__()
        self.product, self.padding_idx = product, padding_idx
        self.num_embeddings, self.embedding_dim = product.outputs, product.inputs

    @property
    def weight(self) -> Tensor:
        """Made anew each time it is asked for."""
        return self.product.weight()

    def forward(self, index: Tensor) -> Tensor:
        """Shape (…) → (…, embedding_dim)."""
        with unmixed(index):  # as autocast leaves embeddings alone
            rows = self.product.rows(index)
        if self.padding_idx is None or not rows.requires_grad:
            return rows
        return torch.where((index == self.padding_idx)[..., None], rows.detach(), rows)


class ProductConv2d(nn.Module):
    """A convolution. Plain factors are two, a narrow one of the same kernel and one of a pixel; others make the kernel.

    Args:
        product: With the kernel, of shape (out, in / groups, height, width).
        like: Whose geometry and bias it has.
    """

    def __init__(self, product: Product, like: nn.Conv2d) -> None:
        super().__init__()
        if product.shape != tuple(like.weight.shape):
            raise InputError(f"a convolution of shape {tuple(like.weight.shape)} cannot run with {product.shape}")
        self.product = product
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach().clone())
        self.stride, self.dilation, self.groups = like.stride, like.dilation, like.groups
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self._around = list(like._reversed_padding_repeated_twice)

    @property
    def weight(self) -> Tensor:
        """Made anew each time it is asked for."""
        return self.product.weight()

    def forward(self, images: Tensor) -> Tensor:
        """What the convolution gives."""
        padding = self.padding
        if self.padding_mode != "zeros":
            images, padding = F.pad(images, self._around, mode=self.padding_mode), 0  # type: ignore[assignment]
        product = self.product
        if not isinstance(product, FactorProduct) or product.left.ndim > 2 or self.groups > 1:
            return F.conv2d(images, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        narrow = product.right.reshape(-1, *product.shape[1:])
        inner = F.conv2d(images, narrow, None, self.stride, padding, self.dilation)
        return F.conv2d(inner, product.left[:, :, None, None], self.bias)


def factored_linear(
    inputs: int, outputs: int, rank: int, *, bias: bool = True, generator: torch.Generator | None = None
) -> ProductLinear:
    """A linear layer of a rank, to be trained from scratch.

    Raises:
        InputError: If a size is not a whole number of at least 1, or the rank beyond the smaller side.
    """
    check_sizes("factored_linear", inputs=inputs, outputs=outputs, rank=rank)
    own = torch.zeros(outputs) if bias else None
    return ProductLinear(FactorProduct.drawn(outputs, inputs, rank, generator=generator), own)


def deepthin_linear(
    inputs: int, outputs: int, floats: int, *, bias: bool = True, generator: torch.Generator | None = None
) -> ProductLinear:
    """A linear layer of at most so many floats for its weight, laid anew, to be trained from scratch.

    Raises:
        InputError: If a size is not a whole number of at least 1, or there is no such weight of so few floats.
    """
    check_sizes("deepthin_linear", inputs=inputs, outputs=outputs, floats=floats)
    own = torch.zeros(outputs) if bias else None
    return ProductLinear(RelaidProduct.drawn(outputs, inputs, floats, generator=generator), own)
