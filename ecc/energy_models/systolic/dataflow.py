"""Dataflows: how many cycles an operator takes on a systolic array, and how often each memory is asked.

Every operator that multiplies is seen as matrix products (M × K)·(K × N): M output positions of all examples, N output
channels, K inputs of one output. What stays in the array (outputs, weights or inputs) is cut into folds of rows ×
columns, and the other two operands stream by. The closed forms are those of SCALE-Sim, whose cycles are one less: it
reports the number of the last cycle, from 0.

========  ======  =======  ======  =============================================
dataflow  rows    columns  stream  cycles of F = ⌈rows/R⌉·⌈columns/C⌉ folds
========  ======  =======  ======  =============================================
os        M       N        K       F·(K + R + C − 2)
ws        K       N        M       F·(M + 2R + C − 2)
is        K       M        N       F·(N + 2R + C − 2)
========  ======  =======  ======  =============================================

DRAM: what fits its cache is fetched once, and the rest each time that the array reads it. There are no stalls, and
nothing stays on chip between operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

from ecc.core.errors import InputError
from ecc.core.operators import CONVOLUTIONS, RECURRENT, Operator
from ecc.energy_models.systolic.array import SystolicArray

__all__ = ["Execution", "Gemm", "execute", "gemms_of", "latency", "stream"]


@dataclass(frozen=True, slots=True)
class Gemm:
    """``count`` products of an (m × k) and a (k × n) matrix, one after the other.

    The rows of the first matrix are windows of an input that lies in memory once; of a plain product, its own rows.

    Attributes:
        m: Output positions, those of all examples.
        n: Output channels.
        k: Inputs of one output.
        count: Products: groups of a convolution, heads, time steps.
        inputs: Elements of the input in memory, per product.
        row: Elements of one row of the input.
        rows: Rows of the input of one example.
        out_width: Output positions side by side, that need the same rows.
        kernel: Rows of the input that one output needs.
        stride: Rows between outputs.
        shared: Whether all products have the same second matrix, as the time steps of a recurrent layer.
    """

    m: int
    n: int
    k: int
    count: int
    inputs: int
    row: int
    rows: int
    out_width: int = 1
    kernel: int = 1
    stride: int = 1
    shared: bool = False

    @classmethod
    def plain(cls, m: int, n: int, k: int, *, count: int = 1, shared: bool = False) -> Gemm:
        """Products whose first matrices lie in memory as they are.

        Raises:
            InputError: If a size is not a whole number of at least 1.
        """
        for name, size in (("m", m), ("n", n), ("k", k), ("count", count)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"Gemm.plain({name}=...) must be a whole number of at least 1, got {size!r:.80}")
        return cls(m, n, k, count, inputs=m * k, row=k, rows=m, shared=shared)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding among them."""
        return self.m * self.n * self.k * self.count

    def window(self, positions: int) -> int:
        """Elements of the input that so many output positions in a row need at most."""
        lines = _ceil(min(positions, self.m) - 1, self.out_width) + 1
        return min(self.rows, (lines - 1) * self.stride + self.kernel) * self.row


def gemms_of(operator: Operator) -> tuple[Gemm, ...]:
    """The matrix products of an operator, in order; none where it does not multiply matrices."""
    kind, batch, groups = operator.kind, operator.batch, operator.groups
    if kind in CONVOLUTIONS:
        return (_convolution(operator),)
    if kind == "linear":
        return (Gemm.plain(batch * operator.length, operator.channels_out, operator.channels_in),)
    if kind == "matmul":
        return (Gemm.plain(operator.length, operator.channels_out, operator.channels_in, count=batch * groups),)
    if kind == "attention":
        length, context, heads = operator.length, operator.context, batch * groups
        return (
            Gemm.plain(length, context, operator.channels_in, count=heads),
            Gemm.plain(length, operator.channels_out, context, count=heads),
        )
    if kind in RECURRENT:
        gates, hidden = RECURRENT[kind] * operator.channels_out, operator.channels_out
        return (
            Gemm.plain(batch * operator.length, gates, operator.channels_in),
            Gemm.plain(batch, gates, hidden, count=operator.length, shared=True),
        )
    return ()


def _convolution(operator: Operator) -> Gemm:
    """One product per group; a transposed convolution gives each input's contributions to all of its outputs."""
    taps = operator.kernel_h * operator.kernel_w
    inputs, outputs = operator.channels_in // operator.groups, operator.channels_out // operator.groups
    row = operator.width * inputs
    scatter = operator.kind == "transposed"
    return Gemm(
        m=operator.batch * (operator.height * operator.width if scatter else operator.out_height * operator.out_width),
        n=outputs * taps if scatter else outputs,
        k=inputs if scatter else inputs * taps,
        count=operator.groups,
        inputs=operator.batch * operator.height * row,
        row=row,
        rows=operator.height,
        out_width=operator.width if scatter else operator.out_width,
        kernel=1 if scatter else operator.dilation * (operator.kernel_h - 1) + 1,
        stride=1 if scatter else operator.stride,
    )


