"""Which operators to measure: a sequence over their kinds and shapes, dense where networks live.

Each kind has a scrambled Sobol sequence of its own; channels are spaced by their logarithm and lie now on a grid, now
off it. Kinds take turns by their weight. The sequence depends on the seed alone, so that a longer design begins with
the shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import qmc

from ecc.core.errors import InputError
from ecc.core.operators import KINDS, POINTWISE, Operator

__all__ = ["REFERENCE", "WEIGHTS", "Prediction", "choose", "is_small", "sequence"]

REFERENCE = Operator(
    "conv",
    channels_in=64,
    channels_out=64,
    height=28,
    width=28,
    out_height=28,
    out_width=28,
    kernel_h=3,
    kernel_w=3,
)
"""The operator that all others are measured in turn with: a convolution of middling size, 29 million MACs."""

_MOST_NUMBERS = 1 << 22  # read or written: 16 MiB of float32
_MOST_WEIGHTS = 1 << 25
_MOST_MACS = 4 << 30
_SMALL_MACS, _SMALL_NUMBERS = 20_000_000, 1 << 19
_DRAWS = 60  # per operator wanted; a cap that hardly any meets ends the search

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        **{"conv": 30, "depthwise": 10, "grouped": 4, "transposed": 3, "linear": 12, "matmul": 3, "attention": 5},
        **{"lstm": 2.5, "gru": 2, "rnn": 0.5, "embedding": 1.5, "batch-norm": 5, "layer-norm": 3, "group-norm": 1},
        **{"max-pool": 2, "average-pool": 1, "reduce": 2, "softmax": 1, "add": 3, "multiply": 1, "shift": 1},
        **{"scale": 1.5, "cat": 2, "copy": 1, "relu": 2, **dict.fromkeys(POINTWISE[1:], 0.8)},
    }
)
"""How often a kind is measured, relative to the others: more where kinds have many columns and networks their time."""

_SIDES = (1, 4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 224)  # half of all; the others are any whole number
_BATCHES = (1, 1, 1, 1, 1, 2, 4, 8, 16, 32)
_GRIDS = (32, 8, 1, 1)  # channels are multiples of one of them
_WIDE = 0.7  # half of the channels from 1 to 2048 are above a hundred, not above 45
_N_DRAWS = 10

Unit = NDArray[np.float64]
T = TypeVar("T")


def _pick(u: float, choices: Sequence[T]) -> T:
    return choices[min(int(u * len(choices)), len(choices) - 1)]


def _spaced(u: float, low: int, high: int) -> int:
    """A whole number between the two, spaced by its logarithm."""
    factor: float = (high / low) ** u
    return round(low * factor)


def _channels(u: float, grid: float, low: int = 1, high: int = 2048) -> int:
    exact, step = _spaced(u**_WIDE, low, high), _pick(grid, _GRIDS)
    return exact if exact < step else round(exact / step) * step


def _side(u: float, most: int = _SIDES[-1]) -> int:
    """Of an image: the usual ones, and as often any other.

    Kernels take positions by the vector, so that three by three may take longer than four by four: sides that are all
    multiples of four or of seven would never show it, and inputs of 96 or 299 pixels lead to others.
    """
    if u < 0.5:
        return _pick(2 * u, [side for side in _SIDES if side <= most])
    return _spaced(2 * u - 1, 1, most)


def _window(kind: str, u: Unit, kernels: Sequence[int], strides: Sequence[int], **sizes: int) -> Operator:
    """Slid along an image, or along a signal one time in sixteen; odd windows give as many outputs as strides fit."""
    kernel, stride, side = _pick(u[0], kernels), _pick(u[1], strides), _side(u[2])
    height, width = (1, 8 * side) if u[3] > 15 / 16 else (side, side)
    tall = 1 if height == 1 else kernel
    return Operator(
        kind,
        batch=_pick(u[4], _BATCHES),
        height=height,
        width=width,
        out_height=_outputs(height, tall, stride),
        out_width=_outputs(width, kernel, stride),
        kernel_h=tall,
        kernel_w=kernel,
        stride=stride,
        **sizes,
    )


def _outputs(size: int, kernel: int, stride: int) -> int:
    """With the padding that keeps sizes under an odd kernel."""
    return max(1, (size + 2 * ((kernel - 1) // 2) - kernel) // stride + 1)


def _conv(kind: str, u: Unit) -> Operator:
    sizes = {"channels_in": _channels(u[5], u[6]), "channels_out": _channels(u[7], u[8])}
    return _window(kind, u, (1, 1, 1, 1, 3, 3, 3, 3, 3, 5, 7), (1, 1, 1, 2), **sizes)


def _depthwise(kind: str, u: Unit) -> Operator:
    channels = _channels(u[5], u[6], 2)
    sizes = {"groups": channels, "channels_in": channels, "channels_out": channels}
    return _window(kind, u, (3, 3, 3, 5, 7), (1, 1, 2), **sizes)


def _grouped(kind: str, u: Unit) -> Operator:
    groups = _pick(u[9], (2, 4, 8, 16, 32))
    sizes = {"channels_in": groups * _channels(u[5], 1, 2, 64), "channels_out": groups * _channels(u[7], 1, 2, 64)}
    return _window(kind, u, (1, 3, 3, 3, 5), (1, 1, 2), groups=groups, **sizes)


def _transposed(kind: str, u: Unit) -> Operator:
    kernel, side = _pick(u[0], (2, 3, 4)), _side(u[2], 56)
    return Operator(
        kind,
        batch=_pick(u[4], _BATCHES),
        channels_in=_channels(u[5], u[6]),
        channels_out=_channels(u[7], u[8], 1, 512),
        height=side,
        width=side,
        out_height=2 * side,
        out_width=2 * side,
        kernel_h=kernel,
        kernel_w=kernel,
        stride=2,
    )


def _pool(kind: str, u: Unit) -> Operator:
    channels = _channels(u[5], u[6])
    return _window(kind, u, (2, 2, 3), (2, 2, 1), channels_in=channels, channels_out=channels)


def _linear(kind: str, u: Unit) -> Operator:
    length = 1 if u[0] < 0.4 else _spaced(u[1], 8, 512)
    sizes = {"channels_in": _channels(u[2], u[3], 4, 8192), "channels_out": _channels(u[5], u[6], 2, 4096)}
    return Operator(kind, batch=_pick(u[4], _BATCHES), length=length, **sizes)


def _matmul(kind: str, u: Unit) -> Operator:
    sizes = {"channels_in": _channels(u[2], u[3], 8, 512), "channels_out": _channels(u[5], u[6], 8, 512)}
    return Operator(kind, batch=_pick(u[4], _BATCHES), groups=_heads(u[0]), length=_spaced(u[1], 8, 512), **sizes)


def _heads(u: float) -> int:
    return _pick(u, (1, 2, 3, 4, 6, 8, 12, 16))


def _attention(kind: str, u: Unit) -> Operator:
    length, head = _spaced(u[1], 4, 512), _channels(u[5], u[6], 8, 128)
    context = length if u[2] < 0.75 else _spaced(u[3], 4, 512)
    sizes = {"length": length, "context": context, "channels_in": head, "channels_out": head}
    return Operator(kind, batch=_pick(u[4], _BATCHES), groups=_heads(u[0]), **sizes)


def _recurrent(kind: str, u: Unit) -> Operator:
    sizes = {"channels_in": _channels(u[2], u[3], 8, 1024), "channels_out": _channels(u[5], u[6], 8, 1024)}
    return Operator(kind, batch=_pick(u[4], _BATCHES), length=_spaced(u[1], 4, 128), **sizes)


def _embedding(kind: str, u: Unit) -> Operator:
    sizes = {"channels_in": _spaced(u[2], 256, 32768), "channels_out": _channels(u[5], u[6], 16, 1024)}
    return Operator(kind, batch=_pick(u[4], _BATCHES), length=_spaced(u[1], 1, 512), **sizes)


def _image(kind: str, u: Unit) -> Operator:
    channels, side = _channels(u[5], u[6]), _side(u[2])
    sizes = {"channels_in": channels, "channels_out": channels, "height": side, "width": side}
    return Operator(kind, batch=_pick(u[4], _BATCHES), **sizes, **_written(kind, side))


def _written(kind: str, side: int) -> dict[str, int]:
    return {} if kind == "reduce" else {"out_height": side, "out_width": side}


def _tokens(kind: str, u: Unit) -> Operator:
    channels = _channels(u[5], u[6], 8, 4096)
    sizes = {"length": _spaced(u[1], 2, 512), "channels_in": channels, "channels_out": channels}
    return Operator(kind, batch=_pick(u[4], _BATCHES), **sizes)


def _either(kind: str, u: Unit) -> Operator:
    """Three images for a sequence of tokens."""
    return _image(kind, u) if u[0] < 0.75 else _tokens(kind, u)


def _group_norm(kind: str, u: Unit) -> Operator:
    groups, side = _pick(u[9], (1, 8, 16, 32)), _side(u[2])
    channels = groups * _channels(u[5], 1, 1, 64)
    sizes = {"channels_in": channels, "channels_out": channels, "height": side, "width": side}
    return Operator(kind, batch=_pick(u[4], _BATCHES), groups=groups, **sizes, **_written(kind, side))


_SHAPES: Mapping[str, Callable[[str, Unit], Operator]] = MappingProxyType(
    {
        **dict.fromkeys(KINDS, _either),
        **{"conv": _conv, "depthwise": _depthwise, "grouped": _grouped, "transposed": _transposed},
        **{"linear": _linear, "matmul": _matmul, "attention": _attention},
        **{"lstm": _recurrent, "gru": _recurrent, "rnn": _recurrent, "embedding": _embedding},
        **{"batch-norm": _image, "layer-norm": _tokens, "group-norm": _group_norm, "softmax": _tokens},
        **{"max-pool": _pool, "average-pool": _pool},
    }
)


def _fits(operator: Operator) -> bool:
    """Whether it is of a size that networks have."""
    numbers = max(operator.reads, operator.writes)
    return numbers <= _MOST_NUMBERS and operator.weights <= _MOST_WEIGHTS and operator.macs <= _MOST_MACS


def _of_kind(kind: str, seed: int) -> Iterator[Operator]:
    sobol = qmc.Sobol(_N_DRAWS, scramble=True, seed=np.random.default_rng([seed, KINDS.index(kind)]))
    while True:
        for point in sobol.random(64):
            operator = _SHAPES[kind](kind, point)
            if _fits(operator):
                yield operator


def sequence(seed: int) -> Iterator[Operator]:
    """Operators without end; kinds take turns by their weight, each at its first turn once."""
    streams = {kind: _of_kind(kind, seed) for kind in KINDS}
    total = sum(WEIGHTS.values())
    drawn = dict.fromkeys(KINDS, 0)
    while True:
        turn = sum(drawn.values()) + 1
        kind = max(KINDS, key=lambda kind: turn * WEIGHTS[kind] / total - drawn[kind])
        drawn[kind] += 1
        yield next(streams[kind])


def choose(n: int, *, seed: int = 0, admits: Callable[[Operator], bool] = lambda _: True) -> list[Operator]:
    """The first n distinct operators of the sequence that are admitted; fewer where hardly any is.

    Raises:
        InputError: If n < 1.
    """
    if n < 1:
        raise InputError(f"samples must be at least 1, got {n}")
    found: dict[Operator, None] = {}
    for draw, operator in enumerate(sequence(seed)):
        if len(found) == n or draw > _DRAWS * n:
            break
        if operator not in found and admits(operator):
            found[operator] = None
    return list(found)


def is_small(operator: Operator) -> bool:
    """Whether any device does it in a moment, so that it can be measured before anything is known."""
    numbers = operator.reads + operator.writes + operator.weights
    return operator.macs <= _SMALL_MACS and numbers <= _SMALL_NUMBERS


class Prediction:
    """Roughly how long operators take, from some that were measured: a constant, MACs and numbers moved, per kind.

    Args:
        measured: Seconds by operator.
    """

    def __init__(self, measured: Mapping[Operator, float]) -> None:
        self._all = _rates(measured)
        self._of_kind = {
            kind: _rates(mine)
            for kind in KINDS
            if len(mine := {operator: s for operator, s in measured.items() if operator.kind == kind}) >= 3
        }

    def seconds(self, operator: Operator) -> float:
        """Of one call."""
        return float(_work(operator) @ self._of_kind.get(operator.kind, self._all))


def _work(operator: Operator) -> NDArray[np.float64]:
    return np.array([1.0, operator.macs, operator.reads + operator.writes + operator.weights])


def _rates(measured: Mapping[Operator, float]) -> NDArray[np.float64]:
    """Least squares of the relative errors, none negative."""
    if not measured:
        return np.zeros(3)
    seconds = np.array(list(measured.values()))
    work = np.stack([_work(operator) for operator in measured]) / seconds[:, None]
    scale = np.where(work.any(0), work.max(0), 1.0)  # norms have no MACs
    return np.asarray(nnls(work / scale, np.ones(len(seconds)))[0] / scale, dtype=np.float64)
