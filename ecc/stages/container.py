"""The container ``weights.ecz``: codes as bytes and bytes as codes. Its layout is in docs/container.md.

A file is a header and one section per tensor, each with its length and a checksum. Nothing in a file is trusted: what
it declares is held against what is there before memory is taken, and nothing in it is ever run.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ecc.core.errors import InputError, StorageError
from ecc.core.files import write_whole
from ecc.stages.byte_layout import MOST_NAME_BYTES, ByteSink, ByteSource, Words
from ecc.stages.nodes import Node
from ecc.stages.tree_layout import Allowance, SharedForms, memory_of, read_node, write_node

__all__ = ["MAGIC", "node_bytes", "read", "section_bytes", "stream", "to_bytes", "write"]

MAGIC = b"\x89ECZ"
"""What every file begins with."""

_VERSION = 1
_CHECKSUM_BYTES = 4
_MORE_NAMES, _SAME_MODULE = 1, 2
_MOST_WHOLE_BYTES = 10
_FREE_BYTES = 64 << 20  # that any file may decode to
_MOST_EXPANSION = 4096  # times its own size, for larger ones
_NAME_BYTES = 64  # that a name counts beside its own: what a string and its place in a table take
_FREE_NAME_BYTES = 1 << 20  # that all names of any file may count
_MOST_NAME_EXPANSION = 64  # times its sections, for larger ones
_Take = Callable[[int], bytes | memoryview]


def to_bytes(nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> bytes:
    """The whole file.

    Args:
        nodes: By name of a tensor, in order.
        aliases: Further names of tensors → the name that is in ``nodes``.

    Raises:
        InputError: If the container has no way to store a node or a name.
    """
    names = _Names()
    bodies = _bodies(nodes, aliases, names)
    length = sum(map(len, bodies)) + _CHECKSUM_BYTES * len(bodies)
    _check_names(names.nbytes, length)
    head = ByteSink()
    head.content += MAGIC + bytes((_VERSION, 0))
    head.whole(sum(memory_of(node) for node in nodes.values()))
    head.whole(len(bodies))
    head.whole(length)
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
    bodies = _bodies(nodes, aliases, _Names())
    return {name: len(body) + _CHECKSUM_BYTES for name, body in zip(nodes, bodies, strict=True)}


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
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InputError(f"read takes the bytes of a file, not {type(content).__name__}; stream takes a path")
    aliases: dict[str, str] = {}
    source = ByteSource(content)
    header = _read_header(source.take, len(content), limit_bytes)
    for _ in _read_bodies(ByteSource(memoryview(content)[len(content) - header.length :]).take, header):
        pass  # all checksums come first, since decoding takes longer
    for names, node in _sections(source.take, header):
        nodes[names[0]] = node
        aliases |= dict.fromkeys(names[1:], names[0])
    return nodes, aliases


def stream(path: str | Path, *, limit_bytes: int | None = None) -> Iterator[tuple[str, Node]]:
    """The tensors of a file one after the other, while only one section and what several share is in memory.

    Tied names follow one another with one and the same node.

    Args:
        path: Of the file.
        limit_bytes: As for :func:`read`.

    Raises:
        InputError: If the file is missing, damaged, of another version, or declares more than the limit; what came
            before the damage has been given out by then.
    """
    try:
        with Path(path).open("rb") as file:
            take = _taking(file)
            header = _read_header(take, os.fstat(file.fileno()).st_size, limit_bytes)
            for names, node in _sections(take, header):
                for name in names:
                    yield name, node
    except OSError as error:
        raise InputError(f"container {str(path)!r} cannot be read: {error.strerror}; give a weights.ecz") from error


def write(path: str | Path, nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> int:
    """Write a file so that it is either the old one or the whole new one, whenever the process ends.

    Args:
        path: Of the file.
        nodes: As for :func:`to_bytes`.
        aliases: As for :func:`to_bytes`.

    Returns:
        Its size in bytes.

    Raises:
        InputError: As :func:`to_bytes`; and if something else than a plain file is there.
        StorageError: If it cannot be written.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a device would be replaced by a file
        raise InputError(f"container {str(path)!r} cannot be written: that is no plain file; choose another path")
    content = to_bytes(nodes, aliases)
    try:
        write_whole(target, content)
    except OSError as error:
        raise StorageError(
            f"container {str(path)!r} cannot be written ({error.strerror or error}); give a folder that is writable"
        ) from error
    return len(content)


