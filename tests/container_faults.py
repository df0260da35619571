"""Damaged and hostile containers: bytes changed with and without the checksums being made right again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ecc.stages.byte_layout import ByteSink, ByteSource
from ecc.stages.code import PackedCode
from ecc.stages.nodes import Form, Node, Numbers, Symbols

__all__ = ["all_sorts", "mutants", "sealed", "unsealed"]

HEADER = b"\x89ECZ\x01\x00"


def unsealed(content: bytes) -> tuple[list[int], list[bytes]]:
    """The declared memory and the bodies of the sections of a sound file."""
    source = ByteSource(content)
    source.take(len(HEADER))
    memory, count, _ = (source.whole() for _ in range(3))
    source.take(4)
    bodies = []
    for _ in range(count):
        bodies.append(bytes(source.take(source.whole())))
        source.take(4)
    return [memory], bodies


def sealed(memory: int, bodies: Sequence[bytes], *, count: int | None = None, start: bytes = HEADER) -> bytes:
    """A file with right lengths and checksums around whatever the bodies hold."""
    pieces = []
    for body in bodies:
        sink = ByteSink()
        sink.whole(len(body))
        pieces.append(bytes(sink.content) + body)
    sink = ByteSink()
    for value in (memory, len(bodies) if count is None else count, sum(len(piece) + 4 for piece in pieces)):
        sink.whole(value)
    content = b""
    link = 0
    for piece in (start + bytes(sink.content), *pieces):
        link = zlib.crc32(piece, link)
        content += piece + link.to_bytes(4, "little")
    return content


def all_sorts() -> PackedCode:
    """A small code with every coder, several types, forms in forms and tied names."""
    rng = np.random.default_rng(0)
    skewed = np.minimum(rng.geometric(0.4, 300) - 1, 31).astype(np.uint8)

    def codebook(coder: str, centroids: Node, size: int = 32) -> Form:
        codes = Symbols(rng.integers(0, size, 60).astype(np.uint8), size, coder)
        return Form("codebook", (6, 10), torch.float32, {}, {"codes": codes, "centroids": centroids})

    centroids = Numbers(torch.linspace(-1, 1, 32))
    short = Form("half", (32,), torch.float32, {}, {"values": Numbers(torch.linspace(-1, 1, 32).half())})
    nodes: dict[str, Node] = {
        "features.0.weight": codebook("packed", centroids),
        "features.0.bias": Numbers(torch.arange(6.0)),
        "features.1.running_var": Numbers(torch.ones(6, dtype=torch.float64)),
        "features.1.num_batches_tracked": Numbers(torch.tensor(7)),
        "features.3.weight": codebook("huffman", short),
        "features.3.mask": Numbers(torch.tensor([True, False])),
        "classifier.weight": codebook("rans", short),
        "packed": Symbols(skewed, 32, "packed"),
        "huffman": Symbols(skewed, 32, "huffman"),
        "rans": Symbols(skewed, 32, "rans"),
        "raw": Symbols((rng.normal(3e4, 3e3, 80)).astype(np.uint16), 1 << 16, "rans"),
        "constant": Symbols(np.zeros(1000, np.uint8), 3, "rans"),
    }
    return PackedCode(nodes, {"tied.weight": "features.0.weight"})


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged forms of a file: half with wrong checksums, half with right ones."""
    rng = np.random.default_rng(seed)
    (memory,), bodies = unsealed(content)
    for number in range(count):
        if number % 2:
            yield _changed(content, rng)
            continue
        changed = list(bodies)
        for _ in range(int(rng.integers(1, 3))):
            place = int(rng.integers(len(changed)))
            changed[place] = _changed(changed[place], rng)
        if rng.random() < 0.1:
            rng.shuffle(changed)
        declared = memory if rng.random() < 0.5 else int(2.0 ** rng.uniform(0, 70)) % (1 << 64)
        yield sealed(declared, changed, count=None if rng.random() < 0.95 else int(rng.integers(0, 1 << 40)))


def _changed(content: bytes, rng: np.random.Generator) -> bytes:
    """With some bytes other ones, left out, doubled or put in."""
    found = bytearray(content)
    if not found:
        return bytes(rng.bytes(3))
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(len(found))), int(rng.integers(1, 9))
        match int(rng.integers(6)):
            case 0:
                found[place] ^= 1 << int(rng.integers(8))
            case 1:
                found[place] = int(rng.integers(256))
            case 2:
                found[place : place + length] = b"\xff" * int(rng.integers(1, 12))
            case 3:
                del found[place : place + length]
            case 4:
                found[place:place] = found[place : place + length]
            case _:
                del found[place:]
        if not found:
            break
    return bytes(found)
