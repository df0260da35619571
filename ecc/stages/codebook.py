"""The stage ``codebook``: weights share a few values, per tensor (Deep Compression, ICLR 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.core.rules import demand_rules
from ecc.stages.code import PackedCode, decode_node, packed, weight_names
from ecc.stages.container import node_bytes
from ecc.stages.kmeans import INITS, lloyd, nearest
from ecc.stages.nodes import Form, Node, Numbers, Symbols, map_weights
from ecc.stages.sparse_index import sparse_form
from ecc.stages.tuning import tuned

__all__ = ["Codebook", "CodebookSetting"]

_CHOICES = (2, 3, 4, 5, 6, 8)
_FEWEST_BITS = 3  # that a small tensor is given, unless fewer are asked for: it has few bytes and is often sensitive
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class CodebookSetting:
    """Bits of a code."""

    bits: int

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.bits} bits"


@dataclass(frozen=True, slots=True)
class Codebook:
    """A codebook of at most 2^bits centroids for each tensor, by k-means in one dimension.

    Zeros that pruning has left out are no values. A tensor that is stored whole, half of it zeros or more, becomes
    sparse first; where fewer are zero, one of the centroids is, and they stay zero until the centroids are tuned.

    Attributes:
        bits: Of a code, from 1 to 12. A small tensor gets as many as make its codebook no larger than its codes, but
            3 at least; it stays as it is where codes and codebook would take no fewer bytes.
        init: Where centroids begin, a key of ``kmeans.INITS``.
        steps: Of Lloyd's algorithm, at most.
        centroids: ``float32`` or ``float16``.
        epochs: Of tuning the centroids and what is not coded, with a workshop.
        lr: Peak learning rate of tuning, in Adam, whose steps do not grow with a cluster as its summed gradient does.
        reassign: How often the values then go to the nearest of the tuned centroids, which are tuned again.
        layers: Names or patterns of the tensors; all weights when empty.
    """

    bits: int = 5
    init: str = "linear"
    steps: int = 100
    centroids: str = "float32"
    epochs: int = 2
    lr: float = 1e-4
    reassign: int = 0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            "bits": (1 <= self.bits <= 12, "must be from 1 to 12"),
            "init": (self.init in INITS, f"must be {', '.join(INITS)}"),
            "steps": (self.steps >= 0, "must be 0 or more"),
            "centroids": (self.centroids in _DTYPES, f"must be {', '.join(_DTYPES)}"),
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "reassign": (self.reassign >= 0, "must be 0 or more"),
        }
        demand_rules(self, rules)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "codebook"

    def choices(self, name: str, node: Node) -> Sequence[CodebookSetting]:
        """The settings between which bits per tensor may be chosen, the fewest first."""
        return [CodebookSetting(bits) for bits in _CHOICES]

    def encode_node(self, name: str, node: Node, setting: CodebookSetting) -> Node:
        """The tree with its weights shared; the same node where that takes no fewer bytes.

        Raises:
            InputError: If weights are not finite.
        """
        before = _without_zeros(node)
        found = map_weights(before, lambda leaf: self._shared(name, leaf, setting.bits))
        if before is node:  # the leaves have been compared one by one
            return found if _is_shared(found) else node
        return found if node_bytes(name, found) < node_bytes(name, node) else node

    def encode(
        self,
        state: State | Code,
        workshop: Workshop | None = None,
        *,
        chosen: Mapping[str, CodebookSetting] | None = None,
    ) -> PackedCode:
        """The code with shared values in the place of weights that are stored as floats.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options.

        Raises:
            NothingToDo: If none of them would take fewer bytes.
            InputError: If there are none, or one is not finite.
        """
        code = packed(state)
        names = weight_names(code, self.layers)
        whole = {name: _without_zeros(code.nodes[name]) for name in names}
        own, given = CodebookSetting(self.bits), chosen or {}
        fresh = {name: self.encode_node(name, node, given.get(name, own)) for name, node in whole.items()}
        if all(fresh[name] is code.nodes[name] for name in names):
            raise NothingToDo(
                f"codebook would make none of the weights smaller: {', '.join(names[:3])} have too few values for "
                "codes and centroids of their own, or are quantised already"
            )
        found = replace(code, nodes={**code.nodes, **fresh})
        if workshop is None or not self.epochs or not any(_is_shared(each) for each in fresh.values()):
            return found
        for turn in range(self.reassign + 1):
            found = tuned(found, workshop, epochs=self.epochs, lr=self.lr, phase=f"codebook {turn + 1}")
            if turn < self.reassign:
                again = {name: _reassigned(whole[name], found.nodes[name]) for name in names}
                found = replace(found, nodes={**found.nodes, **again})
        return found

    def _shared(self, name: str, leaf: Numbers, most: int) -> Node:
        """The leaf with shared values, or itself where that takes no fewer bytes."""
        if not leaf.values.numel():
            return leaf
        if not bool(leaf.values.isfinite().all()):
            raise InputError(f"the weights {name!r} hold values that are not finite and cannot be shared")
        values = leaf.values.detach().flatten().float().numpy()
        width = _DTYPES[self.centroids]
        least, before = min(most, _FEWEST_BITS), node_bytes("", leaf)
        balanced = [bits for bits in range(least, most + 1) if width.itemsize << bits <= len(values) * bits / 8]
        for bits in range(max(balanced, default=least), least - 1, -1):
            found = _assigned(leaf, torch.from_numpy(self._centroids(values, 1 << bits)).to(width))
            if node_bytes("", found) < before:
                return found
        return leaf

    def _centroids(self, values: np.ndarray[Any, np.dtype[np.float32]], count: int) -> np.ndarray[Any, Any]:
        """By k-means; one of them is zero where a value is: padding and removed channels must not come back."""
        some = values[values != 0]
        if len(some) == len(values):
            return lloyd(values, count, init=self.init, steps=self.steps)
        zero = np.zeros(1)
        return np.append(lloyd(some, count - 1, init=self.init, steps=self.steps), zero) if len(some) else zero


def _without_zeros(node: Node) -> Node:
    """A tensor that is stored whole as a sparse form, where half of it is zeros."""
    if isinstance(node, Numbers) and node.values.numel() and 2 * int((node.values == 0).sum()) >= node.values.numel():
        return sparse_form(node.values)
    return node


def _assigned(leaf: Numbers, centroids: Tensor) -> Form:
    """Each value by the nearest centroid, of which those that differ are kept."""
    rising = np.unique(centroids.numpy())
    codes = nearest(leaf.values.detach().flatten().float().numpy(), rising.astype(np.float64))
    symbols = Symbols(codes.astype(np.min_scalar_type(len(rising) - 1)), len(rising))
    parts: dict[str, Node] = {"codes": symbols, "centroids": Numbers(torch.from_numpy(rising))}
    return Form("codebook", tuple(leaf.values.shape), leaf.values.dtype, {}, parts)


def _reassigned(before: Node, shared: Node) -> Node:
    """The values of the tree before, each by the nearest of the centroids in the tree of shared values."""
    if not isinstance(shared, Form):
        return shared
    if shared.kind == "codebook":
        return _assigned(before, decode_node(shared.parts["centroids"])) if isinstance(before, Numbers) else shared
    parts = before.parts if isinstance(before, Form) else {}
    return replace(
        shared,
        parts={name: _reassigned(parts[name], part) if name in parts else part for name, part in shared.parts.items()},
    )


def _is_shared(node: Node) -> bool:
    return isinstance(node, Form) and (node.kind == "codebook" or any(map(_is_shared, node.parts.values())))