@dataclass(frozen=True, slots=True)
class _Header:
    memory: int
    count: int
    length: int
    link: int


class _Names:
    """The names of a file's tensors in turn: each as its module, told where it changes, and a word.

    Few bytes of a file can stand for a long name, so the length of each is bounded, and that of all is counted.

    Attributes:
        words: That the file has told.
        nbytes: That the names so far count.
    """

    def __init__(self) -> None:
        self._module = ""
        self._known: set[str] = set()
        self.words = Words()
        self.nbytes = 0

    def write(self, sink: ByteSink, name: str, more: bool) -> None:
        module, dot, word = name.rpartition(".")
        module += dot
        same = module == self._module
        sink.word(word, (_SAME_MODULE if same else 0) | (_MORE_NAMES if more else 0), 2)
        if not same:
            shared = len(os.path.commonprefix([self._module, module]))  # noqa: RUF071 - characters it is
            sink.whole(shared)
            sink.text(module[shared:])
            self._module = module
        self._count(name)

    def read(self, source: ByteSource) -> tuple[str, bool]:
        word, flags = source.word(2)
        if not flags & _SAME_MODULE:
            shared = source.whole()
            text, before = source.text(), self._module[shared : shared + 1]
            if shared > len(self._module) or text[:1] == before:  # nothing new, or one more is shared
                raise InputError("a name is not in its shortest form")
            self._module = self._module[:shared] + text
        if "." in word or (self._module and not self._module.endswith(".")):
            raise InputError("a name is not in its shortest form")
        name = self._module + word
        self._count(name)
        return name, bool(flags & _MORE_NAMES)

    def read_all(self, source: ByteSource, length: int) -> list[str]:
        """The names of one tensor, at least one, in a file with sections of so many bytes."""
        found, more = [], True
        while more:
            name, more = self.read(source)
            _check_names(self.nbytes, length)
            found.append(name)
        return found

    def _count(self, name: str) -> None:
        nbytes = len(name) if name.isascii() else len(name.encode())
        if nbytes > MOST_NAME_BYTES:
            raise InputError(f"the name {name[:40]!r}… has {nbytes} bytes; at most {MOST_NAME_BYTES} are stored")
        if name in self._known:
            raise InputError(f"the name {name[:40]!r} is there twice")
        self._known.add(name)
        self.nbytes += nbytes + _NAME_BYTES


def _check_names(nbytes: int, length: int) -> None:
    """Refuse names that are too many and too long for sections of so many bytes."""
    if nbytes > (limit := max(_FREE_NAME_BYTES, _MOST_NAME_EXPANSION * length)):
        raise InputError(
            f"all names together, and {_NAME_BYTES} bytes beside each, take {nbytes:,} bytes where {limit:,} are "
            "allowed; shorten them"
        )


def _bodies(nodes: Mapping[str, Node], aliases: Mapping[str, str], names: _Names) -> list[bytes]:
    """The sections with their lengths, without checksums."""
    shared = SharedForms()
    groups: dict[str, list[str]] = {name: [name] for name in nodes}
    for alias, target in aliases.items():
        if target in groups:
            groups[target].append(alias)
    bodies = []
    for name, node in nodes.items():
        sink, group = ByteSink(names.words), groups[name]
        for each in group:
            names.write(sink, each, each is not group[-1])
        write_node(sink, node, shared)
        length = ByteSink()
        length.whole(len(sink.content))
        bodies.append(bytes(length.content + sink.content))
    return bodies


