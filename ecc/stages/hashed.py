r"""The stage ``hashed``: each tensor's elements share the values of a short vector by a hash (Chen et al., ICML 2015).

Only the vector and the key are stored. An element is :math:`V_{ij} = \xi(i, j)\, w_{h(i, j)}`, and the gradient of a
value is the signed sum of those of its elements. It is a way to train: a trained network cannot be converted without
loss: the nearest values (``start="fit"``, the mean of :math:`\xi V` over a bucket) keep 1/ratio of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.core.rules import demand_rules
from ecc.stages.code import PackedCode, packed, weight_names
from ecc.stages.container import node_bytes
from ecc.stages.hashed_values import key_of_hashed
from ecc.stages.hashing import HashKey
from ecc.stages.nodes import Form, Node, Numbers
from ecc.stages.sizes import byte_limit, demand_need, demand_target, shared_out
from ecc.stages.tuning import tuned

__all__ = ["Hashed", "empty_rows", "fitted_values", "hashable", "random_values", "salt_of"]

_SEEDS = 1 << 40
_GROWTH = 4  # bytes by which lengths in the file may grow with the number of values


@dataclass(frozen=True, slots=True)
class Hashed:
    """One vector of values for each weight that gets smaller so.

    Attributes:
        ratio: How many times smaller the tensors get that are encoded, all by the same, and not the whole file with
            what stays as it is; in force without ``nbytes``.
        nbytes: Of the whole file, in place of a ratio; None for none.
        start: Where training begins: at the ``fit`` to the weights as they are, or at ``random`` values of their
            variance; None for
            ``random`` with a workshop, and the fit, which is all there is, without.
        key: ``salted``, another hash for each tensor; or ``published``, that of the authors' code.
        biases: Whether biases are stored so as well.
        epochs: Of training the values and what is not coded, with a workshop.
        lr: Peak learning rate.
        l2: Weight decay.
        seed: Of hashes and of random values, from 0 to below 2⁴⁰.
        layers: Names or patterns of the weights; all where empty. Biases are those of the same modules.
    """

    ratio: float = 8.0
    nbytes: int | None = None
    start: Literal["fit", "random"] | None = None
    key: Literal["salted", "published"] = "salted"
    biases: bool = False
    epochs: int = 20
    lr: float = 2e-3
    l2: float = 0.0
    seed: int = 0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        demand_target("Hashed", self.ratio, self.nbytes, self.layers)
        rules = {
            "start": (self.start in (None, "fit", "random"), "must be 'fit', 'random' or None"),
            "key": (self.key in ("salted", "published"), "must be 'salted' or 'published'"),
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "l2": (0 <= self.l2 < math.inf, "must be 0 or more"),
            "seed": (0 <= self.seed < _SEEDS, f"must be from 0 to below {_SEEDS}"),
        }
        demand_rules(self, rules)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "hashed"

    def foreseen(self, code: PackedCode) -> PackedCode:
        """The code with as many floats, without data.

        Raises:
            InputError: As of ``encode``.
        """
        return replace(self, start="fit").encode(code)

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with hashed values in the place of weights that are stored as they are; without a workshop, the fit.

        Raises:
            InputError: If none gets smaller, weights are not finite, or the budget cannot be met.
            NothingToDo: If the file is within ``nbytes`` already.
        """
        if self.start == "random" and workshop is None:
            raise InputError("hashed.start=random needs data to train; give train and validation, or start=fit")
        code = packed(state)
        demand_need(self.name, code, self.nbytes)
        tensors = hashable(code, self.name, self.layers, biases=self.biases)
        buckets = self._buckets(code, tensors)
        if not buckets:
            raise InputError("hashed makes none of the weights smaller: they are too small for this ratio")
        generator = torch.Generator().manual_seed(self.seed)
        fit = self.start == "fit" or workshop is None
        nodes: dict[str, Node] = {}
        for name, count in buckets.items():
            blank = self._blank(code, name, tensors[name], count)
            key, values = key_of_hashed(blank), tensors[name]
            found = fitted_values(values, key) if fit else random_values(values, key, generator)
            nodes[name] = replace(blank, parts={**blank.parts, "values": Numbers(found.to(values.dtype))})
        coded = replace(code, nodes={**code.nodes, **nodes})
        if workshop is None or not self.epochs:
            return coded
        return tuned(coded, workshop, epochs=self.epochs, lr=self.lr, phase="hashed", l2=self.l2)

    def _buckets(self, code: PackedCode, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Values of each tensor that gets smaller, within the budget."""
        limit = byte_limit(self.name, code, tensors, ratio=self.ratio, nbytes=self.nbytes)
        whole = {name: node_bytes(name, code.nodes[name]) for name in tensors}
        fixed = {name: node_bytes(name, self._blank(code, name, each, 1)) + _GROWTH for name, each in tensors.items()}
        rest = code.nbytes - sum(whole.values())

        def size(name: str, count: int) -> int:
            return min(whole[name], fixed[name] + (count - 1) * tensors[name].element_size())

        def spent(sizes: Mapping[str, int]) -> int:
            return rest + sum(size(name, count) for name, count in sizes.items())

        limit.demand(spent(dict.fromkeys(tensors, 1)))
        sizes = shared_out({name: values.numel() for name, values in tensors.items()}, limit.nbytes, spent)
        return {name: count for name, count in sizes.items() if size(name, count) < whole[name]}

    def _blank(self, code: PackedCode, name: str, tensor: Tensor, count: int) -> Form:
        """A form with so many values, all zero."""
        published = self.key == "published"
        salt = 0 if published else salt_of(code, name, self.seed)
        parts: dict[str, Node] = {"values": Numbers(tensor.new_zeros(count))} | empty_rows(tensor)
        parameters = {"salt": salt, "published": int(published)}
        return Form("hashed", tuple(tensor.shape), tensor.dtype, parameters, parts)


def hashable(code: PackedCode, stage: str, layers: tuple[str, ...], *, biases: bool) -> dict[str, Tensor]:
    """Weights that are stored as they are and not all zero, and biases of the same modules if these are meant.

    Raises:
        InputError: If there are no weights, all are zero, or one is not finite.
    """
    weights = [name for name in weight_names(code, layers) if isinstance(code.nodes[name], Numbers)]
    if not weights:
        raise InputError(f"{stage} finds no weights that are stored as they are; apply it before other stages")
    modules = {name.rpartition(".")[0] for name in weights}
    found: dict[str, Tensor] = {}
    for name, node in code.nodes.items():
        module, _, last = name.rpartition(".")
        if name in weights or (biases and module in modules and last.startswith("bias")):
            if not isinstance(node, Numbers) or not node.values.is_floating_point() or not node.values.any():
                continue
            if not bool(node.values.isfinite().all()):
                raise InputError(f"the weights {name!r} hold values that are not finite and cannot be hashed")
            found[name] = node.values
    if not found:
        raise InputError(f"{stage} finds weights that are all zero, of which nothing is to be stored; leave it out")
    return found


def salt_of(code: PackedCode, name: str, seed: int) -> int:
    """Another one for each tensor and seed."""
    return seed << 20 | list(code.nodes).index(name)


def empty_rows(tensor: Tensor) -> dict[str, Node]:
    """The part that says which rows stay zero: padding of texts, channels that are gone."""
    if tensor.ndim < 2:
        return {}
    rows = torch.nonzero(~tensor.flatten(1).any(1)).flatten()
    return {"empty": Numbers(rows)} if len(rows) else {}


def fitted_values(tensor: Tensor, key: HashKey) -> Tensor:
    r"""The values with the least squared error to a tensor: the mean of :math:`\xi V` over each bucket.

    Rows that are zero count for nothing, as they are stored apart. Shape (K,), of float64; 0 where no element reads.
    """
    places, weights = _places(tensor, key)
    sums = torch.zeros(2 * key.buckets, dtype=torch.float64).index_add_(0, places, weights)
    counts = torch.bincount(places, minlength=2 * key.buckets)
    plus, minus = sums.chunk(2)
    return (plus - minus) / (counts[: key.buckets] + counts[key.buckets :]).clamp(min=1)


def random_values(tensor: Tensor, key: HashKey, generator: torch.Generator) -> Tensor:
    """Uniform ones by which the virtual tensor has the mean square of the tensor itself: shape (K,), float64."""
    places, weights = _places(tensor, key)
    drawn = torch.rand(key.buckets, generator=generator, dtype=torch.float64) * 2 - 1
    virtual = drawn[places % key.buckets].square().mean()
    return drawn * (weights.square().mean() / virtual.clamp(min=1e-30)).sqrt()


def _places(tensor: Tensor, key: HashKey) -> tuple[Tensor, Tensor]:
    """Where the elements read, and the elements as float64; without the rows that stay zero."""
    weights = tensor.detach().reshape(len(tensor), -1).double()
    places = torch.from_numpy(key.span(0, tensor.numel())[0]).reshape(weights.shape)
    if tensor.ndim > 1:
        some = weights.any(1)
        weights, places = weights[some], places[some]
    return places.flatten(), weights.flatten()
