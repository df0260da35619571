r"""Virtual weights: tensors whose elements are read from a short vector by hashes, differentiable in what is stored.

Elements are made some thousands at a time, forward and backward, so that beside the tensor itself no memory is taken;
places are kept from one pass to the next where a bounded cache has room for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from ecc.stages.hashing import HashKey, PlaceCache

__all__ = ["Places", "gathered", "reconstructed", "written_gathered", "written_reconstructed"]

_CHUNK = 1 << 15
_CACHE = PlaceCache(256 << 20)  # what follows from keys alone, and so may be forgotten at any time


class Places:
    """Places of some elements of a tensor.

    Args:
        key: Of the tensor.
        elements: Their positions, int64 of shape (n,); or how many there are, from the first on.
        device: Where they are needed.
    """

    def __init__(self, key: HashKey, elements: Tensor | int, device: torch.device) -> None:
        self._key, self._elements, self._device = key, elements, device
        self.size = elements if isinstance(elements, int) else len(elements)
        self._whole = _CACHE.places(key, elements, device) if isinstance(elements, int) else None

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Which elements, and their places, int32 of shape (hashes, some)."""
        for start in range(0, self.size, _CHUNK):
            part = slice(start, min(start + _CHUNK, self.size))
            if self._whole is not None:
                yield part, self._whole[:, part]
                continue
            if isinstance(self._elements, int):
                found = self._key.span(part.start, part.stop)
            else:
                found = self._key.places(self._elements[part].cpu().numpy().astype(np.uint64))
            yield part, torch.from_numpy(found).to(self._device)


def gathered(values: Tensor, places: Places) -> Tensor:
    r""":math:`V_p = \xi(p) w_{h(p)}` (Chen et al., ICML 2015): shape (n,), of one hash.

    Args:
        values: w, shape (K,).
        places: Of n elements.
    """
    found: Tensor = _Gathered.apply(values, places)  # type: ignore[no-untyped-call]
    return found


def reconstructed(space: Tensor, net: Tensor, gains: Tensor, places: Places) -> Tensor:
    r""":math:`V = e (z^T g + \tanh(z^T A + c)\, b)` with :math:`z_u = \xi_u s_{h_u}`: shape (n,).

    Args:
        space: s, shape (K,).
        net: A row (A of each hash, c, b) for each hidden unit, shape (hidden, hashes + 2).
        gains: g of each hash and e, shape (hashes + 1,).
        places: Of n elements.
    """
    found: Tensor = _Reconstructed.apply(space, net, gains, places)  # type: ignore[no-untyped-call]
    return found


def written_gathered(values: Tensor, key: HashKey, size: int) -> Tensor:
    """As ``gathered`` of the first elements, by torch's operators alone, with all places as a constant.

    For what is compiled, exported or traced, and for tensors without data (``meta``).
    """
    return torch.cat([values, -values]).index_select(0, _constant(key, size, values.device))


def written_reconstructed(space: Tensor, net: Tensor, gains: Tensor, key: HashKey, size: int) -> Tensor:
    """As ``reconstructed`` of the first elements; else as ``written_gathered``."""
    z = torch.cat([space, -space]).index_select(0, _constant(key, size, space.device)).reshape(key.hashes, size)
    hidden = torch.tanh(net[:, key.hashes, None] + net[:, : key.hashes] @ z)
    return (gains[: key.hashes] @ z + net[:, key.hashes + 1] @ hidden) * gains[key.hashes]


def _constant(key: HashKey, size: int, device: torch.device) -> Tensor:
    """Places of the first elements, hash by hash, int32 of shape (hashes · size,)."""
    if device.type == "meta":
        return torch.empty(key.hashes * size, dtype=torch.int32, device=device)
    # As numbers and a text, which a compiler knows as constants.
    found: Tensor = _spanned(key.salt, key.columns, key.buckets, key.hashes, key.run, key.published, size)
    return found.to(device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _spanned(salt: int, columns: int, buckets: int, hashes: int, run: int, published: str, size: int) -> Tensor:
    with warnings.catch_warnings():  # a trace says that it keeps this as a constant, which it is
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return torch.from_numpy(HashKey(salt, columns, buckets, hashes, run, published).span(0, size).reshape(-1))


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Places) -> Tensor:
        ctx.places, ctx.buckets = places, len(values)
        table, found = torch.cat([values, -values]), values.new_empty(places.size)
        for part, where in places.chunks():
            torch.index_select(table, 0, where[0], out=found[part])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        sums = gradient.new_zeros(2 * ctx.buckets)
        for part, where in ctx.places.chunks():
            sums.index_add_(0, where[0], gradient[part])
        return _folded(sums), None


class _Reconstructed(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, space: Tensor, net: Tensor, gains: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(space, net, gains)
        ctx.places = places  # type: ignore[attr-defined]
        table, found = torch.cat([space, -space]), space.new_empty(places.size)
        hashes = len(gains) - 1
        weights, shift, out = net[:, :hashes], net[:, hashes, None], net[:, hashes + 1]
        for part, where in places.chunks():
            z = table.index_select(0, where.reshape(-1)).view(hashes, -1)
            hidden = torch.addmm(shift, weights, z).tanh_()
            found[part] = (gains[:hashes] @ z + out @ hidden) * gains[hashes]
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        space, net, gains = ctx.saved_tensors
        table, sums = torch.cat([space, -space]), space.new_zeros(2 * len(space))
        net_sum, gain_sum = torch.zeros_like(net), torch.zeros_like(gains)
        hashes = len(gains) - 1
        weights, shift, out = net[:, :hashes], net[:, hashes, None], net[:, hashes + 1]
        for part, where in ctx.places.chunks():
            flat = where.reshape(-1)
            z = table.index_select(0, flat).view(hashes, -1)
            hidden = torch.addmm(shift, weights, z).tanh_()
            given = gradient[part]
            gain_sum[hashes] += given @ (gains[:hashes] @ z + out @ hidden)
            given = given * gains[hashes]
            gain_sum[:hashes] += z @ given
            net_sum[:, hashes + 1] += hidden @ given
            inner = (1 - hidden.square_()).mul_(given).mul_(out[:, None])
            net_sum[:, hashes] += inner.sum(1)
            net_sum[:, :hashes] += inner @ z.T
            sums.index_add_(0, flat, torch.addmm(gains[:hashes, None] * given, weights.T, inner).reshape(-1))
        return _folded(sums), net_sum, gain_sum, None


def _folded(sums: Tensor) -> Tensor:
    """Gradients of values from those of the values and their negatives."""
    values, negatives = sums.chunk(2)
    return values - negatives
