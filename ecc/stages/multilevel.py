"""The stage ``multilevel-product-quant``: rows in groups by importance, each group with its own quantisation.

Rows are ranked by what an error in them costs (``ecc.stages.importance``) and cut in buckets; the distortion of every
bucket at every level is measured, and a Lagrangian chooses the levels under a budget of bytes, over all tensors at
once; codebooks are then fitted to the groups that came out. No retraining.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.network.copying import copy_sharing
from ecc.stages.code import PackedCode, decode_node, packed, weight_names
from ecc.stages.container import node_bytes
from ecc.stages.importance import IMPORTANCES, row_importance
from ecc.stages.log_quant import LogSetting, encode_log
from ecc.stages.nodes import Form, Node, Numbers, Symbols
from ecc.stages.product_quant import PartSetting, encode_product, stored_bits
from ecc.stages.row_allocation import Offer, allocate, at_price, cheapest, spent

__all__ = ["LEVELS", "MultilevelProductQuant"]

LEVELS = ("log8", "1x8", "1x7", "1x6", "2x10", "2x8", "2x6", "4x10", "4x8", "4x6", "8x8", "drop")
"""Levels by default: from 8 bits per element down to 1, and rows of zeros."""

Floats = NDArray[np.float64]
Level = LogSetting | PartSetting | None

_LEVEL = re.compile(r"(?P<part>\d+)x(?P<bits>\d+)|log(?P<log>\d+)(?P<rows>r?)|drop")
_GROUP_BITS = 3  # about, of a row's group
_FITS = 5  # tries to end at the budget in bytes
_PRICES = 12  # that are tried for a loss
_STEPS, _FINAL_STEPS = 5, 30  # of the k-means, when levels are measured and when groups are encoded
_SAMPLE = 1 << 22  # elements of a tensor that levels are measured on


@dataclass(frozen=True, slots=True)
class MultilevelProductQuant:
    """Quantise rows by importance; one budget over all the tensors.

    Attributes:
        ratio: How many times smaller the tensors get; where neither ``nbytes`` nor ``max_loss`` is given.
        nbytes: Of the whole file; 0 for none.
        max_loss: By how much the validation loss may rise, the smallest file that keeps to it; 0 for none.
        levels: That rows may have: ``2x8`` parts of 2 elements with codes of 8 bits, ``log8`` log codes of 8 bits
            (``log4r`` with a scale per row), ``drop`` zeros.
        importance: What rows weigh: ``outputs`` (how far the network's outputs move with them), ``uses`` (how often an
            embedding reads them), both by training data, or ``equal``.
        buckets: Of rows of about equal importance, per tensor.
        seed: Of the k-means.
        layers: Names or patterns of the weights; all where empty.
    """

    ratio: float = 8.0
    nbytes: int = 0
    max_loss: float = 0.0
    levels: tuple[str, ...] = LEVELS
    importance: str = "outputs"
    buckets: int = 64
    seed: int = 0
    layers: tuple[str, ...] = ()

    name = "multilevel-product-quant"

    def __post_init__(self) -> None:
        if not 1 < self.ratio < math.inf:
            raise InputError(f"MultilevelProductQuant(ratio=...) must be above 1, got {self.ratio}")
        if self.nbytes < 0 or not 0 <= self.max_loss < math.inf or (self.nbytes and self.max_loss):
            raise InputError("MultilevelProductQuant takes nbytes or max_loss, not negative, and not both")
        if self.importance not in IMPORTANCES:
            raise InputError(
                f"MultilevelProductQuant(importance=...) must be one of {', '.join(IMPORTANCES)}, "
                f"got {self.importance!r}"
            )
        if self.buckets < 1 or not self.levels:
            raise InputError("MultilevelProductQuant needs one bucket and one level at least")
        for text in self.levels:
            _level(text)

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The weights with their rows in groups; tensors that are no plain floats stay as they are.

        Raises:
            InputError: If there are no plain floats, the budget cannot be met, or a workshop is needed.
        """
        code = packed(state)
        names = [name for name in weight_names(code, self.layers) if _is_plain(code.nodes[name])]
        if not names:
            raise InputError("multilevel-product-quant finds no weights that are plain floats; apply it first")
        if self.max_loss and workshop is None:
            raise InputError("max_loss is kept to on validation data; give them, or a ratio or nbytes")
        importance = row_importance(self.importance, code, names, workshop)
        if self.importance != "outputs":  # then errors relative to each tensor's own size are what compares
            importance = {name: _relative(importance[name], code.nodes[name]) for name in names}
        levels = [_level(text) for text in dict.fromkeys(self.levels)]
        tensors = [_Tensor.measured(name, code.nodes[name], importance[name], levels, self) for name in names]
        if self.max_loss and workshop is not None:
            return self._within_loss(code, tensors, workshop)
        return self._within_bytes(code, tensors)

    def _within_bytes(self, code: PackedCode, tensors: Sequence[_Tensor]) -> PackedCode:
        """The best code whose bytes are within the budget: the estimate of bits is corrected by what came out."""
        dense = sum(tensor.values.numel() * tensor.values.element_size() for tensor in tensors)
        target = dense / self.ratio
        if self.nbytes:
            target = self.nbytes - (code.nbytes - sum(node_bytes(each.name, code.nodes[each.name]) for each in tensors))
        offers = [tensor.offer for tensor in tensors]
        best: tuple[float, PackedCode] | None = None
        bits = 8.0 * target - sum(_GROUP_BITS * len(tensor.values) for tensor in tensors)
        least = spent(offers, cheapest(offers))
        for _ in range(_FITS):
            bits = max(bits, least)
            chosen = allocate(offers, bits)
            found = self._encoded(code, tensors, chosen)
            size = sum(node_bytes(tensor.name, found.nodes[tensor.name]) for tensor in tensors)
            if size <= target:
                distortion = sum(tensor.distortion(found.nodes[tensor.name]) for tensor in tensors)
                if best is None or distortion < best[0]:
                    best = distortion, found
            if (size > target and bits == least) or 0.99 * target < size <= target:
                break
            bits = (bits if size <= target else spent(offers, chosen)) + 8 * (target - size)
        if best is not None:
            return best[1]
        found = self._encoded(code, tensors, cheapest(offers))
        size = sum(node_bytes(tensor.name, found.nodes[tensor.name]) for tensor in tensors)
        if size > target:
            raise self._beyond(target, size, dense)
        return found

    def _beyond(self, target: float, size: int, dense: int) -> InputError:
        """Says why no levels keep the budget.

        Args:
            target: Bytes that the tensors were to take.
            size: That they take at the cheapest levels.
            dense: That they take as floats.
        """
        least = f"{size:,} with names and headers at the cheapest levels"
        if self.nbytes:
            least = f"{self.nbytes + size - math.floor(target):,} bytes with names and headers at the cheapest levels"
            return InputError(f"multilevel-product-quant makes no file of {self.nbytes:,} bytes: it takes {least}")
        if size >= dense:
            return InputError(
                f"multilevel-product-quant makes the weights no smaller: they take {dense:,} bytes as floats and "
                f"{least}; leave so few weights as they are"
            )
        return InputError(
            f"multilevel-product-quant does not make the weights {self.ratio:g} times smaller: they take {dense:,} "
            f"bytes as floats and {least}; give a smaller ratio, or levels of fewer bits"
        )

    def _within_loss(self, code: PackedCode, tensors: Sequence[_Tensor], workshop: Workshop) -> PackedCode:
        """The smallest code along the prices whose validation loss rises by no more than ``max_loss``."""
        offers = [tensor.offer for tensor in tensors]
        limit = workshop.evaluate(workshop.model)[0] + self.max_loss
        scale = sum(float(offer.distortion.max(1).sum()) for offer in offers)
        low, high = 1e-12 * scale, scale  # per bit: nearly free, and dearer than all distortion
        best: PackedCode | None = None
        for _ in range(_PRICES):
            price = math.sqrt(low * high)
            found = self._encoded(code, tensors, at_price(offers, price))
            model = copy_sharing(workshop.model, {})
            model.load_state_dict(found.decode())
            if workshop.evaluate(model)[0] <= limit:
                low = price
                best = found if best is None or found.nbytes <= best.nbytes else best
            else:
                high = price
        if best is None:
            raise InputError(
                f"no levels keep the validation loss within {self.max_loss} of {limit - self.max_loss:.4f}"
            )
        return best

    def _encoded(self, code: PackedCode, tensors: Sequence[_Tensor], chosen: Sequence[NDArray[np.int64]]) -> PackedCode:
        nodes = {tensor.name: tensor.encoded(levels, self.seed) for tensor, levels in zip(tensors, chosen, strict=True)}
        return replace(code, nodes={**code.nodes, **nodes})


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A tensor whose rows are in buckets by importance.

    Attributes:
        name: In the state.
        values: Shape (rows, …).
        importance: Shape (rows,).
        bucket: Of each row, shape (rows,).
        levels: That are offered.
        offer: What they do to the buckets.
    """

    name: str
    values: Tensor
    importance: Floats
    bucket: NDArray[np.int64]
    levels: Sequence[Level]
    offer: Offer

    @classmethod
    def measured(
        cls, name: str, node: Node, importance: Floats, levels: Sequence[Level], stage: MultilevelProductQuant
    ) -> _Tensor:
        """Distortion and bits of every bucket at every level, on a part of the rows where the tensor is large."""
        if not isinstance(node, Numbers) or not bool(node.values.isfinite().all()):
            raise InputError(f"the weights {name!r} hold values that are not finite and cannot be quantised")
        rows, buckets = len(node.values), min(stage.buckets, len(node.values))
        order = np.argsort(-importance, kind="stable")
        bucket = np.empty(rows, dtype=np.int64)
        bucket[order] = np.arange(rows) * buckets // rows
        every = max(1, min(node.values.numel() // _SAMPLE, rows // buckets))
        sample = np.sort(order[::every])
        values = node.values[torch.from_numpy(sample)]
        worth, where = importance[sample], bucket[sample]
        share = np.bincount(bucket, minlength=buckets) / np.bincount(where, minlength=buckets)
        distortion, bits = np.empty((buckets, len(levels))), np.empty((buckets, len(levels)))
        fixed = np.empty(len(levels))
        taken: list[Level] = []
        for i, level in enumerate(levels):
            form = _form(values, level, None, stage.seed, _STEPS)
            taken.append(_as_fitted(level, form))
            decoded = torch.zeros_like(values) if form is None else decode_node(form)
            errors = (decoded.double() - values.double()).square().flatten(1).sum(1).numpy()
            distortion[:, i] = np.bincount(where, worth * errors, minlength=buckets) * share
            of_codes = 0 if form is None else _code_bits(form)
            bits[:, i] = of_codes / len(sample) * np.bincount(bucket, minlength=buckets)
            fixed[i] = 0 if form is None else stored_bits(form) - of_codes
        return cls(name, node.values, importance, bucket, taken, Offer(distortion, bits, fixed))

    def encoded(self, chosen: NDArray[np.int64], seed: int) -> Node:
        """The tensor with a level for each bucket; codebooks are fitted to the rows that share a level."""
        level = chosen[self.bucket]
        used = [i for i in np.unique(level) if self.levels[i] is not None]
        group = np.zeros(len(level), dtype=np.uint8)
        parts: dict[str, Node] = {}
        for number, i in enumerate(used, start=1):
            rows = level == i
            group[rows] = number
            form = _form(self.values[torch.from_numpy(rows)], self.levels[i], self.importance[rows], seed, _FINAL_STEPS)
            if form is not None:
                parts[str(number)] = form
        if len(used) == 1 and group.all():
            return parts["1"]
        symbols = Symbols(group, len(used) + 1)
        shape = tuple(self.values.shape)
        return Form("rows", shape, self.values.dtype, {}, {"group": symbols, **parts})

    def distortion(self, node: Node) -> float:
        """What a code of the tensor costs: squared errors of its rows, times their importance."""
        errors = (decode_node(node).double() - self.values.double()).square().flatten(1).sum(1).numpy()
        return float(errors @ self.importance)


def _level(text: str) -> Level:
    found = _LEVEL.fullmatch(text)
    if found is None:
        raise InputError(f"level {text!r} is none of 2x8 (part x bits), log8, log4r and drop")
    if found["part"]:
        part, bits = int(found["part"]), int(found["bits"])
        if part < 1 or not 1 <= bits <= 16:
            raise InputError(f"level {text!r} needs parts of at least 1 and codes of 1 to 16 bits")
        return PartSetting(part, bits)
    if found["log"]:
        if not 3 <= int(found["log"]) <= 16:
            raise InputError(f"level {text!r} needs codes of 3 to 16 bits")
        return LogSetting(int(found["log"]), "row" if found["rows"] else "tensor")
    return None


def _form(values: Tensor, level: Level, weights: Floats | None, seed: int, steps: int) -> Form | None:
    """Rows at a level; None for rows of zeros."""
    if isinstance(level, LogSetting):
        return encode_log(values, level)
    if isinstance(level, PartSetting):
        capped = weights is None  # of a group: the allocation has paid for its whole codebook
        return encode_product(values, level, weights=weights, seed=seed, steps=steps, capped=capped)
    return None


def _as_fitted(level: Level, form: Form | None) -> Level:
    """The level with the bits that its codes have: small tensors have smaller codebooks."""
    if isinstance(level, PartSetting) and form is not None:
        codes = form.parts["codes"]
        return replace(level, bits=max((codes.size - 1).bit_length(), 1) if isinstance(codes, Symbols) else level.bits)
    return level


def _code_bits(form: Form) -> int:
    """Bits that grow with the rows: of the codes, and of peaks per row."""
    codes, peak = form.parts["codes"], form.parts.get("peak")
    bits = len(codes.values) * (codes.size - 1).bit_length() if isinstance(codes, Symbols) else 0
    if isinstance(peak, Numbers) and len(peak.values) > 1:
        bits += 8 * peak.values.numel() * peak.values.element_size()
    return bits


def _relative(importance: Floats, node: Node) -> Floats:
    """Importance of rows, shape (rows,), such that zeros in place of the tensor would count one."""
    squares = node.values.double().square().flatten(1).sum(1).numpy() if isinstance(node, Numbers) else importance
    total = float(importance @ squares)
    return importance / total if 0 < total < math.inf else importance


def _is_plain(node: Node) -> bool:
    return isinstance(node, Numbers) and node.values.numel() > 0
