"""Trees of nodes as bytes: what a section of the container ``weights.ecz`` holds after its names."""

from __future__ import annotations

import math
import struct
import sys

import numpy as np
import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.byte_layout import ByteSink, ByteSource
from ecc.stages.coders.registry import CODERS
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Node, Numbers, Symbols, bytes_of, is_same
from ecc.stages.shared_parts import SharedPart

__all__ = ["Allowance", "SharedForms", "memory_of", "read_node", "write_node"]

_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
_NUMBERS, _SYMBOLS, _FORM, _AGAIN = range(4)  # the lowest two bits of a node's first byte
_NATURAL, _NEGATIVE, _DOUBLE, _SINGLE = range(4)  # how a parameter is stored
_MOST_AXES, _MOST_DEPTH, _MOST_PARTS = 16, 8, 64
_SYMBOL_BYTES = 8  # in memory when it is decoded: symbols become int64


class Allowance:
    """Bytes that the decoded content of a file may still take.

    Args:
        nbytes: In all.
    """

    def __init__(self, nbytes: int) -> None:
        self.left = nbytes

    def take(self, nbytes: int) -> None:
        """Use so many of them.

        Raises:
            InputError: If they are not there.
        """
        if nbytes > self.left:
            raise InputError(f"it needs {nbytes} bytes of memory where the file declares {self.left} more")
        self.left -= nbytes


class SharedForms:
    """The forms of kind ``shared`` that a file has told so far, in order: each is told once and then by its number."""

    def __init__(self) -> None:
        self._told: list[Form] = []

    def number(self, form: Form) -> int | None:
        """Of a form that is the same; None if it is a new one, which is the next from now on."""
        for number, known in enumerate(self._told):
            if is_same(known, form):
                return number
        self._told.append(form)
        return None

    def add(self, form: Form) -> None:
        """The next one, as it was read."""
        self._told.append(form)

    def form(self, number: int) -> Form:
        """The one of a number.

        Raises:
            InputError: If there is none.
        """
        if number >= len(self._told):
            raise InputError(f"shared part {number} is named of {len(self._told)}")
        return self._told[number]


def memory_of(node: Node) -> int:
    """Bytes of a tree's tensors, all its nodes decoded; what a file declares of it."""
    if isinstance(node, Numbers):
        return node.values.numel() * node.values.element_size()
    if isinstance(node, Symbols):
        return len(node.values) * _SYMBOL_BYTES
    own = math.prod(node.shape) * node.dtype.itemsize
    return own + sum(memory_of(part) for part in node.parts.values())


def write_node(sink: ByteSink, node: Node, shared: SharedForms, depth: int = 0) -> None:
    """Append a tree.

    Args:
        shared: Of the file.

    Raises:
        InputError: If the container has no way to store it.
    """
    if depth > _MOST_DEPTH:
        raise InputError(f"forms are nested more than {_MOST_DEPTH} deep")
    if isinstance(node, Symbols):
        _write_symbols(sink, node)
    elif isinstance(node, Numbers):
        sink.whole(_dtype_number(node.values.dtype) << 2 | _NUMBERS)
        _write_shape(sink, tuple(node.values.shape))
        sink.content += _tensor_bytes(node.values)
    else:
        number = shared.number(node) if node.kind == SharedPart.name else None
        if number is None:
            _write_form(sink, node, shared, depth)
        else:
            sink.whole(number << 2 | _AGAIN)


def read_node(source: ByteSource, allowance: Allowance, shared: SharedForms, depth: int = 0) -> Node:
    """The tree that comes next, its forms checked by their kinds.

    Args:
        source: Of the bytes.
        allowance: What the tree may take of memory; asked before anything is allocated.
        shared: Of the file.
        depth: Of the node in its tree.

    Raises:
        InputError: If the bytes are no tree, or one that needs more memory than the allowance.
    """
    if depth > _MOST_DEPTH:
        raise InputError(f"forms are nested more than {_MOST_DEPTH} deep")
    head = source.whole()
    sort, detail = head & 3, head >> 2
    if sort == _NUMBERS:
        return _read_numbers(source, _dtype(detail), allowance)
    if sort == _SYMBOLS:
        return _read_symbols(source, detail, allowance)
    if sort == _FORM:
        return _read_form(source, _dtype(detail), allowance, shared, depth)
    form = shared.form(detail)
    allowance.take(memory_of(form))
    return form


def _write_symbols(sink: ByteSink, node: Symbols) -> None:
    if node.coder not in CODERS:
        raise InputError(f"Symbols(coder=...) must be one of {', '.join(CODERS)}, got {node.coder!r}")
    coder = CODERS[node.coder]
    content = coder.encode(node.values, node.size)
    sink.whole(coder.number << 2 | _SYMBOLS)
    sink.whole(node.size - 1)
    sink.whole(len(node.values))
    sink.whole(len(content))
    sink.content += content


def _read_symbols(source: ByteSource, number: int, allowance: Allowance) -> Symbols:
    coder = next((coder for coder in CODERS.values() if coder.number == number), None)
    if coder is None:
        raise InputError(f"a stream has coder {number}, which is not known to this version of ecc")
    size, count = source.whole() + 1, source.whole()
    if size > 1 << 24:
        raise InputError(f"a stream has an alphabet of {size}; at most {1 << 24} are allowed")
    content = bytes(source.take(source.whole()))
    allowance.take(count * _SYMBOL_BYTES)
    return Symbols(coder.decode(content, size, count), size, coder.name)


