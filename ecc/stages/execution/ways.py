"""Ways to run a layer that change nothing of what it computes but rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from ecc.core.errors import InputError
from ecc.network.sparse_layers import sparse_layer
from ecc.stages.execution.exact_rank import exact_factors
from ecc.stages.execution.sparse_inputs import SparseInputLinear
from ecc.stages.layers.modules import ProductLinear
from ecc.stages.layers.products import FactorProduct

__all__ = ["WAYS"]


def _dense(layer: nn.Module) -> nn.Module:
    """A linear layer with the weight that a stored form stands for."""
    if not isinstance(layer, ProductLinear):
        raise InputError("it is dense")
    return _plain(layer)


def _sparse_inputs(layer: nn.Module) -> nn.Module:
    return SparseInputLinear(_plain(layer))


def _sparse_weights(layer: nn.Module) -> nn.Module:
    return sparse_layer(_plain(layer) if isinstance(layer, ProductLinear) else layer)


def _low_rank(layer: nn.Module) -> nn.Module:
    if isinstance(layer, ProductLinear) and isinstance(layer.product, FactorProduct):
        raise InputError("it is of low rank")
    plain = _plain(layer)
    factors = exact_factors(plain.weight)
    if factors is None:
        raise InputError("its weight has no rank that saves work")
    return ProductLinear(FactorProduct(*factors), None if plain.bias is None else plain.bias.detach().clone())


def _plain(layer: nn.Module) -> nn.Linear:
    """The layer as a dense one."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise InputError("it has hooks, which another form of it would not run")
    if isinstance(layer, ProductLinear):
        weight = layer.weight.detach().clone()
        found: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], layer.bias is not None)  # type: ignore[no-untyped-call]
        found.weight = nn.Parameter(weight)
        if layer.bias is not None:
            found.bias = nn.Parameter(layer.bias.detach().clone())
        return found.eval()
    if type(layer) is not nn.Linear:
        raise InputError("it is no plain linear layer")
    return layer


WAYS: Mapping[str, Callable[[nn.Module], nn.Module]] = MappingProxyType(
    {"dense": _dense, "sparse inputs": _sparse_inputs, "sparse weights": _sparse_weights, "low rank": _low_rank}
)
"""By name, what makes a layer that computes the same and leaves the given one; InputError where it cannot."""
