"""Layers: what a systolic array multiplies by stored weights, and which input meets which tap of a kernel.

Convolutions (plain, grouped, depthwise, transposed; in one or two dimensions) and products by stored matrices are
counted; a recurrent layer is two products, one for all time steps at once and one that is repeated step by step.
Whatever else multiplies is named, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecc.core.calls import OperatorCall
from ecc.core.operators import CONVOLUTIONS, RECURRENT, Operator
from ecc.network.graph import WidthGraph

__all__ = ["LeftOut", "SystolicLayer", "layers_of"]


@dataclass(frozen=True, slots=True)
class SystolicLayer:
    """A convolution, or a matrix product by stored weights.

    Attributes:
        name: Path of the module, unique in the network.
        operator: Its kind (one of the convolutions, ``linear`` or ``matmul``) and its shape.
        weight: Where its weights are: a parameter or another attribute of a module, by path; empty where unknown.
        padding: Zeros before the first row and column of the input.
        strides: In rows and columns.
        dilations: In rows and columns.
        inputs_first: Whether the input channels come before the output channels in the shape of its weights.
        weights_first: Whether the weights are the first matrix of a product.
        repeats: Time steps that multiply by the same weights one after the other.
    """

    name: str
    operator: Operator
    weight: str = ""
    padding: tuple[int, int] = (0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    inputs_first: bool = False
    weights_first: bool = False
    repeats: int = 1

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution, and not a product of matrices."""
        return self.operator.kind in CONVOLUTIONS

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.operator.kind == "transposed"

    @property
    def groups(self) -> int:
        """Groups of a convolution, or products of a kind that have weights of their own each."""
        operator = self.operator
        return operator.batch * operator.groups if operator.kind == "matmul" else operator.groups

    @property
    def size(self) -> int:
        """Number of weights."""
        operator = self.operator
        if operator.kind == "matmul":
            return self.groups * operator.channels_in * operator.channels_out
        return operator.weights

    @property
    def examples(self) -> int:
        """Inputs of one time step: images, or rows of the matrix that is multiplied by the weights."""
        operator = self.operator
        if self.convolves:
            return operator.batch
        return operator.length if operator.kind == "matmul" else operator.batch * operator.length

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: (channels, height, width) of a convolution, else (channels,)."""
        operator = self.operator
        if self.convolves:
            return (operator.channels_in, operator.height, operator.width)
        return (operator.channels_in * (self.groups if operator.kind == "matmul" else 1),)

    @property
    def fan_out(self) -> int:
        """Output channels that each input channel reaches."""
        operator = self.operator
        return operator.channels_out if operator.kind == "matmul" else operator.channels_out // operator.groups

    @property
    def positions(self) -> int:
        """Output positions of one time step at which a weight may be used, over all examples.

        An output of a transposed convolution meets only those taps whose distance is a multiple of the stride from it,
        so that each weight has its own share of the positions.
        """
        operator = self.operator
        if not self.convolves:
            return self.examples
        if not self.transposed:
            return operator.batch * operator.out_height * operator.out_width
        return operator.batch * -(-operator.out_height // self.strides[0]) * -(-operator.out_width // self.strides[1])

    @property
    def outputs(self) -> int:
        """Numbers that it writes, those of all time steps."""
        operator = self.operator
        if self.convolves:
            return operator.writes
        return self.repeats * self.examples * self.groups * operator.channels_out

    @property
    def blocks(self) -> tuple[int, int, int, int, int]:
        """Shape of its weights as (groups, outputs of one, inputs of one, kernel rows, kernel columns).

        Weights whose inputs come first have the second and the third axis in the other order.
        """
        operator = self.operator
        inner = self.input_shape[0] // self.groups
        outer, inner = (inner, self.fan_out) if self.inputs_first else (self.fan_out, inner)
        return (self.groups, outer, inner, operator.kernel_h, operator.kernel_w)

    def taps(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How often each tap of the kernel meets each row, and each column, of the input: 0 or 1.

        Shapes (kernel_h, height) and (kernel_w, width); padding is never met.
        """
        operator = self.operator
        sizes = (operator.height, operator.width), (operator.out_height, operator.out_width)
        kernels = (operator.kernel_h, operator.kernel_w)
        rows, columns = (
            _met(size, out, kernel, *window, transposed=self.transposed)
            for size, out, kernel, window in zip(
                *sizes, kernels, zip(self.padding, self.strides, self.dilations, strict=True), strict=True
            )
        )
        return rows, columns

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of the input, which are fetched whole, and elements of a channel in one; a signal's are its steps."""
        operator = self.operator
        return (operator.width, 1) if self._signal else (operator.height, operator.width)

    @property
    def row_window(self) -> tuple[int, int, int, int]:
        """Rows that a row of outputs needs, rows between these, and empty ones before and after the input."""
        operator = self.operator
        axis = 1 if self._signal else 0
        kernel, out = ((operator.kernel_h, operator.out_height), (operator.kernel_w, operator.out_width))[axis]
        stride, padding = self.strides[axis], self.padding[axis]
        window = self.dilations[axis] * (kernel - 1) + 1
        if self.transposed:
            return -(-window // stride), 1, 0, 0
        return window, stride, padding, max(padding, (out - 1) * stride + window - padding - self.rows[0])

    @property
    def _signal(self) -> bool:
        """Whether the input has one dimension only."""
        return self.operator.height == self.operator.kernel_h == 1


def _met(
    size: int, out: int, kernel: int, padding: int, stride: int, dilation: int, *, transposed: bool
) -> NDArray[np.float64]:
    """Along one axis: whether a tap meets an input; shape (kernel, size)."""
    if transposed:  # the input at x adds to the output at x·stride − padding + tap·dilation
        place = np.arange(size)[None] * stride - padding + np.arange(kernel)[:, None] * dilation
        return ((place >= 0) & (place < out)).astype(np.float64)
    met = np.zeros((kernel, size))
    place = np.arange(out)[None] * stride - padding + np.arange(kernel)[:, None] * dilation
    tap, position = np.nonzero((place >= 0) & (place < size))
    met[tap, place[tap, position]] = 1.0
    return met


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that multiplies and is not counted.

    Attributes:
        name: Of the layer.
        kind: Of the operator or layer.
        macs: Multiply-accumulates of the batch.
        reason: Why it is not counted.
    """

    name: str
    kind: str
    macs: int
    reason: str


def layers_of(
    graph: WidthGraph, relative: Mapping[str, float] | None = None
) -> tuple[tuple[SystolicLayer, ...], tuple[LeftOut, ...]]:
    """What a network multiplies by stored weights, in order, and what else it multiplies.

    Args:
        relative: Relative widths in (0, 1] by group, as ``WidthGraph.relative`` gives them; dense when None.
    """
    layers: list[SystolicLayer] = []
    out: list[LeftOut] = []
    cells = Counter[str]()
    for call in graph.calls:
        operator = call.at(relative or {})
        if not operator.macs:
            continue
        found = list(_layers(call, operator, graph, cells))
        layers += found
        if not found:
            name = call.module or operator.kind
            out.append(LeftOut(name, operator.kind, operator.macs, "it multiplies by no stored weights"))
    return _numbered(layers), (*out, *_not_understood(graph, layers))


def _layers(call: OperatorCall, operator: Operator, graph: WidthGraph, cells: Counter[str]) -> Iterator[SystolicLayer]:
    """The layers of a call; ``cells`` counts those of recurrent modules."""
    name = call.module or call.weight.removesuffix(".weight") or operator.kind
    weight = call.weight or (f"{call.module}.weight" if call.module else "")
    if operator.kind in CONVOLUTIONS:
        transposed = operator.kind == "transposed"
        yield SystolicLayer(name, operator, weight, call.padding, call.strides, call.dilations, transposed)
    elif operator.kind == "linear":
        yield SystolicLayer(name, operator, weight)
    elif operator.kind == "matmul" and call.weight:
        yield _stored(name, operator, call, graph)
    elif operator.kind in RECURRENT:
        cells[call.module] += 1
        yield from _recurrent(name, operator, call, graph, cells[call.module] - 1)


def _stored(name: str, operator: Operator, call: OperatorCall, graph: WidthGraph) -> SystolicLayer:
    """A product by stored weights, which are its second matrix or its first one, perhaps transposed.

    The shapes at dense widths tell; what fits several ways is taken as the second matrix, as it stands.
    """
    shape = graph.parameters[call.weight].shape if call.weight in graph.parameters else ()
    if len(shape) != 2:
        return SystolicLayer(name, operator, call.weight, inputs_first=True)
    dense, copies = call.operator, operator.batch * operator.groups
    second, first = (dense.channels_in, dense.channels_out), (dense.length, dense.channels_in)
    ways = [(second, True, False), (first, False, True), (second[::-1], False, False), (first[::-1], True, True)]
    if copies > 1:  # each copy has a second matrix of its own, unless one was expanded
        ways = [ways[i] for i in (1, 3, 0, 2)]
    fitting = (way[1:] for way in ways if way[0] == shape)
    inputs_first, weights_first = next(fitting, (True, False))
    rows, columns = operator.length, operator.channels_out
    if weights_first:
        rows, columns = columns, rows
    product = Operator("linear", batch=copies * rows, channels_in=operator.channels_in, channels_out=columns)
    return SystolicLayer(name, product, call.weight, inputs_first=inputs_first, weights_first=weights_first)


def _recurrent(
    name: str, operator: Operator, call: OperatorCall, graph: WidthGraph, cell: int
) -> Iterator[SystolicLayer]:
    """One layer in one direction as two products: from its inputs, all steps at once, and from its state, in turn."""
    gates = RECURRENT[operator.kind] * operator.channels_out
    module = call.weight.rpartition(".")[0]
    prefix = f"{module}.weight_ih_l".lstrip(".")
    weights = [weight for weight in graph.parameters if weight.startswith(prefix)]  # layer by layer, as cells are run
    first = weights[cell % len(weights)] if weights else ""
    for part, channels, rows, repeats in (
        ("ih", operator.channels_in, operator.length * operator.batch, 1),
        ("hh", operator.channels_out, operator.batch, operator.length),
    ):
        weight = first.replace(prefix, prefix.replace("weight_ih", f"weight_{part}"))
        product = Operator("linear", batch=rows, channels_in=channels, channels_out=gates)
        yield SystolicLayer(weight or f"{name}.{part}", product, weight, repeats=repeats)


def _numbered(layers: Sequence[SystolicLayer]) -> tuple[SystolicLayer, ...]:
    """Layers with names of their own: a module that is used again is ``name@2``."""
    seen = Counter[str]()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        named.append(replace(layer, name=f"{layer.name}@{seen[layer.name]}") if seen[layer.name] > 1 else layer)
    return tuple(named)


def _not_understood(graph: WidthGraph, layers: Sequence[SystolicLayer]) -> list[LeftOut]:
    """Layers of the graph that are no operator whose shape is known, such as convolutions in three dimensions."""
    called = {call.module for call in graph.calls if call.operator.macs} | {layer.name for layer in layers}
    batch = max((shape[0] for shape in graph.input_shapes if shape), default=1)
    per_example = sum(call.operator.macs for call in graph.calls) / batch
    if math.isclose(per_example, sum(layer.macs for layer in graph.layers), rel_tol=1e-9):
        return []
    return [
        LeftOut(
            layer.name,
            layer.kind,
            layer.macs * batch,
            "it is of an unknown kind, or in a module that cannot be followed inside",
        )
        for layer in graph.layers
        if layer.macs and not any(_inside(layer.name.partition("@")[0], module) for module in called)
    ]


def _inside(name: str, module: str) -> bool:
    return bool(module) and (name == module or name.startswith(f"{module}."))