def _write_form(sink: ByteSink, node: Form, shared: SharedForms, depth: int) -> None:
    if node.kind not in KINDS:
        raise InputError(f"Form(kind=...) must be one of {', '.join(KINDS)}, got {node.kind!r}")
    if len(node.parts) > _MOST_PARTS or len(node.parameters) > _MOST_PARTS:
        raise InputError(f"a form has at most {_MOST_PARTS} parts and as many parameters")
    sink.whole(_dtype_number(node.dtype) << 2 | _FORM)
    sink.whole(KINDS[node.kind].number)
    _write_shape(sink, node.shape)
    sink.whole(len(node.parameters))
    for name, value in node.parameters.items():
        _write_parameter(sink, name, value)
    sink.whole(len(node.parts))
    for name, part in node.parts.items():
        sink.word(name)
        write_node(sink, part, shared, depth + 1)


def _read_form(source: ByteSource, dtype: torch.dtype, allowance: Allowance, shared: SharedForms, depth: int) -> Form:
    number = source.whole()
    kind = next((kind for kind in KINDS.values() if kind.number == number), None)
    if kind is None:
        raise InputError(f"a form has kind {number}, which is not known to this version of ecc")
    shape = _read_shape(source)
    allowance.take(math.prod(shape) * dtype.itemsize)
    parameters: dict[str, int | float] = {}
    for _ in range(_read_count(source)):
        name, value = _read_parameter(source)
        if name in parameters:
            raise InputError(f"parameter {name!r} is there twice")
        parameters[name] = value
    parts: dict[str, Node] = {}
    for _ in range(_read_count(source)):
        name, _ = source.word()
        if name in parts:
            raise InputError(f"part {name!r} is there twice")
        parts[name] = read_node(source, allowance, shared, depth + 1)
    form = Form(kind.name, shape, dtype, parameters, parts)
    kind.check(form)
    if kind.name == SharedPart.name:
        shared.add(form)
    return form


def _read_count(source: ByteSource) -> int:
    count = source.whole()
    if count > _MOST_PARTS:
        raise InputError(f"a form has {count} parts or parameters; at most {_MOST_PARTS} are allowed")
    return count


def _write_parameter(sink: ByteSink, name: str, value: int | float) -> None:
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise InputError(f"parameter {name!r} is {value}, which 64 bits do not hold")
        sink.word(name, _NEGATIVE if value < 0 else _NATURAL, 2)
        sink.whole(-1 - value if value < 0 else int(value))
        return
    if not math.isfinite(value):
        raise InputError(f"parameter {name!r} is {value}; only finite numbers are stored")
    short = _fits_single(value)
    sink.word(name, _SINGLE if short else _DOUBLE, 2)
    sink.content += struct.pack("<f" if short else "<d", value)


def _read_parameter(source: ByteSource) -> tuple[str, int | float]:
    name, sort = source.word(2)
    if sort in (_NATURAL, _NEGATIVE):
        value = source.whole()
        if value >> 63:
            raise InputError(f"parameter {name!r} is larger than 64 bits hold")
        return name, -1 - value if sort == _NEGATIVE else value
    number: float = (
        struct.unpack("<f", source.take(4))[0] if sort == _SINGLE else struct.unpack("<d", source.take(8))[0]
    )
    if not math.isfinite(number) or (sort == _DOUBLE and _fits_single(number)):
        raise InputError(f"parameter {name!r} is not finite or not in its shortest form")
    return name, number


def _fits_single(value: float) -> bool:
    if abs(value) > float(np.finfo(np.float32).max):
        return False
    return bool(float(np.float32(value)) == value)


def _write_shape(sink: ByteSink, shape: tuple[int, ...]) -> None:
    if len(shape) > _MOST_AXES:
        raise InputError(f"a tensor of {len(shape)} axes cannot be stored; at most {_MOST_AXES} are")
    sink.whole(len(shape))
    for length in shape:
        sink.whole(length)


def _read_shape(source: ByteSource) -> tuple[int, ...]:
    axes = source.whole()
    if axes > _MOST_AXES:
        raise InputError(f"a tensor of {axes} axes is announced; at most {_MOST_AXES} are allowed")
    shape = tuple(source.whole() for _ in range(axes))
    if math.prod(length for length in shape if length) >> 62:  # torch counts elements and strides in 64 bits
        raise InputError("a tensor is announced that is larger than any memory")
    return shape


def _dtype_number(dtype: torch.dtype) -> int:
    if dtype not in _DTYPES:
        raise InputError(f"tensors of {dtype} cannot be stored")
    return _DTYPES.index(dtype)


def _dtype(number: int) -> torch.dtype:
    if number >= len(_DTYPES):
        raise InputError(f"number format {number} is not known to this version of ecc")
    return _DTYPES[number]


def _tensor_bytes(tensor: Tensor) -> bytes:
    content: bytes = _little(bytes_of(tensor), tensor.dtype).numpy().tobytes()
    return content


def _read_numbers(source: ByteSource, dtype: torch.dtype, allowance: Allowance) -> Numbers:
    shape = _read_shape(source)
    length = math.prod(shape) * dtype.itemsize
    allowance.take(length)
    content = bytearray(source.take(length))
    if dtype == torch.bool and content.strip(b"\0\1"):
        raise InputError("a truth value is neither 0 nor 1")
    if not length:
        return Numbers(torch.empty(shape, dtype=dtype))
    stored = _little(torch.frombuffer(content, dtype=torch.uint8), dtype)
    return Numbers(stored.view(dtype).reshape(shape))


def _little(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes of numbers with the lowest first, or from there to those of this machine."""
    if sys.byteorder == "little":
        return stored
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return stored.reshape(-1, width).flip(1).reshape(-1)
