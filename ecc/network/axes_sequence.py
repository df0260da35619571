"""Recurrent layers and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ecc.network.axes_layers import labels_of_all
from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed, take

__all__ = ["SEQUENCE"]


def _recurrent(gates: int) -> Callable[[Call], list[Axes]]:
    """LSTM (4 gates), GRU (3) and plain recurrent layers (1).

    A module holds one hidden size, so hidden unit i goes in all gates of all layers and directions at once.
    """

    def rule(call: Call) -> list[Axes]:
        value, initial, weights = call.value("input"), call.get("hx"), call.get("params")
        initial = initial if isinstance(initial, list) else [initial]
        if not isinstance(weights, list) or call.get("batch_sizes") is not None:
            raise ValueError("packed sequences")
        layers, directions = call.get("num_layers"), 2 if call.get("bidirectional") else 1
        per_cell = len(weights) // (layers * directions)
        n_bias = 2 if call.get("has_biases") else 0
        for axis in value.axes[:-1]:
            call.fix(axis)
        rows = all(weight.axes[0].zero for weight in weights)
        zero = rows and all(state.axes[-1].zero for state in initial if isinstance(state, Value))
        hidden = Axis(call.ledger.channels.fresh(weights[0].shape[0] // gates), zero)
        projected = hidden
        if per_cell > 2 + n_bias:  # w_hr projects the hidden units; the module insists that it makes them fewer
            call.fix(hidden, f"{call.place} must keep more hidden units than its projection makes")
            projected = Axis(call.ledger.channels.fresh(weights[per_cell - 1].shape[0]), zero)
        steps = math.prod(value.shape[:-1])
        read = value.axes[-1]
        for layer in range(layers):
            for direction in range(directions):
                start = (layer * directions + direction) * per_cell
                _cell(call, weights[start : start + per_cell], gates, read, hidden, projected, steps)
            read = _both(call, [projected] * directions)
        for state, units in zip(initial, (projected, hidden), strict=False):
            _initial(call, state, units)
        made: Axes = [*[PLAIN] * (len(call.shape) - 1), Axis(read.labels, zero)]
        states = [Axis(units.labels, zero) for units in (projected, hidden)]
        return [made, *([*[PLAIN] * (len(shape) - 1), states[i]] for i, shape in enumerate(call.shapes[1:]))]

    return rule


def _initial(call: Call, state: Any, units: Axis) -> None:
    """Tie an initial state."""
    if isinstance(state, Value):
        call.tie(state.axes[-1], units)
        for axis in state.axes[:-1]:
            call.fix(axis)


def _both(call: Call, directions: Sequence[Axis]) -> Axis:
    parts = [(0 if axis.labels is None else len(axis.labels), axis.labels) for axis in directions]
    return Axis(call.ledger.channels.concatenate(parts), all(axis.zero for axis in directions))


def _cell(
    call: Call, weights: Sequence[Value], gates: int, read: Axis, hidden: Axis, projected: Axis, steps: int
) -> None:
    """Tie the tensors of one layer and direction: w_ih, w_hh, biases, w_hr."""
    units = hidden.labels
    if units is None:
        raise ValueError("no units")
    rows = Axis(np.tile(units, (gates, 1)))
    for tensor in weights[: len(weights) - (projected is not hidden)]:
        call.tie(tensor.axes[0], rows)
        call.mark(tensor.axes[0], "write")
        call.ledger.gates.update(dict.fromkeys(call.sources(tensor.axes[0]), gates))
    matrices = [(weights[0], read, rows), (weights[1], projected, rows)]
    if projected is not hidden:
        call.tie(weights[-1].axes[0], projected)
        call.mark(weights[-1].axes[0], "write")
        matrices.append((weights[-1], hidden, projected))
    for matrix, columns, made in matrices:
        call.tie(matrix.axes[1], columns)
        call.mark(matrix.axes[1], "read")
        if not (columns.zero or matrix.axes[1].zero):
            call.fix(columns, f"{call.place} sums over channels that are not zero once removed")
        name = matrix.axes[0].source[0] if matrix.axes[0].source else call.owner(matrix)
        call.charge("recurrent", name, steps * math.prod(matrix.shape), columns.labels, made.labels)


def _recurrent_cell(gates: int) -> Callable[[Call], list[Axes]]:
    """One time step of LSTMCell, GRUCell or RNNCell."""

    def rule(call: Call) -> list[Axes]:
        value, state = call.value("input"), call.get("hx")
        states = state if isinstance(state, list) else [state]
        weights = [call.value("w_ih"), call.value("w_hh")]
        weights += [bias for bias in (call.get("b_ih"), call.get("b_hh")) if isinstance(bias, Value)]
        zero = all(tensor.axes[-1].zero for tensor in states if isinstance(tensor, Value))
        zero = zero and all(weight.axes[0].zero for weight in weights)
        hidden = Axis(call.ledger.channels.fresh(weights[0].shape[0] // gates), zero)
        _cell(call, weights, gates, value.axes[-1], hidden, hidden, math.prod(value.shape[:-1]))
        for state in states:
            _initial(call, state, hidden)
        return [[*[PLAIN] * (len(shape) - 1), hidden] for shape in call.shapes]

    return rule


def _attention(call: Call) -> list[Axes]:
    """scaled_dot_product_attention: (…, L, E), (…, S, E), (…, S, V) → (…, L, V)."""
    query, key, value, mask = call.value("query"), call.value("key"), call.value("value"), call.get("attn_mask")
    for tensor in (query, key, value):
        call.fix(tensor.axes[-2], f"{call.place} attends along it")
    sizes = query.axes[-1]
    call.tie(sizes, key.axes[-1])
    if call.get("scale") is None and not call.foldable:
        call.fix(sizes, f"{call.place} scales by the size of a head, so that removing part of it changes the result")
    elif not (sizes.zero or key.axes[-1].zero):
        call.fix(sizes, f"{call.place} sums over channels that are not zero once removed")
    batch: Axes = []
    for i in range(len(query.shape) - 2):
        axis = query.axes[i]
        for other in (key, value):
            _tie_heads(call, axis, other.axes[i], query.shape[i], other.shape[i])
        batch.append(Axis(axis.labels, value.axes[i].zero))
    if isinstance(mask, Value):
        for axis, mine, size in zip(mask.axes[::-1], [PLAIN, PLAIN, *batch[::-1]], mask.shape[::-1], strict=False):
            if size > 1:
                call.tie(axis, mine)
    rows, columns = query.shape[-2], key.shape[-2]
    heads = labels_of_all(call, batch, query.shape[:-2])
    made = labels_of_all(call, [*batch, value.axes[-1]], [*query.shape[:-2], value.shape[-1]])
    work = math.prod(query.shape[:-2]) * rows * columns
    name = call.owner()
    call.charge("matmul", f"{name}.scores", work * query.shape[-1], sizes.labels, heads)
    call.charge("matmul", f"{name}.values", work * value.shape[-1], None, made)
    return [[*batch, PLAIN, computed(value.axes[-1])], *([PLAIN] * len(shape) for shape in call.shapes[1:])]


def _tie_heads(call: Call, query: Axis, other: Axis, n_query: int, n_other: int) -> None:
    """Heads go together; with fewer key heads each serves a run of query heads (grouped-query attention)."""
    if n_query == n_other:
        call.tie(query, other)
    elif n_other > 1 and other.labels is not None:
        call.tie(query, Axis(np.repeat(other.labels, n_query // n_other, axis=0)))
    else:
        call.fix(other)
        if n_other > 1:
            call.fix(query)


def _pieces(call: Call) -> list[Axes]:
    """unsafe_split_with_sizes: a forward that uses it, as ``attend`` does, knows the size of each piece by itself."""
    value = call.value()
    dim = call.dimension(call.get("dim") or 0)
    axis, pieces, start = value.axes[dim], [], 0
    for shape in call.shapes:
        part = replace(take(axis, np.arange(start, start + shape[dim])), source=axis.source)
        pieces.append([*value.axes[:dim], part, *value.axes[dim + 1 :]])
        start += shape[dim]
    return pieces


SEQUENCE: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        "lstm": _recurrent(4),
        "gru": _recurrent(3),
        "rnn_tanh": _recurrent(1),
        "rnn_relu": _recurrent(1),
        "lstm_cell": _recurrent_cell(4),
        "gru_cell": _recurrent_cell(3),
        "rnn_tanh_cell": _recurrent_cell(1),
        "rnn_relu_cell": _recurrent_cell(1),
        "scaled_dot_product_attention": _attention,
        "unsafe_split_with_sizes": _pieces,
    }
)
"""Rules of the operators in this file."""
