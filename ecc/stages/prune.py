"""The stage ``prune``: the smallest weights become zero while the others are trained (Han et al., NIPS 2015).

What is left is stored as a sparse form. Without a workshop weights are pruned at once and not trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.core.rules import demand_rules
from ecc.stages.code import PackedCode, decode_node, packed, weight_names
from ecc.stages.densities import RULES, Rule, by_sensitivity, by_targets, largest
from ecc.stages.masked_training import Closing, MaskedNetwork, demand_finite
from ecc.stages.nodes import Node, Numbers
from ecc.stages.sparse_index import sparse_form
from ecc.stages.tuning import fitted

__all__ = ["Prune", "PruneSetting"]

_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of a tensor's weights, at which its sensitivity is measured
_CHOICES = (0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08, 0.11, 0.16, 0.22, 0.32, 0.45, 0.64, 0.8)
_SPARSE_BELOW = 0.9  # share of the elements from which on a packed index costs more than the zeros


@dataclass(frozen=True, slots=True)
class PruneSetting:
    """Share of a tensor's weights that are kept."""

    density: float

    @property
    def label(self) -> str:
        """For tables."""
        return f"{100 * self.density:.3g} %"

    def count(self, weights: Tensor) -> int:
        """How many of these are kept."""
        return math.ceil(self.density * weights.numel() - 1e-6)


