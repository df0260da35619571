"""The container ``weights.ecz``: codes as bytes and bytes as codes. Its layout is in docs/container.md.

A file is a header and one section per tensor, each with its length and a checksum. Nothing in a file is trusted: what
it declares is held against what is there before memory is taken, and nothing in it is ever run.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ecc.core.errors import InputError
from ecc.stages.byte_layout import WORDS, ByteSink, ByteSource
from ecc.stages.nodes import Node
from ecc.stages.tree_layout import Allowance, memory_of, read_node, write_node

__all__ = ["node_bytes", "read", "section_bytes", "to_bytes"]

_MAGIC = b"\x89ECZ"
_VERSION = 1
_CHECKSUM_BYTES = 4
_MORE_NAMES, _SAME_MODULE = 1, 2
_MOST_HEADER_BYTES = 64
_FREE_BYTES = 64 << 20  # that any file may decode to
_MOST_EXPANSION = 4096  # times its own size, for larger ones


def to_bytes(nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> bytes:
    """The whole file.

    Args:
        nodes: By name of a tensor, in order.
        aliases: Further names of tensors → the name that is in ``nodes``.

    Raises:
        InputError: If the container has no way to store a node or a name.
    """
    bodies = _bodies(nodes, aliases)
    sections = b"".join(bodies)
    head = ByteSink()
    head.content += _MAGIC + bytes((_VERSION, 0))
    head.whole(sum(memory_of(node) for node in nodes.values()))
    head.whole(len(bodies))
    head.whole(len(sections) + _CHECKSUM_BYTES * len(bodies))
    header = _checked(bytes(head.content), 0)
    pieces, link = [header], _checksum(header)
    for body in bodies:
        pieces.append(_checked(body, link))
        link = _checksum(pieces[-1])
    return b"".join(pieces)


def section_bytes(nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> dict[str, int]:
    """What each tensor takes of the file, with its names and checksum; all but the header of the file.

    Raises:
        InputError: As :func:`to_bytes`.
    """
    return {name: len(body) + _CHECKSUM_BYTES for name, body in zip(nodes, _bodies(nodes, aliases), strict=True)}


def node_bytes(name: str, node: Node) -> int:
    """What one tensor takes of a file in which it is the first; later ones are a few bytes shorter for their names.

    Raises:
        InputError: If the container has no way to store it.
    """
    return section_bytes({name: node}, {})[name]


def read(content: bytes, *, limit_bytes: int | None = None) -> tuple[dict[str, Node], dict[str, str]]:
    """The nodes and aliases of a file.

    Args:
        content: Of the file.
        limit_bytes: That the decoded content may take in memory, with all codes; by default 64 MiB or 4096 times the
            size of the file, whichever is more.

    Raises:
        InputError: If the file is damaged, of another version, or declares more than the limit.
    """
    nodes: dict[str, Node] = {}
    aliases: dict[str, str] = {}
    for names, node in _sections(io.BytesIO(content), len(content), limit_bytes):
        nodes[names[0]] = node
        aliases |= dict.fromkeys(names[1:], names[0])
    return nodes, aliases


@dataclass(frozen=True, slots=True)
class _Header:
    memory: int
    count: int
    length: int
    link: int


class _Names:
    """The names of a file's tensors in turn: each as its module, told where it changes, and a word."""

    def __init__(self, words: list[str]) -> None:
        self._module = ""
        self.words = words

    def write(self, sink: ByteSink, name: str, more: bool) -> None:
        module, dot, word = name.rpartition(".")
        module += dot
        same = module == self._module
        sink.word(word, (_SAME_MODULE if same else 0) | (_MORE_NAMES if more else 0), 2)
        if not same:
            shared = _shared(self._module, module)
            sink.whole(shared)
            sink.text(module[shared:])
            self._module = module

    def read(self, source: ByteSource) -> tuple[str, bool]:
        word, flags = source.word(2)
        if not flags & _SAME_MODULE:
            shared = source.whole()
            module = self._module[:shared] + source.text()
            if shared != _shared(self._module, module) or module == self._module:
                raise InputError("a name is not in its shortest form")
            self._module = module
        if "." in word or (self._module and not self._module.endswith(".")):
            raise InputError("a name is not in its shortest form")
        return self._module + word, bool(flags & _MORE_NAMES)


