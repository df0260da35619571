r"""The stage ``deepthin``: weights as a product of two thin matrices that is laid anew (Sotoudeh and Baghsorkhi, 2018).

At a hundredth of the size a plain product has rank 1 or 2, all rows copies of a few. DeepThin pours the product's
elements into rows of another length, which breaks the copies; only the factors are learned. The smallest size is
2 √(QR) floats for a weight of QR. It is a way to train and not to convert: trained weights have no structure that
survives the pouring, so the fit to them (``start="fit"``, the least squared error) is where training begins.

The re-layout is covered by a patent, US 11,429,849 B2 (Intel; granted 30 August 2022, estimated expiry 11 May 2038).
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
from ecc.stages.nodes import Form, Numbers
from ecc.stages.relayout import Relayout, drawn_factors, fitted_factors, fitting_relayout
from ecc.stages.sizes import byte_limit, demand_need, demand_target, shared_out
from ecc.stages.tuning import tuned

__all__ = ["DeepThin"]

_QUIET = 1e-2  # deviation of the left factor of a tensor of zeros, whose right one is zero


@dataclass(frozen=True, slots=True)
class DeepThin:
    """Two factors, laid anew, for each weight and bias where that is smaller.

    Attributes:
        ratio: How many times smaller the tensors get that are encoded, all by the same, and not the whole file with
            what stays as it is; in force without ``nbytes``.
        nbytes: Of the whole file, in place of a ratio; None for none.
        start: Where training begins: the ``fit`` to the weights as they are, or ``random`` factors whose products have
            the weights' variance; None for
            ``random`` with a workshop, and the fit, which is all there is, without.
        biases: Whether biases are stored so as well.
        epochs: Of training the factors and what is not coded, with a workshop.
        lr: Peak learning rate.
        seed: Of random factors.
        layers: Names or patterns of the weights; all where empty. Biases are those of the same modules.
    """

    ratio: float = 20.0
    nbytes: int | None = None
    start: Literal["fit", "random"] | None = None
    biases: bool = True
    epochs: int = 20
    lr: float = 3e-3
    seed: int = 0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        demand_target("DeepThin", self.ratio, self.nbytes, self.layers)
        rules = {
            "start": (self.start in (None, "fit", "random"), "must be 'fit', 'random' or None"),
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
        }
        demand_rules(self, rules)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "deepthin"

    def foreseen(self, code: PackedCode) -> PackedCode:
        """The code with as many floats, without data.

        Raises:
            InputError: As of ``encode``.
        """
        return replace(self, start="fit").encode(code)

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with factors in the place of weights that are stored as they are; without a workshop, their fit.

        Raises:
            InputError: If none gets smaller, weights are not finite, or the budget cannot be met.
            NothingToDo: If the file is within ``nbytes`` already.
        """
        if self.start == "random" and workshop is None:
            raise InputError("deepthin.start=random needs data to train; give train and validation, or start=fit")
        code = packed(state)
        demand_need(self.name, code, self.nbytes)
        tensors = self._tensors(code)
        layouts = self._layouts(code, tensors)
        if not layouts:
            raise InputError("deepthin makes none of the weights smaller: at these sizes factors are as large as they")
        generator = torch.Generator().manual_seed(self.seed)
        fit = self.start == "fit" or workshop is None
        nodes = {
            name: _form(tensors[name], _start(name, tensors[name], layout, None if fit else generator))
            for name, layout in layouts.items()
        }
        found = replace(code, nodes={**code.nodes, **nodes})
        if workshop is None or not self.epochs:
            return found
        return tuned(found, workshop, epochs=self.epochs, lr=self.lr, phase="deepthin")

    def _tensors(self, code: PackedCode) -> dict[str, Tensor]:
        """Weights, and biases of the same modules, that are stored as they are and have elements."""
        weights = [name for name in weight_names(code, self.layers) if isinstance(code.nodes[name], Numbers)]
        if not weights:
            raise InputError("deepthin finds no weights that are stored as they are; apply it before other stages")
        modules = {name.rpartition(".")[0] for name in weights}
        names = [
            name
            for name in code.nodes
            if name in weights
            or (self.biases and name.rpartition(".")[0] in modules and name.rpartition(".")[2].startswith("bias"))
        ]
        nodes = ((name, code.nodes[name]) for name in names)
        return {
            name: node.values
            for name, node in nodes
            if isinstance(node, Numbers) and node.values.numel() and node.values.is_floating_point()
        }

    def _layouts(self, code: PackedCode, tensors: Mapping[str, Tensor]) -> dict[str, Relayout]:
        """Of the tensors that get smaller, within the budget."""
        limit = byte_limit(self.name, code, tensors, ratio=self.ratio, nbytes=self.nbytes)
        whole = {name: node_bytes(name, code.nodes[name]) for name in tensors}
        rest = code.nbytes - PackedCode({name: code.nodes[name] for name in tensors}).nbytes

        def at(sizes: Mapping[str, int]) -> dict[str, Relayout]:
            layouts = {name: fitting_relayout(*_sides(tensors[name]), size) for name, size in sizes.items()}
            blank = {name: _blank(tensors[name], each) for name, each in layouts.items()}
            return {name: each for name, each in layouts.items() if node_bytes(name, blank[name]) < whole[name]}

        def spent(sizes: Mapping[str, int]) -> int:
            nodes = {name: _blank(tensors[name], each) for name, each in at(sizes).items()}
            return rest + PackedCode({name: code.nodes[name] for name in tensors} | nodes).nbytes

        limit.demand(spent(dict.fromkeys(tensors, 1)))
        return at(shared_out({name: values.numel() for name, values in tensors.items()}, limit.nbytes, spent))


def _sides(values: Tensor) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix; a vector is a column."""
    return len(values), values.numel() // len(values)


def _blank(values: Tensor, layout: Relayout) -> Form:
    return _form(values, (torch.zeros(layout.rows, layout.rank), torch.zeros(layout.rank, layout.columns)))


def _form(values: Tensor, factors: tuple[Tensor, Tensor]) -> Form:
    left, right = (Numbers(factor.to(values.dtype).contiguous()) for factor in factors)
    return Form("deepthin", tuple(values.shape), values.dtype, {}, {"left": left, "right": right})


def _start(name: str, values: Tensor, layout: Relayout, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The factors with which training begins: random ones where there is a generator, else the fit."""
    if not bool(values.isfinite().all()):
        raise InputError(f"the weights {name!r} hold values that are not finite and cannot be factored")
    if not values.any():  # both factors zero would have no gradient
        own = torch.Generator().manual_seed(0) if generator is None else generator
        left, right = drawn_factors(layout, 1.0, own)
        return _QUIET * left / left.std().clamp(min=_QUIET), torch.zeros_like(right)
    if generator is None:
        return fitted_factors(values, layout)
    return drawn_factors(layout, float(values.double().square().mean()), generator)
