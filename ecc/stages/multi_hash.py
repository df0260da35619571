r"""The stage ``multi-hash``: all layers read one space of values, each element several of them, by a small network.

After the abstracts of FunHashNN (Shi, Feng and Zhu, 2016) and of HFH, "homologically functional hashing" (2017). Two
elements are the same only where all their hashes meet, by a chance of about :math:`K^{-U}` instead of 1/K. One ratio is
chosen, and training shares the space out among the layers. The number of hashes, the network and its start are our own
choice, as no source tells them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.core.rules import demand_rules
from ecc.stages.code import PackedCode, packed
from ecc.stages.container import node_bytes
from ecc.stages.hashed import empty_rows, hashable, salt_of
from ecc.stages.hashed_values import columns_of
from ecc.stages.nodes import Form, Node, Numbers
from ecc.stages.reconstructed_values import key_of_reconstructed
from ecc.stages.sizes import byte_limit, demand_need, demand_target, shared_out
from ecc.stages.tuning import tuned
from ecc.stages.virtual_weights import Places, reconstructed

__all__ = ["MultiHash", "random_net"]

_SEEDS = 1 << 40
_SAMPLE = 1 << 16  # elements by which the start gets its variance
_CURVATURE = 0.1  # share of the hidden units in the start, which is nearly a plain sum: large ones train more slowly
_GROWTH = 8  # bytes by which lengths in the file may grow with the space
_WHOLE = "space"  # what the floats are shared out to: one for all


@dataclass(frozen=True, slots=True)
class MultiHash:
    """One space for all weights.

    Attributes:
        ratio: How many times smaller the tensors get that are encoded, together, and not the whole file with
            what stays as it is; in force without ``nbytes``.
        nbytes: Of the whole file, in place of a ratio; None for none.
        hashes: Values that an element reads, from 1 to 8.
        hidden: Units of each layer's network, from 0 (a sum of the values, each with a gain) to 64.
        run: Elements of a row that read values beside each other: rows of embeddings as runs that are read in blocks.
        epochs: Of training the space, the networks and what is not coded.
        lr: Peak learning rate.
        l2: Weight decay.
        seed: Of hashes and the start, from 0 to below 2⁴⁰.
        layers: Names or patterns of the weights; all where empty.
    """

    ratio: float = 8.0
    nbytes: int | None = None
    hashes: int = 2
    hidden: int = 4
    run: int = 1
    epochs: int = 20
    lr: float = 2e-3
    l2: float = 0.0
    seed: int = 0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        demand_target("MultiHash", self.ratio, self.nbytes, self.layers)
        rules = {
            "hashes": (1 <= self.hashes <= 8, "must be from 1 to 8"),
            "hidden": (0 <= self.hidden <= 64, "must be from 0 to 64"),
            "run": (1 <= self.run <= 1 << 16, "must be from 1 to 65536"),
            "epochs": (self.epochs >= 1, "must be 1 or more: weights cannot be converted without training"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "l2": (0 <= self.l2 < math.inf, "must be 0 or more"),
            "seed": (0 <= self.seed < _SEEDS, f"must be from 0 to below {_SEEDS}"),
        }
        demand_rules(self, rules)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "multi-hash"

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with one space, trained from random values, in the place of weights that are stored as they are.

        Raises:
            InputError: If there is no workshop, nothing gets smaller, or the budget cannot be met.
            NothingToDo: If the file is within ``nbytes`` already.
        """
        if workshop is None:
            raise InputError("multi-hash trains from random values and needs data; give train and validation")
        coded = self.foreseen(packed(state))
        return tuned(coded, workshop, epochs=self.epochs, lr=self.lr, phase="multi-hash", l2=self.l2)

    def foreseen(self, code: PackedCode) -> PackedCode:
        """The code with random values, with which training begins: as large as it ends.

        Raises:
            InputError: If nothing gets smaller, or the budget cannot be met.
            NothingToDo: If the file is within ``nbytes`` already.
        """
        demand_need(self.name, code, self.nbytes)
        tensors = hashable(code, self.name, self.layers, biases=False)
        return replace(code, nodes={**code.nodes, **self._start(code, self._chosen(code, tensors))})

    def _start(self, code: PackedCode, chosen: tuple[Mapping[str, Tensor], int]) -> dict[str, Node]:
        """Random forms in which each tensor has its mean square."""
        tensors, count = chosen
        generator = torch.Generator().manual_seed(self.seed)
        roots = {name: _root_mean_square(values) for name, values in tensors.items()}
        sizes = torch.tensor([float(values.numel()) for values in tensors.values()])
        squares = torch.tensor(list(roots.values())).square()
        unit = float(((sizes * squares).sum() / sizes.sum()).sqrt())
        dtype = next(iter(tensors.values())).dtype
        drawn = torch.randn(count, generator=generator, dtype=torch.float64)
        space = _shared((drawn * unit).to(dtype))
        nodes: dict[str, Node] = {}
        for name, values in tensors.items():
            net, gains = random_net(self.hashes, self.hidden, generator)
            blank = self._form(code, name, values, space, net, gains, unit, 1.0)
            places = Places(key_of_reconstructed(blank), min(values.numel(), _SAMPLE), torch.device("cpu"))
            sample = reconstructed(drawn.float(), net, gains, places)
            scale = roots[name] / max(float(sample.square().mean().sqrt()), 1e-30)
            nodes[name] = self._form(code, name, values, space, net, gains, unit, scale)
        return nodes

    def _form(
        self,
        code: PackedCode,
        name: str,
        values: Tensor,
        space: Form,
        net: Tensor,
        gains: Tensor,
        unit: float,
        scale: float,
    ) -> Form:
        parameters: dict[str, int | float] = {
            "salt": salt_of(code, name, self.seed),
            "run": min(self.run, columns_of(tuple(values.shape))),
            "unit": float(torch.tensor(unit)),  # of 32 bits, which take 4 bytes
            "scale": float(torch.tensor(scale)),
        }
        parts: dict[str, Node] = {"space": space, "net": Numbers(net), "gains": Numbers(gains), **empty_rows(values)}
        return Form("multi-hash", tuple(values.shape), values.dtype, parameters, parts)

    def _chosen(self, code: PackedCode, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """The tensors that are larger than their networks, and the values of the space, within the budget."""
        least = max(min(self.run, columns_of(tuple(values.shape))) for values in tensors.values())
        blank = _shared(torch.zeros(least))
        net, gains = torch.zeros(self.hidden, self.hashes + 2), torch.zeros(self.hashes + 1)
        forms = {name: self._form(code, name, each, blank, net, gains, 0.1, 0.1) for name, each in tensors.items()}
        alone = node_bytes("", blank)
        own = {name: node_bytes(name, form) - alone + _GROWTH for name, form in forms.items()}
        whole = {name: node_bytes(name, code.nodes[name]) for name in tensors}
        kept = {name: values for name, values in tensors.items() if 2 * own[name] < whole[name]}
        if not kept:
            raise InputError("multi-hash makes none of the weights smaller: they are no larger than its networks")
        limit = byte_limit(self.name, code, kept, ratio=self.ratio, nbytes=self.nbytes)
        rest = code.nbytes - sum(whole[name] for name in kept) + sum(own[name] for name in kept) + alone + _GROWTH
        width = next(iter(kept.values())).element_size()
        total = sum(values.numel() for values in kept.values())
        limit.demand(rest)
        sizes = shared_out({_WHOLE: total}, limit.nbytes, lambda floats: rest + max(floats[_WHOLE] - least, 0) * width)
        return kept, max(sizes[_WHOLE], least)


def random_net(hashes: int, hidden: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A layer's network for values of variance 1: parts ``net`` and ``gains`` of kind ``multi-hash``, of float32."""
    net = torch.randn(hidden, hashes + 2, generator=generator)
    net[:, :hashes] /= math.sqrt(hashes)
    net[:, hashes] /= 2
    net[:, hashes + 1] *= _CURVATURE / math.sqrt(max(hidden, 1))
    gains = torch.full((hashes + 1,), 1 / math.sqrt(hashes))
    gains[hashes] = 1.0
    return net, gains


def _shared(values: Tensor) -> Form:
    return Form("shared", tuple(values.shape), values.dtype, {}, {"values": Numbers(values)})


def _root_mean_square(values: Tensor) -> float:
    """Over the rows that are not zero."""
    rows = values.detach().double().reshape(len(values), -1)
    return float(rows[rows.any(1)].square().mean().sqrt())