@dataclass(frozen=True, slots=True)
class Execution:
    """What running something on an array takes; executions add up.

    Attributes:
        cycles: Of the clock.
        macs: Multiply-accumulates.
        register_accesses: Besides those two that belong to each multiply-accumulate.
        input_reads: Elements that the array reads from the input cache.
        weight_reads: Elements that it reads from the weight cache.
        output_writes: Outputs and partial sums that it writes.
        partial_reads: Partial sums that it reads back, the initial zeros or biases among them.
        dram_inputs: Words of inputs that are read from DRAM.
        dram_weights: Words of weights that are read.
        dram_outputs: Words of outputs that are written, and of partial sums that are written and read.
        compulsory: Words that no cache can save: each tensor once.
    """

    cycles: int = 0
    macs: int = 0
    register_accesses: int = 0
    input_reads: int = 0
    weight_reads: int = 0
    output_writes: int = 0
    partial_reads: int = 0
    dram_inputs: int = 0
    dram_weights: int = 0
    dram_outputs: int = 0
    compulsory: int = 0

    @property
    def dram(self) -> int:
        """Words to and from DRAM."""
        return self.dram_inputs + self.dram_weights + self.dram_outputs

    @property
    def again(self) -> int:
        """Words to and from DRAM that larger caches would save."""
        return self.dram - self.compulsory

    @property
    def cache(self) -> int:
        """Accesses to caches: those of the array, and one for each word that comes from or goes to DRAM."""
        return self.input_reads + self.weight_reads + self.output_writes + self.partial_reads + self.dram

    def utilisation(self, array: SystolicArray) -> float:
        """Multiply-accumulates over those that the array could have done in the same cycles, in [0, 1]."""
        return self.macs / (self.cycles * array.rows * array.columns) if self.cycles else 0.0

    def energy(self, array: SystolicArray) -> float:
        """Energy of all accesses in the array's unit, with every word passing through a cache on its way.

        This is the account of a hierarchy register – cache – DRAM, as mapping tools keep it; ``systolic_energy`` is
        that of the ICLR 2019 model, in which outputs go past the caches.
        """
        return (
            array.e_mac * self.macs
            + array.e_rf * self.register_accesses
            + array.e_cache * self.cache
            + array.e_dram * self.dram
        )

    def __add__(self, other: Execution) -> Execution:
        return Execution(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __mul__(self, times: int) -> Execution:
        return Execution(*(getattr(self, field.name) * times for field in fields(self)))


def execute(operators: Sequence[Operator], array: SystolicArray) -> Execution:
    """What running operators one after the other takes; those that multiply no matrices take nothing."""
    products = (stream(gemm, array) for operator in operators for gemm in gemms_of(operator))
    return reduce(add, products, Execution())


def latency(execution: Execution, array: SystolicArray) -> float | None:
    """Seconds of an execution; None where the array's frequency is not known."""
    return None if array.frequency_hz is None else execution.cycles / array.frequency_hz


def stream(gemm: Gemm, array: SystolicArray) -> Execution:
    """What the products of a GEMM take on an array by its dataflow."""
    m, n, k = gemm.m, gemm.n, gemm.k
    r, c = array.rows, array.columns
    input_reads, weight_reads, partial_sums = m * k, n * k, 0
    if array.dataflow == "os":
        cycles = _ceil(m, r) * _ceil(n, c) * (k + r + c - 2)
        input_reads, weight_reads = m * k * _ceil(n, c), n * k * _ceil(m, r)
        outputs, window, held = m * n, gemm.window(r), m * n
    elif array.dataflow == "ws":
        cycles = _ceil(k, r) * _ceil(n, c) * (m + 2 * r + c - 2)
        input_reads = m * k * _ceil(n, c)
        outputs, window, held = m * n * _ceil(k, r), gemm.inputs, n * k  # all inputs stream by each fold of weights
        partial_sums = _spilled(m, n, c, array.output_cache)
    else:
        cycles = _ceil(k, r) * _ceil(m, c) * (n + 2 * r + c - 2)
        weight_reads = n * k * _ceil(m, c)
        outputs, window, held = m * n * _ceil(k, r), gemm.window(c), m * k
        partial_sums = _spilled(n, m, c, array.output_cache)
    inputs = gemm.inputs if window <= array.input_cache else _fetched(gemm.inputs, input_reads, array.input_cache)
    weights = _fetched(n * k, weight_reads, array.weight_cache)
    every = Execution(
        cycles=cycles,
        macs=m * n * k,
        register_accesses=2 * m * n * k + 2 * held,  # both operands of a MAC; what stays comes and goes once
        input_reads=input_reads,
        weight_reads=weight_reads,
        output_writes=outputs,
        partial_reads=0 if array.dataflow == "os" else outputs,
        dram_inputs=inputs,
        dram_weights=0 if gemm.shared else weights,
        dram_outputs=m * n + 2 * (_ceil(k, r) - 1) * partial_sums,
        compulsory=gemm.inputs + m * n + (0 if gemm.shared else n * k),
    )
    once = _fetched(n * k, weight_reads * gemm.count, array.weight_cache) if gemm.shared else 0
    return every * gemm.count + Execution(dram_weights=once, compulsory=n * k if gemm.shared else 0)


def _fetched(size: int, reads: int, cache: int) -> int:
    """Words from DRAM for ``reads`` reads of a tensor: what fits once, the rest each time."""
    kept = min(size, cache)
    return kept + _ceil(reads * (size - kept), size)


def _spilled(streamed: int, folded: int, columns: int, cache: int) -> int:
    """Partial sums that do not fit between two folds of K: those of one fold of columns are in use at a time."""
    full, rest = divmod(folded, columns)
    return full * max(0, streamed * columns - cache) + max(0, streamed * rest - cache)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
