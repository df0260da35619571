"""Recurrent layers that run from products: one layer of torch's LSTM or GRU, step by step, without its matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ecc.core.errors import InputError
from ecc.network.copying import copy_sharing
from ecc.network.mixed_precision import mixed_type
from ecc.stages.layers.products import Product

__all__ = ["ProductRecurrent", "suits"]

_MATRICES = ("weight_ih_l0", "weight_hh_l0")


def suits(layer: nn.Module) -> bool:
    """Whether a layer can be one that runs from products: an LSTM or GRU of one layer and direction, not projected."""
    if type(layer) not in (nn.LSTM, nn.GRU) or not isinstance(layer, nn.RNNBase):
        return False
    return layer.num_layers == 1 and not layer.bidirectional and not layer.proj_size


class ProductRecurrent(nn.Module):
    """A layer of an LSTM or GRU.

    Where gradients are wanted, and under autocast, its matrices are made once for the whole sequence, for the fused
    operation of torch.

    Args:
        like: The layer, one that ``suits``; its biases, if any, are kept.
        products: By name of a matrix, ``weight_ih_l0`` or ``weight_hh_l0``; a matrix that is not named is kept.
    """

    def __init__(self, like: nn.RNNBase, products: dict[str, Product]) -> None:
        super().__init__()
        if not suits(like):
            raise InputError(
                "ProductRecurrent(like=...) takes an LSTM or GRU of one layer and direction, not projected"
            )
        if not products or not set(products) <= set(_MATRICES):
            raise InputError(
                f"ProductRecurrent(products=...) takes {' and '.join(_MATRICES)}, got {', '.join(products)}"
            )
        self.products = nn.ModuleDict(products)
        self._width = like.hidden_size
        self.kept = copy_sharing(like, {id(getattr(like, name)): nn.Parameter(torch.empty(0)) for name in products})

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """As of torch's layer, for a tensor with or without a batch axis."""
        if not isinstance(x, Tensor):
            raise InputError("a recurrent layer that runs from products takes a tensor, not a packed sequence")
        trained = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *self.parameters()))
        if trained or mixed_type(x) is not None:
            weights = {name: self._product(name).weight() for name in self.products}
            made: tuple[Tensor, Any] = functional_call(self.kept, weights, (x, hx))
            return made
        single = x.ndim == 2
        steps = x[:, None] if single else x.transpose(0, 1) if self.kept.batch_first else x
        outputs, last = self._run(steps, _batched(hx, single))
        if single:
            return outputs[:, 0], tuple(each[:, 0] for each in last) if isinstance(last, tuple) else last[:, 0]
        return outputs.transpose(0, 1) if self.kept.batch_first else outputs, last

    def _run(self, steps: Tensor, hx: Any) -> tuple[Tensor, Any]:
        """Outputs (time, batch, width) and the last state, each (1, batch, width)."""
        ahead = self._times("weight_ih_l0", steps, "bias_ih_l0")
        zero = steps.new_zeros(steps.shape[1], self._width)
        for state in () if hx is None else hx if isinstance(hx, tuple) else (hx,):
            if state.shape != (1, *zero.shape):
                raise InputError(f"a state has shape {tuple(state.shape)}, and {(1, *zero.shape)} is needed")
        found = []
        if isinstance(self.kept, nn.LSTM):
            h, c = (zero, zero) if hx is None else (hx[0][0], hx[1][0])
            for each in ahead:
                i, f, g, o = (each + self._recurrent(h)).chunk(4, -1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                found.append(h)
            return torch.stack(found), (h[None], c[None])
        h = zero if hx is None else hx[0]
        for each in ahead:
            (r, z, n), (hr, hz, hn) = each.chunk(3, -1), self._recurrent(h).chunk(3, -1)
            r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            n = torch.tanh(n + r * hn)
            h = n + z * (h - n)
            found.append(h)
        return torch.stack(found), h[None]

    def _recurrent(self, h: Tensor) -> Tensor:
        return self._times("weight_hh_l0", h, "bias_hh_l0")

    def _times(self, name: str, x: Tensor, bias: str) -> Tensor:
        found: Tensor = self._product(name)(x) if name in self.products else x @ getattr(self.kept, name).T
        return found + getattr(self.kept, bias) if self.kept.bias else found

    def _product(self, name: str) -> Product:
        found = self.products[name]
        assert isinstance(found, Product)
        return found


def _batched(hx: Any, single: bool) -> Any:
    """The state with a batch axis."""
    if hx is None or not single:
        return hx
    return tuple(each[:, None] for each in hx) if isinstance(hx, tuple) else hx[:, None]