def _sections(take: _Take, header: _Header) -> Iterator[tuple[list[str], Node]]:
    """The tensors with their names, one section in memory at a time."""
    allowance, names, shared = Allowance(header.memory), _Names(), SharedForms()
    for number, body in enumerate(_read_bodies(take, header), 1):
        where = f"section {number} of {header.count}"
        try:
            source = ByteSource(body, names.words)
            found = names.read_all(source, header.length)
            where = repr(found[0][:80])
            node = read_node(source, allowance, shared)
            if source.left:
                raise InputError(f"{source.left} bytes are left over")
        except InputError as error:
            raise InputError(f"weights.ecz is damaged in {where}: {error}") from error
        yield found, node
    if allowance.left:
        raise InputError("weights.ecz is damaged: it holds less than it declares")


def _read_bodies(take: _Take, header: _Header) -> Iterator[bytes | memoryview]:
    """The sections without their lengths and checksums, which are held against them."""
    link, left = header.link, header.length
    for number in range(1, header.count + 1):
        try:
            prefix, size = _read_whole(take)
            left -= len(prefix) + size + _CHECKSUM_BYTES
            if left < 0:
                raise InputError(f"{size} bytes are announced, which go beyond the last section")
            body = take(size)
            link = _check(take, zlib.crc32(body, zlib.crc32(prefix, link)))
        except InputError as error:
            raise InputError(f"weights.ecz is damaged in section {number} of {header.count}: {error}") from error
        yield body
    if left:
        raise InputError("weights.ecz is damaged: it holds less than it declares")


def _read_header(take: _Take, length: int, limit_bytes: int | None) -> _Header:
    try:
        start = bytes(take(len(MAGIC) + 2))
        if not start.startswith(MAGIC):
            raise InputError("it is no container of ecc, which begins with the bytes 89 45 43 5A")
        if start[-2] != _VERSION:
            raise InputError(f"it has layout version {start[-2]}, this program reads {_VERSION}; update ecc")
        if start[-1]:
            raise InputError(f"it has flags {start[-1]}, of which this program knows none; update ecc")
        fields = [_read_whole(take) for _ in range(3)]
        start += b"".join(content for content, _ in fields)
        link = _check(take, zlib.crc32(start))
        memory, count, size = (value for _, value in fields)
        if len(start) + _CHECKSUM_BYTES + size != length:
            raise InputError(f"it has {length} bytes and declares {len(start) + _CHECKSUM_BYTES + size}")
        limit = max(_FREE_BYTES, _MOST_EXPANSION * length) if limit_bytes is None else limit_bytes
        if memory > limit:
            raise InputError(f"it decodes to {memory:,} bytes and {limit:,} are allowed; give a larger limit_bytes")
    except InputError as error:
        raise InputError(f"weights.ecz cannot be read: {error}") from error
    return _Header(memory, count, size, link)


def _read_whole(take: _Take) -> tuple[bytes, int]:
    """A whole number of variable length: its bytes, and itself."""
    content = bytes(take(1))
    if content[0] < 0x80:  # most are short
        return content, content[0]
    while content[-1] & 0x80 and len(content) < _MOST_WHOLE_BYTES:
        content += take(1)
    return content, ByteSource(content).whole()


def _check(take: _Take, expected: int) -> int:
    """The checksum that comes next."""
    if int.from_bytes(take(_CHECKSUM_BYTES), "little") != expected:
        raise InputError("its checksum is another one; the file was changed or not copied whole")
    return expected


def _taking(file: BinaryIO) -> _Take:
    """Reads a file."""

    def take(count: int) -> bytes:
        content = file.read(count)
        if len(content) != count:
            raise InputError(f"{count} bytes are announced where {len(content)} are left")
        return content

    return take


def _checked(body: bytes, link: int) -> bytes:
    """With its checksum, which goes on from that of the section before."""
    return body + zlib.crc32(body, link).to_bytes(_CHECKSUM_BYTES, "little")


def _checksum(piece: bytes) -> int:
    return int.from_bytes(piece[-_CHECKSUM_BYTES:], "little")
