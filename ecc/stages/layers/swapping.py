"""Swapping: layers that run from what a code stores, in the place of those of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node
from ecc.stages.layers.hashed_layers import Spaces, hashed_product, multi_hash_product
from ecc.stages.layers.modules import ProductConv2d, ProductEmbedding, ProductLinear
from ecc.stages.layers.products import FactorProduct, Product
from ecc.stages.layers.recurrent import ProductRecurrent, suits
from ecc.stages.layers.relaid_products import RelaidProduct
from ecc.stages.nodes import Form
from ecc.stages.tuning import fitted

__all__ = ["PRODUCTS", "swap_layers"]

_LOG = logging.getLogger(__name__)
_MOST_TOLD = 3  # tensors that an error names


def _factored(form: Form, spaces: Spaces) -> Product:
    left, right = _parts(form)
    return FactorProduct(left, right, form.shape)


def _relaid(form: Form, spaces: Spaces) -> Product:
    left, right = _parts(form)
    return RelaidProduct(left, right, form.shape)


def _hashed(form: Form, spaces: Spaces) -> Product:
    return hashed_product(form)


PRODUCTS: Mapping[str, Callable[[Form, Spaces], Product]] = MappingProxyType(
    {"factors": _factored, "deepthin": _relaid, "hashed": _hashed, "multi-hash": multi_hash_product}
)
"""By kind of a form, what runs from it; spaces are those of multi-hash weights that are there already."""


def swap_layers(model: nn.Module, code: PackedCode) -> nn.Module:
    """A copy of the network, in eval mode, that runs from the parts of the weights that a code stores in such.

    Linear layers, embeddings, convolutions in two dimensions, and LSTMs and GRUs of one layer and direction are
    replaced where a form of their weight is of a kind in PRODUCTS and they have no hooks; parts that are coded
    themselves are decoded. All other tensors are those that the code decodes to, so that the outputs are those of
    the decoded network up to rounding. A warning is logged where the result takes more memory than that, as where a
    space is read by layers of which most stay whole.

    Raises:
        InputError: If the code is not of the network, or no layer can be replaced.
    """
    network = fitted(model, code)
    whole = _held(network)
    made: dict[str, Product] = {}
    spaces: Spaces = []

    def product_of(name: str) -> Product | None:
        name = code.aliases.get(name, name)
        node = code.nodes.get(name)
        if not isinstance(node, Form) or node.kind not in PRODUCTS:
            return None
        if name not in made:  # tied weights stay tied
            made[name] = PRODUCTS[node.kind](node, spaces).to(network.state_dict()[name])
        return made[name]

    done: dict[int, nn.Module | None] = {}  # by layer: one that has several names stays one
    for path, layer in list(network.named_modules(remove_duplicate=False)):
        if id(layer) not in done:
            done[id(layer)] = None if _hooked(layer) else _swapped(layer, f"{path}." if path else "", product_of)
        swapped = done[id(layer)]
        if swapped is None:
            continue
        if not path:
            network = swapped.eval()
            break
        parent, _, own = path.rpartition(".")
        network.get_submodule(parent).register_module(own, swapped.eval())
    stored = [name for name, node in code.nodes.items() if isinstance(node, Form) and node.kind in PRODUCTS]
    if stored and not made:
        told = "; ".join(f"{name} stays decoded, as {_why(network, name)}" for name in stored[:_MOST_TOLD])
        more = f"; and {len(stored) - _MOST_TOLD} more" if len(stored) > _MOST_TOLD else ""
        raise InputError(
            f"swap_layers can replace none of the layers whose weights are stored as factors or hashed: {told}{more}"
        )
    if not made:
        raise InputError(
            "swap_layers finds no layer whose weight is stored as factors or hashed; apply svd, deepthin, hashed or "
            "multi-hash first"
        )
    if (held := _held(network)) > whole:
        told = ", ".join(name for name in stored if name not in made) or "weights that are read by other layers too"
        _LOG.warning(
            "the network takes more memory with its layers swapped, %s bytes for %s, as %s stay whole; run it as it is "
            "decoded where memory counts",
            f"{held:,}",
            f"{whole:,}",
            told,
        )
    return network


def _swapped(layer: nn.Module, prefix: str, product_of: Callable[[str], Product | None]) -> nn.Module | None:
    """The layer that takes its place; None where it stays."""
    if suits(layer) and isinstance(layer, nn.RNNBase):
        found = {name: product_of(prefix + name) for name in ("weight_ih_l0", "weight_hh_l0")}
        products = {name: each for name, each in found.items() if each is not None}
        return ProductRecurrent(layer, products) if products else None
    plain = type(layer) in (nn.Linear, nn.Conv2d) or (type(layer) is nn.Embedding and layer.max_norm is None)
    product = product_of(prefix + "weight") if plain else None
    if product is None:
        return None
    if isinstance(layer, nn.Conv2d):
        return ProductConv2d(product, layer)
    if isinstance(layer, nn.Linear):
        return ProductLinear(product, None if layer.bias is None else layer.bias.detach().clone())
    return ProductEmbedding(product, layer.padding_idx if isinstance(layer, nn.Embedding) else None)


def _why(network: nn.Module, name: str) -> str:
    """Why a tensor's layer stays."""
    path, _, own = name.rpartition(".")
    try:
        layer = network.get_submodule(path)
    except AttributeError:  # a code may name what no module holds
        return "no layer holds it"
    kind = type(layer).__name__
    if _hooked(layer):
        return f"its layer, {kind}, has hooks"
    if isinstance(layer, nn.RNNBase) and type(layer) in (nn.LSTM, nn.GRU):
        return f"its layer, {kind}, has several layers, two directions or projections"
    if type(layer) is nn.Embedding:
        return "its layer, Embedding, has max_norm"
    if type(layer) in (nn.Linear, nn.Conv2d):
        return f"{own} is not the weight of its layer, {kind}"
    return f"there is no such form of its layer, {kind}"


def _held(network: nn.Module) -> int:
    """Bytes of its tensors; of one that several modules have, once."""
    return sum(
        each.nbytes for each in {id(each): each for each in (*network.parameters(), *network.buffers())}.values()
    )


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _parts(form: Form) -> tuple[Tensor, Tensor]:
    left, right = (decode_node(form.parts[name]).to(form.dtype).clone() for name in ("left", "right"))
    return left, right
