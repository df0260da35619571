"""Products with hashed weights: layers that are trained and run from a short vector and never hold the weight.

The weight is made some rows at a time, in the backward pass once more; an embedding makes the rows that are asked for.
Where a layer is compiled, exported or traced the whole weight is made, from places that are constants then.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ecc.core.errors import InputError
from ecc.network.recording import recorded
from ecc.stages.code import decode_node
from ecc.stages.hashed_values import columns_of, key_of_hashed
from ecc.stages.hashing import HashKey
from ecc.stages.layers.modules import ProductLinear
from ecc.stages.layers.products import Product, check_sizes
from ecc.stages.multi_hash import random_net
from ecc.stages.nodes import Form, Node, is_same
from ecc.stages.reconstructed_values import key_of_reconstructed
from ecc.stages.virtual_weights import Places, gathered, reconstructed, written_gathered, written_reconstructed

__all__ = [
    "HashedProduct",
    "MultiHashProduct",
    "Space",
    "Spaces",
    "hashed_linear",
    "hashed_product",
    "multi_hash_product",
]

_BLOCK = 1 << 18  # elements of the weight that are there at a time
_SAMPLE = 1 << 16  # elements by which a start gets its deviation


class _VirtualProduct(Product):
    """A product whose weight can be had element by element.

    What a state needs beside floats of the same shapes is in it: salt, run, kind of the hash and factors, in the buffer
    ``how``. They are taken from a state that is loaded.

    Args:
        shape: Of W.
        key: Where its elements read.
        factors: Other numbers by which they are made.
        empty: Rows that are zero, int64; None for none.
        whole: Make the weight at once, which is faster where there is memory for it.
    """

    how: Tensor

    def __init__(
        self, shape: tuple[int, ...], key: HashKey, factors: tuple[float, ...], empty: Tensor | None, whole: bool
    ) -> None:
        super().__init__(shape)
        self.whole, self.key, self.factors = whole, key, factors
        bits = torch.tensor(factors, dtype=torch.float64).view(torch.int64)  # so that no cast rounds them
        kind = ord(key.published) if key.published else 0
        self.register_buffer("how", torch.cat([torch.tensor([key.salt, key.run, kind]), bits]))
        filled = torch.ones(shape[0], dtype=torch.bool)
        if empty is not None:
            filled[empty] = False
        self.filled: Tensor
        self.register_buffer("filled", filled, persistent=empty is not None)

    @abstractmethod
    def made(self, index: Tensor | int) -> Tensor:
        """Elements at some positions, as if no row were empty."""

    @abstractmethod
    def written(self) -> Tensor:
        """All elements by torch's operators alone, as if no row were empty."""

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        super()._load_from_state_dict(*args, **named)
        if self.how.is_meta:
            return
        salt, run, kind, *bits = self.how.tolist()
        self.key = replace(self.key, salt=salt, run=run, published=chr(kind) if kind else "")
        self.factors = tuple(torch.tensor(bits, dtype=torch.int64).view(torch.float64).tolist())

    def elements(self, index: Tensor | int) -> Tensor:
        """The elements at some positions (row · inputs + column), int64 of shape (n,), or so many from the first on."""
        places = torch.arange(index, device=self.filled.device) if isinstance(index, int) else index
        return self.made(index) * self.filled[places // self.inputs]

    def weight(self) -> Tensor:
        """W, differentiable in what is stored."""
        found = self.written() if self._is_written() else self.made(math.prod(self.shape))
        return (found.reshape(self.outputs, self.inputs) * self.filled[:, None]).reshape(self.shape)

    def _is_written(self) -> bool:
        return recorded() or self.filled.is_meta

    def applied(self, x: Tensor) -> Tensor:
        """By W whole, or by some rows of it after the other."""
        if self.whole or self._is_written():
            return super().applied(x)
        step = max(_BLOCK // self.inputs, 1)
        pieces = [self._block(x, start, min(start + step, self.outputs)) for start in range(0, self.outputs, step)]
        return torch.cat(pieces, -1)

    def rows(self, index: Tensor) -> Tensor:
        """Some rows of W as a matrix: shape (…) → (…, inputs)."""
        if self._is_written():
            return super().rows(index)
        some, which = torch.unique(index, return_inverse=True)
        if len(some) and (int(some[0]) < 0 or int(some[-1]) >= self.outputs):
            raise InputError(f"rows {int(some[0])} to {int(some[-1])} are asked for of a weight of {self.outputs}")
        places = some[:, None] * self.inputs + torch.arange(self.inputs, device=some.device)
        return F.embedding(which, self.elements(places.flatten()).reshape(len(some), self.inputs))

    def _block(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Some of the outputs; the weight of them is made again in the backward pass."""

        def product(x: Tensor, *_: Tensor) -> Tensor:
            index = torch.arange(start * self.inputs, stop * self.inputs, device=x.device)
            return F.linear(x, self.elements(index).reshape(stop - start, self.inputs))

        if not torch.is_grad_enabled():
            return product(x)
        found: Tensor = checkpoint(product, x, *self.parameters(), use_reentrant=False)
        return found


class HashedProduct(_VirtualProduct):
    r"""W of values that a hash finds: :math:`W_{ij} = \xi(i, j)\, w_{h(i, j)}` (HashedNets, ICML 2015).

    Args:
        values: w, shape (K,).
        shape: Of W.
        key: Where its elements read.
        empty: Rows that are zero, int64; None for none.
        whole: Make the weight at once, which is faster where there is memory for it.
    """

    def __init__(
        self,
        values: Tensor,
        shape: tuple[int, ...],
        key: HashKey,
        *,
        empty: Tensor | None = None,
        whole: bool = False,
    ) -> None:
        super().__init__(shape, key, (), empty, whole)
        if values.shape != (key.buckets,) or key.columns != columns_of(shape) or key.hashes != 1:
            raise InputError(f"{tuple(values.shape)} values and {key} make no hashed weight of shape {shape}")
        self.values = nn.Parameter(values.detach().clone())

    def made(self, index: Tensor | int) -> Tensor:
        """The values where the hash leads, with their signs."""
        return gathered(self.values, Places(self.key, index, self.values.device))

    def written(self) -> Tensor:
        """As ``made`` of all."""
        return written_gathered(self.values, self.key, math.prod(self.shape))


class Space(nn.Module):
    """Values that the multi-hash weights of several layers read: one module, held by all of them.

    Args:
        values: Shape (K,).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        if values.ndim != 1 or not len(values):
            raise InputError(f"Space(values=...) must be a vector with elements, got shape {tuple(values.shape)}")
        self.values = nn.Parameter(values.detach().clone())


Spaces = list[tuple[Node, Space]]
"""Spaces that are there already, each with the part of a code that it was made from."""


class MultiHashProduct(_VirtualProduct):
    r"""W from several values of a shared space by a small network, :math:`\sigma e (z^T g + \tanh(z^T A + c)\, b)`.

    Args:
        space: That other layers read as well.
        net: A row (A of each hash, c, b) for each hidden unit.
        gains: g of each hash and e.
        shape: Of W.
        key: Where its elements read.
        unit: What the space is measured in.
        scale: σ.
        empty: Rows that are zero, int64; None for none.
        whole: Make the weight at once, which is faster where there is memory for it.
    """

    def __init__(
        self,
        space: Space,
        net: Tensor,
        gains: Tensor,
        shape: tuple[int, ...],
        key: HashKey,
        *,
        unit: float,
        scale: float,
        empty: Tensor | None = None,
        whole: bool = False,
    ) -> None:
        super().__init__(shape, key, (unit, scale), empty, whole)
        if key.buckets != len(space.values) or key.columns != columns_of(shape) or len(gains) != key.hashes + 1:
            raise InputError(f"a space of {len(space.values)} values and {key} make no weight of shape {shape}")
        self.space = space
        self.net, self.gains = (nn.Parameter(each.detach().clone()) for each in (net, gains))

    @classmethod
    def drawn(
        cls,
        space: Space,
        shape: tuple[int, ...],
        deviation: float,
        *,
        hashes: int = 2,
        hidden: int = 4,
        run: int = 1,
        salt: int | None = None,
        generator: torch.Generator | None = None,
    ) -> MultiHashProduct:
        """A weight of a standard deviation, to be trained; each layer draws another salt where none is given."""
        net, gains = random_net(hashes, hidden, generator)
        key = HashKey(_salt(generator) if salt is None else salt, columns_of(shape), len(space.values), hashes, run)
        unit = float(space.values.detach().std())
        with torch.no_grad():
            first = cls(space, net, gains, shape, key, unit=unit, scale=1.0).elements(min(math.prod(shape), _SAMPLE))
        return cls(space, net, gains, shape, key, unit=unit, scale=deviation / float(first.square().mean().sqrt()))

    def made(self, index: Tensor | int) -> Tensor:
        """What the network makes of the values where the hashes lead."""
        unit, scale = self.factors
        places = Places(self.key, index, self.net.device)
        return reconstructed(self.space.values / unit, self.net, self.gains, places) * scale

    def written(self) -> Tensor:
        """As ``made`` of all."""
        (unit, scale), size = self.factors, math.prod(self.shape)
        return written_reconstructed(self.space.values / unit, self.net, self.gains, self.key, size) * scale


def hashed_linear(
    inputs: int,
    outputs: int,
    floats: int,
    *,
    bias: bool = True,
    salt: int | None = None,
    generator: torch.Generator | None = None,
) -> ProductLinear:
    """A linear layer with so many floats for its weight, to be trained from scratch.

    Args:
        inputs: Of the layer, at least 1.
        outputs: As ``inputs``.
        floats: For its weight, at least 1.
        bias: Whether it has one.
        salt: Of its hash; each layer draws another one where none is given, and keeps it in its state.
        generator: Of values and salt; torch's own when None.
    Raises:
        InputError: If a size is not a whole number of at least 1.
    """
    check_sizes("hashed_linear", inputs=inputs, outputs=outputs, floats=floats)
    values = (2 * torch.rand(floats, generator=generator) - 1) / math.sqrt(inputs)  # as torch's own layers start
    key = HashKey(_salt(generator) if salt is None else salt, inputs, floats)
    product = HashedProduct(values, (outputs, inputs), key)
    return ProductLinear(product, torch.zeros(outputs) if bias else None)


def hashed_product(form: Form) -> HashedProduct:
    """What runs from a form of kind ``hashed``."""
    values = decode_node(form.parts["values"]).to(form.dtype)
    return HashedProduct(values, form.shape, key_of_hashed(form), empty=_empty(form))


def multi_hash_product(form: Form, spaces: Spaces) -> MultiHashProduct:
    """What runs from a form of kind ``multi-hash``.

    Args:
        form: Of the weight.
        spaces: Those of other layers; a new one is added.
    """
    part = form.parts["space"]
    space = next((space for known, space in spaces if is_same(known, part)), None)
    if space is None:
        space = Space(decode_node(part).to(form.dtype))
        spaces.append((part, space))
    net, gains = (decode_node(form.parts[name]).to(form.dtype) for name in ("net", "gains"))
    unit, scale = (float(form.parameters[name]) for name in ("unit", "scale"))
    return MultiHashProduct(
        space, net, gains, form.shape, key_of_reconstructed(form), unit=unit, scale=scale, empty=_empty(form)
    )


def _salt(generator: torch.Generator | None) -> int:
    return int(torch.randint(1 << 62, (), generator=generator))


def _empty(form: Form) -> Tensor | None:
    return decode_node(form.parts["empty"]) if "empty" in form.parts else None
