r"""The stage ``log-quant``: levels evenly spaced in the logarithm, with a true zero and a fitted range.

The relative error is the same for small and large values, so the signal-to-noise ratio depends on the step of d octaves
alone, :math:`-10 \log_{10}((d \ln 2)^2 / 12)` dB, and not on how the weights are distributed: the safe choice for
heavy tails, as of word embeddings, and not for dense layers with weights like a Gaussian's. With b bits there are
:math:`n = 2^{b-1} - 1` levels per sign, :math:`M (m/M)^{i/(n-1)}`: the largest magnitude M is kept exactly, m fitted.

``levels="octaves"`` is the rule of PaddleSlim's quant_embedding of type ``log``: eighths of octaves, :math:`2^{b-1}`
levels per sign and no zero, so that zeros become small constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, packed, weight_names
from ecc.stages.log_levels import level_table
from ecc.stages.nodes import Form, Node, Numbers, Symbols, map_weights

__all__ = ["LogQuant", "LogSetting", "encode_log", "encode_octaves"]

_SAMPLE = 1 << 18  # magnitudes that the range is fitted to
_SPANS = 40  # ranges that are tried, between half an octave per level and one 64th
_OCTAVE = 0.125  # PaddleSlim's step


@dataclass(frozen=True, slots=True)
class LogSetting:
    """How one tensor is quantised.

    Attributes:
        bits: Of a code.
        scale: One largest value per ``tensor`` or per ``row``.
    """

    bits: int
    scale: Literal["tensor", "row"] = "tensor"

    @property
    def label(self) -> str:
        """Short name for tables."""
        return f"log{self.bits}" + ("r" if self.scale == "row" else "")


@dataclass(frozen=True, slots=True)
class LogQuant:
    """Quantise weights in the log domain; no data, no training.

    Attributes:
        bits: Of a code, from 3 to 16.
        scale: One largest value per ``tensor`` or per ``row`` (output channel, word): four bytes each, and worth it
            from about 6 bits downward where the rows differ.
        quantile: Share of the magnitudes that lie below the least level; 0 fits the range to the least squared error.
        levels: ``fitted``, or ``octaves`` for PaddleSlim's eighths of octaves without a zero.
        layers: Names or patterns of the weights; all where empty.
    """

    bits: int = 8
    scale: Literal["tensor", "row"] = "tensor"
    quantile: float = 0.0
    levels: Literal["fitted", "octaves"] = "fitted"
    layers: tuple[str, ...] = ()

    name = "log-quant"

    def __post_init__(self) -> None:
        if not 3 <= self.bits <= 16:
            raise InputError(f"LogQuant(bits=...) must be from 3 to 16, got {self.bits}")
        if self.scale not in ("tensor", "row"):
            raise InputError(f"LogQuant(scale=...) must be 'tensor' or 'row', got {self.scale!r}")
        if not 0 <= self.quantile < 1:
            raise InputError(f"LogQuant(quantile=...) must be at least 0 and below 1, got {self.quantile}")
        if self.levels not in ("fitted", "octaves"):
            raise InputError(f"LogQuant(levels=...) must be 'fitted' or 'octaves', got {self.levels!r}")
        if self.levels == "octaves" and (self.scale, self.quantile) != ("tensor", 0.0):
            raise InputError("LogQuant(levels='octaves') has one scale per tensor and a fixed range")

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, LogSetting] | None = None
    ) -> PackedCode:
        """Every float leaf that carries weights as log codes.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options.

        Raises:
            InputError: If there are none, or some are not finite.
        """
        code = packed(state)
        names, own, given = weight_names(code, self.layers), LogSetting(self.bits, self.scale), chosen or {}
        nodes = {name: self.encode_node(name, code.nodes[name], given.get(name, own)) for name in names}
        if all(node is code.nodes[name] for name, node in nodes.items()):
            raise InputError("log-quant finds no float weights that are not quantised already")
        return replace(code, nodes={**code.nodes, **nodes})

    def choices(self, name: str, node: Node) -> Sequence[LogSetting]:
        """From 3 to 8 bits."""
        return [LogSetting(bits, self.scale) for bits in range(3, 9)]

    def encode_node(self, name: str, node: Node, setting: LogSetting) -> Node:
        """The node with its float weights as log codes; the same node where it has none.

        Raises:
            InputError: If weights are not finite.
        """
        found: list[Form] = []

        def change(leaf: Numbers) -> Node:
            if not leaf.values.numel():
                return leaf
            if not bool(leaf.values.isfinite().all()):
                raise InputError(f"the weights {name!r} hold values that are not finite and cannot be quantised")
            octaves = self.levels == "octaves"
            found.append(
                encode_octaves(leaf.values, setting.bits)
                if octaves
                else encode_log(leaf.values, setting, self.quantile)
            )
            return found[-1]

        changed = map_weights(node, change)
        return changed if found else node


def encode_log(values: Tensor, setting: LogSetting, quantile: float = 0.0) -> Form:
    """Levels from the largest magnitude down to a fitted one, zero, and the negatives.

    Args:
        values: Finite, at least one, of any float dtype.
        setting: Bits, and whether rows have their own largest magnitude (vectors have one).
        quantile: As in ``LogQuant``.
    """
    count = 2 ** (setting.bits - 1) - 1
    rows = setting.scale == "row" and values.ndim >= 2
    magnitudes = values.detach().double().abs().reshape(len(values) if rows else 1, -1)
    peak = magnitudes.amax(1)
    relative = magnitudes / torch.where(peak > 0, peak, 1)[:, None]
    step = torch.tensor([_fitted_step(*_sampled(relative, peak), count, quantile)], dtype=torch.float32)
    table = level_table(step, count, 0)[:count].double().flip(0)
    ends = torch.cat([table.new_zeros(1), table])  # zero and the levels, upward
    index = torch.bucketize(relative, (ends[1:] + ends[:-1]) / 2)  # the nearer one
    codes = torch.where(index == 0, 0, count + 1 - index).reshape(values.shape)
    codes = torch.where((values < 0) & (codes > 0), codes + count, codes)
    parts: dict[str, Node] = {
        "codes": _symbols(codes, 2 * count + 1),
        "peak": Numbers(peak.to(values.dtype)),
        "step": Numbers(step),
    }
    return Form("log", tuple(values.shape), values.dtype, {"levels": count, "zero": 1}, parts)


def encode_octaves(values: Tensor, bits: int = 8) -> Form:
    """PaddleSlim's rule: log2|w| in eighths; the 2^(bits - 1) largest of these stay, what is below goes to the last.

    Args:
        values: Finite, at least one, of any float dtype.
        bits: Of a code.
    """
    magnitudes = values.detach().double().abs()
    eighths = torch.round(torch.log2(magnitudes) / _OCTAVE)
    kept = torch.unique(eighths[eighths.isfinite()]).flip(0)[: 2 ** (bits - 1)]
    if not len(kept):  # all zero
        kept = eighths.new_zeros(1)
        peak = 0.0
    else:
        peak = 2.0 ** (float(kept[0]) * _OCTAVE)
    below = (kept[0] - eighths).clamp(max=kept[0] - kept[-1])
    places = kept[0] - kept
    codes = torch.bucketize(below, places)
    codes = torch.where(values < 0, codes + len(kept), codes)
    parts: dict[str, Node] = {
        "codes": _symbols(codes, 2 * len(kept)),
        "peak": Numbers(torch.tensor([peak])),
        "step": Numbers(torch.tensor([_OCTAVE])),
        "places": _symbols(places, int(places[-1]) + 1),
    }
    return Form("log", tuple(values.shape), values.dtype, {"levels": len(kept), "zero": 0}, parts)


def _symbols(codes: Tensor, size: int) -> Symbols:
    dtype = np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.uint32
    return Symbols(codes.flatten().numpy().astype(dtype), size)


def _sampled(relative: Tensor, peak: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitudes that are not zero, and the weights of their squared errors: relative (rows, columns), peak (rows,)."""
    rows, columns = relative.shape
    chosen = torch.linspace(0, rows * columns - 1, min(rows * columns, _SAMPLE), dtype=torch.float64).long()
    x, w = relative.flatten()[chosen], peak[chosen // columns].square()
    return x[x > 0].numpy(), w[x > 0].numpy()


def _fitted_step(x: NDArray[np.float64], w: NDArray[np.float64], count: int, quantile: float) -> float:
    """Octaves between levels, for magnitudes relative to the peak in (0, 1] whose squared errors have weights w."""
    if not len(x) or x.min() >= 1:
        return 1.0  # zero and the peak are all there is
    if quantile > 0:
        least = float(np.quantile(x, quantile))
        return max(-math.log2(least), 1e-3) / (count - 1)
    order = np.argsort(x)
    sums = _Sums(x[order], w[order])
    steps = np.geomspace(1 / 64, 4.0, _SPANS)
    for _ in range(2):  # the range may have several minima: look everywhere, then closer
        errors = [sums.error(step, count) for step in steps]
        best = int(np.argmin(errors))
        steps = np.linspace(steps[max(best - 1, 0)], steps[min(best + 1, len(steps) - 1)], _SPANS)
    return float(steps[int(np.argmin([sums.error(step, count) for step in steps]))])


class _Sums:
    """Weighted squared errors of sorted magnitudes, by sums over what falls to each level."""

    def __init__(self, x: NDArray[np.float64], w: NDArray[np.float64]) -> None:
        self.x = x
        self.moments = [np.concatenate([[0.0], np.cumsum(w * x**power)]) for power in range(3)]

    def error(self, step: float, count: int) -> float:
        """Of zero and ``count`` levels with ``step`` octaves between them, from 1 downward."""
        levels = np.concatenate([[0.0], np.exp2(-step * np.arange(count)[::-1])])
        cuts = np.searchsorted(self.x, (levels[1:] + levels[:-1]) / 2, side="left")
        bounds = np.concatenate([[0], cuts, [len(self.x)]])
        zeroth, first, second = (np.diff(moment[bounds]) for moment in self.moments)
        return float((second - 2 * levels * first + levels**2 * zeroth).sum())