@dataclass(frozen=True, slots=True)
class Prune:
    """Keep the largest weights.

    Attributes:
        density: Share of the weights that are kept, in (0, 1]; a state with fewer keeps those. None for all that are
            not zero.
        quality: In place of a density, the threshold in standard deviations of each tensor (the quality factor).
        rule: How many of each tensor: ``lamp``, ``deviation``, ``magnitude`` or ``uniform`` (``densities.RULES``), or
            ``sensitivity``, by the validation loss with each tensor pruned alone, which takes a workshop.
        least: Share of each tensor that is kept in any case.
        epochs: Of training, with a workshop.
        lr: Peak learning rate.
        l2: Weight decay.
        ramp: Share of the training over which weights go; 0 for all at once.
        regrow: Whether a weight may come back until the end of the ramp.
        dropout: Whether dropout rates fall with the root of the density.
        gap_bits: Of the packed index, from 1 to 24; those with the least bytes for each tensor when None.
        layers: Names or patterns of the tensors; all weights when empty.
    """

    density: float | None = 0.1
    quality: float | None = None
    rule: str = "lamp"
    least: float = 0.005
    epochs: int = 10
    lr: float = 1e-3
    l2: float = 0.0
    ramp: float = 0.5
    regrow: bool = False
    dropout: bool = False
    gap_bits: int | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            "density": (self.density is None or 0 < self.density <= 1, "must be in (0, 1] or None"),
            "quality": (self.quality is None or 0 < self.quality < math.inf, "must be positive or None"),
            "rule": (self.rule in RULES or self.rule == "sensitivity", f"must be {', '.join(RULES)} or sensitivity"),
            "least": (0 <= self.least <= 1, "must be in [0, 1]"),
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "l2": (0 <= self.l2 < math.inf, "must be 0 or more"),
            "ramp": (0 <= self.ramp < 1, "must be in [0, 1)"),
            "gap_bits": (self.gap_bits is None or 1 <= self.gap_bits <= 24, "must be from 1 to 24, or None"),
        }
        demand_rules(self, rules)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "prune"

    def choices(self, name: str, node: Node) -> Sequence[PruneSetting]:
        """Shares of the weights of a tensor that is stored as it is, up to those that are not zero."""
        if not isinstance(node, Numbers) or not node.values.numel():
            return []
        there = float((node.values != 0).float().mean())
        return [PruneSetting(each) for each in _CHOICES if each < there] + [PruneSetting(there)] * (there > 0)

    def encode_node(self, name: str, node: Node, setting: PruneSetting) -> Node:
        """The largest weights of a tensor, at once.

        Raises:
            InputError: If weights are not finite.
        """
        if not isinstance(node, Numbers):
            return node
        demand_finite({name: node.values})
        return self._node(node.values * largest(node.values, setting.count(node.values)))

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, PruneSetting] | None = None
    ) -> PackedCode:
        """The code with sparse forms in the place of weights that are stored as they are.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options; others keep all weights.

        Raises:
            InputError: If no tensor's weights are stored as they are, some are not finite, or a sensitivity is asked
                for without a workshop.
        """
        code = packed(state)
        names = [name for name in weight_names(code, self.layers) if isinstance(code.nodes[name], Numbers)]
        if not names:
            raise InputError("prune found no weights that are stored as they are; apply it before other stages")
        weights = {name: decode_node(code.nodes[name]) for name in names}
        demand_finite(weights)
        if chosen:
            targets = {
                name: chosen[name].count(each) if name in chosen else int((each != 0).sum())
                for name, each in weights.items()
            }
            total, rule = sum(targets.values()), by_targets(targets)
        else:
            total, rule = self._total(weights), self._rule(code, weights, workshop)
        if total < sum(int((each != 0).sum()) for each in weights.values()):
            code = self._pruned(code, weights, total, rule, workshop)
        return self._stored(code, names)

    def _total(self, weights: Mapping[str, Tensor]) -> int:
        """How many weights are kept."""
        there = sum(int((each != 0).sum()) for each in weights.values())
        if self.quality is not None:
            bounds = ((each, self.quality * each.float().square().mean().sqrt()) for each in weights.values())
            return min(there, sum(int((each.abs() > bound).sum()) for each, bound in bounds))
        if self.density is None:
            return there
        return min(there, math.ceil(self.density * sum(each.numel() for each in weights.values())))

    def _pruned(
        self, code: PackedCode, weights: Mapping[str, Tensor], total: int, rule: Rule, workshop: Workshop | None
    ) -> PackedCode:
        floors = {name: math.ceil(self.least * each.numel()) for name, each in weights.items()}
        if workshop is None or not self.epochs:
            counts = rule(weights, total, floors)
            zeroed: dict[str, Node] = {
                name: Numbers((each * largest(each, counts[name])).contiguous()) for name, each in weights.items()
            }
            return replace(code, nodes={**code.nodes, **zeroed})
        names = {name: [name, *(alias for alias, of in code.aliases.items() if of == name)] for name in weights}
        closing = Closing(rule, total, floors, self.ramp, regrow=self.regrow, dropout=self.dropout)
        model = fitted(workshop.model, code)
        network = MaskedNetwork(model, names, closing)
        workshop.train(network, epochs=self.epochs, lr=self.lr, phase="prune", l2=self.l2, each_step=network.advance)
        found = network.pruned().state_dict()
        nodes = {
            name: Numbers(found[name].detach().to("cpu", copy=True).contiguous()) if isinstance(node, Numbers) else node
            for name, node in code.nodes.items()
        }
        return replace(code, nodes=nodes)

    def _rule(self, code: PackedCode, weights: Mapping[str, Tensor], workshop: Workshop | None) -> Rule:
        if self.quality is not None:
            return RULES["deviation"]
        if self.rule != "sensitivity":
            return RULES[self.rule]
        if workshop is None:
            raise InputError("Prune(rule='sensitivity') measures losses and needs data; choose another rule without")
        return by_sensitivity(_sensitivities(code, weights, workshop))

    def _stored(self, code: PackedCode, names: list[str]) -> PackedCode:
        nodes = dict(code.nodes)
        for name in names:
            nodes[name] = self._node(decode_node(nodes[name]))
        return replace(code, nodes=nodes)

    def _node(self, tensor: Tensor) -> Node:
        if int((tensor != 0).sum()) < _SPARSE_BELOW * tensor.numel():
            return sparse_form(tensor, gap_bits=self.gap_bits)
        return Numbers(tensor.contiguous())


@torch.no_grad()
def _sensitivities(
    code: PackedCode, weights: Mapping[str, Tensor], workshop: Workshop
) -> dict[str, list[tuple[int, float]]]:
    """By tensor, weights kept and the validation loss with this tensor alone pruned to them."""
    network = fitted(workshop.model, code)
    state = network.state_dict()
    dense, _ = workshop.evaluate(network)
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, each in weights.items():
        counts = sorted({math.ceil(share * each.numel()) for share in _SHARES})
        curves[name] = []
        for count in counts:
            state[name].copy_(each * largest(each, count))
            loss = workshop.evaluate(network)[0] if count < each.numel() else dense
            curves[name].append((count, loss))
        state[name].copy_(each)
    return curves