def _shared(one: str, other: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _bodies(nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> list[bytes]:
    """The sections with their lengths, without checksums."""
    names = _Names(list(WORDS))
    bodies = []
    for name, node in nodes.items():
        sink = ByteSink(names.words)
        group = [name, *(alias for alias, target in aliases.items() if target == name)]
        for each in group:
            names.write(sink, each, each is not group[-1])
        write_node(sink, node)
        length = ByteSink()
        length.whole(len(sink.content))
        bodies.append(bytes(length.content + sink.content))
    return bodies


def _sections(file: BinaryIO, length: int, limit_bytes: int | None) -> Iterator[tuple[list[str], Node]]:
    """The tensors with their names, one section in memory at a time."""
    header = _read_header(file, length, limit_bytes)
    allowance, names, link = Allowance(header.memory), _Names(list(WORDS)), header.link
    known: set[str] = set()
    left = header.length
    for number in range(1, header.count + 1):
        prefix, size = _read_length(file, left)
        body = file.read(size + _CHECKSUM_BYTES)
        if len(body) != size + _CHECKSUM_BYTES or zlib.crc32(prefix + body[:-_CHECKSUM_BYTES], link) != _checksum(body):
            raise InputError(f"weights.ecz is damaged: section {number} of {header.count} has another checksum")
        link = _checksum(body)
        left -= len(prefix) + len(body)
        found: list[str] = []
        try:
            source = ByteSource(body[:-_CHECKSUM_BYTES], names.words)
            more = True
            while more:
                name, more = names.read(source)
                if name in known:
                    raise InputError(f"the name {name!r} is there twice")
                known.add(name)
                found.append(name)
            node = read_node(source, allowance)
            if source.left:
                raise InputError(f"{source.left} bytes are left over")
        except InputError as error:
            where = repr(found[0]) if found else f"section {number} of {header.count}"
            raise InputError(f"weights.ecz is damaged in {where}: {error}") from error
        yield found, node
    if left or allowance.left or file.read(1):
        raise InputError("weights.ecz is damaged: it holds less than it declares")


def _read_header(file: BinaryIO, length: int, limit_bytes: int | None) -> _Header:
    start = file.read(min(length, _MOST_HEADER_BYTES))
    if not start.startswith(_MAGIC):
        raise InputError("weights.ecz is no container of ecc: it does not begin with the bytes 89 45 43 5A")
    source = ByteSource(start)
    try:
        source.take(len(_MAGIC))
        version, flags = source.take(2)
        if version != _VERSION:
            raise InputError(f"it has layout version {version}, this program reads {_VERSION}; update ecc")
        if flags:
            raise InputError(f"it has flags {flags}, of which this program knows none; update ecc")
        memory, count, size = source.whole(), source.whole(), source.whole()
        end = len(start) - source.left
        link = int.from_bytes(source.take(_CHECKSUM_BYTES), "little")
        if zlib.crc32(start[:end]) != link:
            raise InputError("its header has another checksum")
        if end + _CHECKSUM_BYTES + size != length:
            raise InputError(f"it has {length} bytes and declares {end + _CHECKSUM_BYTES + size}")
        limit = max(_FREE_BYTES, _MOST_EXPANSION * length) if limit_bytes is None else limit_bytes
        if memory > limit:
            raise InputError(f"it decodes to {memory:,} bytes and {limit:,} are allowed; give a larger limit_bytes")
    except InputError as error:
        raise InputError(f"weights.ecz cannot be read: {error}") from error
    file.seek(end + _CHECKSUM_BYTES)
    return _Header(memory, count, size, link)


def _read_length(file: BinaryIO, left: int) -> tuple[bytes, int]:
    """The length of a section: its bytes, and the number."""
    prefix = b""
    while len(prefix) < 10 and (not prefix or prefix[-1] & 0x80):
        prefix += file.read(1) or b"\0"
    size = ByteSource(prefix).whole()
    if len(prefix) + size + _CHECKSUM_BYTES > left:
        raise InputError(f"weights.ecz is damaged: a section of {size} bytes is announced where {left} are left")
    return prefix, size


def _checked(body: bytes, link: int) -> bytes:
    """With its checksum, which goes on from that of the section before."""
    return body + zlib.crc32(body, link).to_bytes(_CHECKSUM_BYTES, "little")


def _checksum(piece: bytes) -> int:
    return int.from_bytes(piece[-_CHECKSUM_BYTES:], "little")
