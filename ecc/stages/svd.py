r"""The stage ``svd``: weights as products of two thin matrices (Xue et al., Interspeech 2013), tuned afterwards.

W (m, n) = U S Vᵀ is kept as U_r √S_r and √S_r V_rᵀ: smaller and cheaper where r < mn/(m + n). With data the singular
values are those of the outputs' error (``ecc.stages.low_rank``). Ranks come from the energy that each tensor keeps, or
from one budget over all tensors, shared out by what each singular value saves in error for its bytes. Convolutions
count as matrices (out, in·kh·kw), embeddings as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.core.rules import demand_rules
from ecc.stages.code import PackedCode, packed, weight_names
from ecc.stages.container import node_bytes
from ecc.stages.importance import row_importance
from ecc.stages.low_rank import Spectrum, decompose
from ecc.stages.moments import input_moments
from ecc.stages.multiple_choice import select
from ecc.stages.nodes import Form, Node, Numbers
from ecc.stages.sizes import byte_limit, demand_need, demand_target
from ecc.stages.tuning import tuned

__all__ = ["Svd", "SvdSetting", "factor_form"]

_CHOICES = 10  # ranks of one tensor between which a limit on the whole is shared out
_OFFERS = 96  # of one tensor, for the stage's own budget
_TRIES = 8
_TINY = float(np.finfo(np.float64).tiny)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SvdSetting:
    """Rank of a tensor; 0 leaves it whole."""

    rank: int

    @property
    def label(self) -> str:
        """For tables."""
        return f"rank {self.rank}" if self.rank else "whole"


@dataclass(frozen=True, slots=True)
class Svd:
    """Two thin factors for each weight where that pays.

    Attributes:
        ratio: How many times smaller the weights get together that are encoded, and not the whole file with what
            stays as it is; in force without ``energy`` and ``nbytes``.
        energy: Share of the squared singular values that each tensor keeps, in (0, 1), in place of a ratio.
        nbytes: Of the whole file, in place of a ratio; None for none.
        whiten: Whether errors are those of the layers' outputs on training data; None for where there are data.
        gates: The gates of recurrent layers, factored ``together`` as one matrix or ``each`` by itself.
        epochs: Of tuning the factors and what is not coded, with a workshop.
        lr: Peak learning rate of tuning.
        layers: Names or patterns of the weights; all where empty.
    """

    ratio: float = 3.0
    energy: float = 0.0
    nbytes: int | None = None
    whiten: bool | None = None
    gates: Literal["together", "each"] = "together"
    epochs: int = 5
    lr: float = 1e-3
    layers: tuple[str, ...] = ()
    _last: list[tuple[Tensor, Spectrum]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        demand_target("Svd", self.ratio, self.nbytes, self.layers)
        rules = {
            "energy": (0 <= self.energy < 1, "must be 0 or more and below 1"),
            "gates": (self.gates in ("together", "each"), "must be 'together' or 'each'"),
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
        }
        demand_rules(self, rules)
        if self.energy and self.nbytes is not None:
            raise InputError("Svd takes an energy or nbytes, not both")

    @property
    def name(self) -> str:
        """As on the command line."""
        return "svd"

    def choices(self, name: str, node: Node) -> Sequence[SvdSetting]:
        """Ranks up to the last that pays, and the whole tensor; none where it is coded or too small."""
        if not isinstance(node, Numbers):
            return []
        most = _most_rank(node.values)
        ranks = {round(rank) for rank in np.geomspace(max(most / 32, 1), most, _CHOICES)} if most else set()
        return [*(SvdSetting(rank) for rank in sorted(ranks)), SvdSetting(0)]

    def encode_node(self, name: str, node: Node, setting: SvdSetting) -> Node:
        """The factors of a tensor that is stored as it is, without data; the same node where the rank does not pay.

        Raises:
            InputError: If weights are not finite.
        """
        if not isinstance(node, Numbers) or not 0 < setting.rank <= _most_rank(node.values):
            return node
        if not self._last or self._last[0][0] is not node.values:
            self._last[:] = [(node.values, _spectrum(name, node.values, 1, None))]
        return factor_form(node.values, self._last[0][1], setting.rank)

    def foreseen(self, code: PackedCode) -> PackedCode:
        """The code with factors of as many floats, without data.

        Raises:
            InputError: As of ``encode``.
        """
        return replace(self, whiten=False).encode(code)

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, SvdSetting] | None = None
    ) -> PackedCode:
        """The code with factors in the place of weights that are stored as they are, where they are smaller.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options; others stay whole.

        Raises:
            InputError: If none gets smaller, weights are not finite, or the budget cannot be met.
            NothingToDo: If the file is within ``nbytes`` already.
        """
        if self.whiten and workshop is None:
            raise InputError(
                "svd.whiten=true weighs errors by the inputs of layers and needs data; give train and validation, or "
                "leave whiten out"
            )
        code = packed(state)
        if chosen is None:
            demand_need(self.name, code, self.nbytes)
        tensors = _plain(code, weight_names(code, self.layers))
        if not tensors:
            raise InputError("svd finds no weights that are stored as they are; apply it before other stages")
        moments = input_moments(code, workshop) if workshop is not None and self.whiten is not False else {}
        gates = _gate_counts(tensors) if self.gates == "each" else {}
        spectra = {
            name: _spectrum(name, values, gates.get(name, 1), moments.get(name))
            for name, values in tensors.items()
            if _most_rank(values, gates.get(name, 1)) and (chosen is None or name in chosen)
        }
        if not spectra:
            raise InputError("svd makes none of the weights smaller: even at rank 1 factors are as large as they are")
        if chosen is not None:
            ranks = {name: chosen[name].rank for name in spectra}
        elif self.energy:
            ranks = {name: _rank_of_energy(each, self.energy) for name, each in spectra.items()}
        else:
            ranks = self._shared_out(code, spectra, workshop)
        nodes: dict[str, Node] = {
            name: factor_form(tensors[name], spectra[name], rank)
            for name, rank in ranks.items()
            if 0 < rank <= _most_rank(tensors[name], gates.get(name, 1))
        }
        if not nodes and chosen is None:
            raise InputError("svd makes none of the weights smaller: at these ranks they are as large as their factors")
        found = replace(code, nodes={**code.nodes, **nodes})
        if workshop is None or not self.epochs:
            return found
        return tuned(found, workshop, epochs=self.epochs, lr=self.lr, phase="svd")

    def _shared_out(
        self, code: PackedCode, spectra: Mapping[str, Spectrum], workshop: Workshop | None
    ) -> dict[str, int]:
        """Ranks within the budget, 0 for whole tensors, with the least sum of what errors cost."""
        target = byte_limit(self.name, code, spectra, ratio=self.ratio, nbytes=self.nbytes)
        tensors, limit = _plain(code, spectra), target.nbytes
        least: dict[str, Node] = {name: _blank(tensors[name], each, 1) for name, each in spectra.items()}
        target.demand(replace(code, nodes={**code.nodes, **least}).nbytes)
        weights = _error_weights(code, spectra, workshop)
        offers = {name: _offers(tensors[name], each) for name, each in spectra.items()}
        losses, costs = [], []
        for name, ranks in offers.items():
            tails = np.append(np.cumsum(spectra[name].energies.numpy()[::-1])[::-1], 0.0)
            losses.append(weights[name] * np.array([tails[rank] if rank else 0.0 for rank in ranks]))
            costs.append(
                np.array([[node_bytes(name, _blank(tensors[name], spectra[name], rank))] for rank in ranks], float)
            )
        left = limit - (code.nbytes - sum(node_bytes(name, code.nodes[name]) for name in spectra))
        for _ in range(_TRIES):
            found = select(losses, costs, [left])
            if found is None:
                break
            chosen = {name: ranks[at] for (name, ranks), at in zip(offers.items(), found.places, strict=True)}
            nodes = {name: _blank(tensors[name], spectra[name], rank) for name, rank in chosen.items()}
            beyond = replace(code, nodes={**code.nodes, **nodes}).nbytes - limit
            if beyond <= 0:
                return chosen
            left -= beyond
        return dict.fromkeys(spectra, 1)  # the limit allows no more, which was asked before


def factor_form(values: Tensor, spectrum: Spectrum, rank: int) -> Form:
    """A tensor as its two balanced factors of a rank."""
    parts = dict(zip(("left", "right"), map(_numbers(values), spectrum.factors(rank)), strict=True))
    return Form("factors", tuple(values.shape), values.dtype, {}, parts)


def _numbers(like: Tensor) -> Callable[[Tensor], Numbers]:
    return lambda factor: Numbers(factor.to(like.dtype).contiguous())


def _blank(values: Tensor, spectrum: Spectrum, rank: int) -> Node:
    """What has the bytes of the factors; the tensor itself at rank 0."""
    if not rank:
        return Numbers(values)
    lead, (m, n) = spectrum.u.shape[:-2], (spectrum.u.shape[-2], spectrum.vh.shape[-1])
    parts: dict[str, Node] = {
        "left": Numbers(torch.zeros(*lead, m, rank, dtype=values.dtype)),
        "right": Numbers(torch.zeros(*lead, rank, n, dtype=values.dtype)),
    }
    return Form("factors", tuple(values.shape), values.dtype, {}, parts)


def _plain(code: PackedCode, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors that are stored as they are, and have elements."""
    nodes = ((name, code.nodes[name]) for name in names)
    return {name: node.values for name, node in nodes if isinstance(node, Numbers) and node.values.numel()}


def _most_rank(values: Tensor, blocks: int = 1) -> int:
    """The largest rank at which factors are smaller than the tensor; 0 where there is none."""
    m, n = len(values) // blocks, values.numel() // len(values)
    return (m * n - 1) // (m + n)


def _gate_counts(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of the matrices of torch's recurrent layers, the blocks that the first axis has: rows per hidden unit."""
    found = {}
    for name in tensors:
        module, _, own = name.rpartition(".")
        layer = re.fullmatch(r"weight_(?:ih|hh)_(l\d+(?:_reverse)?)", own)
        state = tensors.get(f"{module}.weight_hh_{layer[1]}".lstrip(".")) if layer else None
        if state is not None and len(state) % state.shape[1] == 0 and len(tensors[name]) == len(state):
            found[name] = len(state) // state.shape[1]
    return found


def _spectrum(name: str, values: Tensor, blocks: int, moment: Tensor | None) -> Spectrum:
    if not bool(values.isfinite().all()):
        raise InputError(f"the weights {name!r} hold values that are not finite and cannot be factored")
    matrix = values.reshape(len(values), -1)
    if blocks > 1:
        matrix = matrix.reshape(blocks, -1, matrix.shape[1])
    return decompose(matrix, moment if moment is not None and len(moment) == matrix.shape[-1] else None)


def _rank_of_energy(spectrum: Spectrum, energy: float) -> int:
    kept = torch.cumsum(spectrum.energies, 0)
    return 1 + int((kept < energy * kept[-1]).sum())


def _offers(values: Tensor, spectrum: Spectrum) -> list[int]:
    """Ranks that are offered, all where they are few, and 0 for the whole tensor."""
    most = _most_rank(values, math.prod(spectrum.u.shape[:-2]))
    return [*sorted({round(rank) for rank in np.linspace(1, most, min(most, _OFFERS))}), 0]


def _error_weights(code: PackedCode, spectra: Mapping[str, Spectrum], workshop: Workshop | None) -> dict[str, float]:
    """What a squared error of each tensor costs: how far the outputs move, or without data relative to its own size.

    Errors that are of a layer's outputs for known inputs weigh per mean square of these inputs.
    """
    if workshop is None:
        return {name: 1 / max(float(each.energies.sum()), _TINY) for name, each in spectra.items()}
    rows = row_importance("outputs", code, list(spectra), workshop)
    roots = {name: each.root for name, each in spectra.items()}
    squares = {
        name: 1.0 if root is None else float(root.double().square().sum(1).mean()) for name, root in roots.items()
    }
    return {name: float(rows[name].mean()) / max(squares[name], _TINY) for name in spectra}
