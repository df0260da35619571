"""What coders make of streams, and how fast: entropy, packed, huffman, rans, constriction, zstd; AlexNet as a whole.

    python experiments/container_speed.py [--fresh] [--quick]

One thread, times of the process. Streams are random ones of the shapes that stages make: gaps of pruned weights, codes
of a codebook, the high bytes of a split. zstd -19 and constriction (extra ``peers``) stand beside them, zstd with the
packed bytes, constriction without the table that a reader of it would need. Writes measurements/container_streams.csv
and container_networks.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import torch
import zstandard
from records import MEASUREMENTS, Records

from ecc.core.code import State
from ecc.stages.code import PackedCode, packed
from ecc.stages.codebook import Codebook
from ecc.stages.coders.alphabets import Stream, narrowest
from ecc.stages.coders.registry import CODERS
from ecc.stages.container import read
from ecc.stages.entropy import Entropy, Huffman
from ecc.stages.nodes import Form, Numbers, Symbols

SHAPES = {  # AlexNet of torchvision, 61.1 M weights
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (1000, 4096),
}
COUNTS = (500, 5_000, 50_000, 6_700_000)
DENSITY = 0.11
Draw = Callable[[np.random.Generator, int], Any]
STREAMS: dict[str, tuple[int, Draw]] = {
    "gaps, 11 % kept": (32, lambda rng, n: np.minimum(rng.geometric(0.11, n) - 1, 31)),
    "gaps, 50 % kept": (16, lambda rng, n: np.minimum(rng.geometric(0.5, n) - 1, 15)),
    "gaps, 85 % kept": (16, lambda rng, n: np.minimum(rng.geometric(0.85, n) - 1, 15)),
    "codes of 5 bits": (32, lambda rng, n: np.clip(np.round(rng.normal(15.5, 5, n)), 0, 31)),
    "codes of 8 bits": (256, lambda rng, n: np.clip(np.round(rng.laplace(127.5, 16, n)), 0, 255)),
    "high bytes, 1 %": (256, lambda rng, n: (rng.random(n) < 0.01) * rng.integers(1, 4, n)),
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work gives, and the seconds of CPU that it takes."""
    start = time.process_time()
    found = work()
    return found, max(time.process_time() - start, 1e-6)


def entropy_bytes(values: Stream) -> float:
    counts = np.bincount(values)
    counts = counts[counts > 0]
    return float((counts * np.log2(len(values) / counts)).sum()) / 8


def constriction_bytes(values: Stream, size: int) -> int:
    shares = np.bincount(values, minlength=size) / len(values)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(values.astype(np.int32), constriction.stream.model.Categorical(shares, perfect=False))
    return int(coder.get_compressed().nbytes)


def constriction_symbols(values: Stream, size: int) -> tuple[float, float]:
    """Its seconds for coding and for decoding."""
    shares = np.bincount(values, minlength=size) / len(values)
    model = constriction.stream.model.Categorical(shares, perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    plain = values.astype(np.int32)
    _, encode_s = timed(lambda: coder.encode_reverse(plain, model))
    found, decode_s = timed(lambda: coder.decode(model, len(values)))
    if not np.array_equal(found, plain):
        raise RuntimeError("constriction gives other symbols back")
    return encode_s, decode_s


def of_stream(name: str, count: int) -> dict[str, Any]:
    size, draw = STREAMS[name]
    values = draw(np.random.default_rng(0), count).astype(narrowest(size))
    row: dict[str, Any] = {"entropy_bytes": round(entropy_bytes(values))}
    for coder in CODERS.values():
        content, encode_s = timed(lambda coder=coder: coder.encode(values, size))
        found, decode_s = timed(lambda coder=coder, content=content: coder.decode(content, size, count))
        if not np.array_equal(found, values):
            raise RuntimeError(f"{coder.name} gives other symbols back")
        row[f"{coder.name}_bytes"] = len(content)
        row[f"{coder.name}_encode_symbols_per_s"] = round(count / encode_s)
        row[f"{coder.name}_decode_symbols_per_s"] = round(count / decode_s)
    row["constriction_bytes"] = constriction_bytes(values, size)
    encode_s, decode_s = constriction_symbols(values, size)
    row["constriction_encode_symbols_per_s"] = round(count / encode_s)
    row["constriction_decode_symbols_per_s"] = round(count / decode_s)
    packed_bytes = CODERS["packed"].encode(values, size)
    row["zstd_bytes"] = len(zstandard.ZstdCompressor(level=19).compress(packed_bytes))
    return row


def sparse_alexnet(shrink: int) -> PackedCode:
    """11 % of the weights, each layer with 32 shared values."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in SHAPES.items():
        shape = (max(shape[0] // shrink, 1), *shape[1:])
        weight = torch.randn(shape, generator=generator)
        weight[weight.abs() < weight.abs().flatten()[:100_000].quantile(1 - DENSITY)] = 0
        state = {**state, f"{name}.weight": weight, f"{name}.bias": torch.zeros(shape[0])}
    return packed(Codebook(bits=5, epochs=0).encode(state))


def dense_alexnet(shrink: int) -> PackedCode:
    """All weights, each layer with 256 shared values."""
    rng = np.random.default_rng(0)
    nodes = {}
    for name, shape in SHAPES.items():
        shape = (max(shape[0] // shrink, 1), *shape[1:])
        codes = np.clip(np.round(rng.laplace(127.5, 16, int(np.prod(shape)))), 0, 255).astype(np.uint8)
        parts = {"codes": Symbols(codes, 256), "centroids": Numbers(torch.linspace(-1, 1, 256))}
        nodes[f"{name}.weight"] = Form("codebook", shape, torch.float32, {}, parts)
    return PackedCode(nodes)


def of_network(make: Callable[[int], PackedCode], stage: str, shrink: int) -> dict[str, Any]:
    code, make_s = timed(lambda: make(shrink))
    stages = {
        "packed": lambda: code,
        "huffman": lambda: Huffman().encode(code),
        "entropy": lambda: Entropy().encode(code),
    }
    coded, stage_s = timed(stages[stage])
    content, write_s = timed(coded.to_bytes)
    nodes, read_s = timed(lambda: read(content)[0])
    state, decode_s = timed(PackedCode(nodes).decode)
    if not all(torch.equal(tensor, state[name]) for name, tensor in code.decode().items()):
        raise RuntimeError("the file gives another state back")
    dense = sum(tensor.nbytes for tensor in state.values())
    packed_file = PackedCode(code.nodes).to_bytes()
    return {
        "dense_bytes": dense,
        "file_bytes": len(content),
        "zstd_bytes": len(zstandard.ZstdCompressor(level=19).compress(packed_file)) if stage == "packed" else "",
        "quantise_s": round(make_s, 2),
        "encode_s": round(stage_s + write_s, 2),
        "read_s": round(read_s, 2),
        "decode_s": round(decode_s, 2),
        "decode_dense_mb_per_s": round(dense / 1e6 / (read_s + decode_s)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--quick", action="store_true", help="small streams and a 64th of the network, into no file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.quick:
        for name in STREAMS:
            print(name, of_stream(name, 5000))
        print(of_network(sparse_alexnet, "entropy", 64), of_network(dense_alexnet, "huffman", 64))
        return
    streams = Records(MEASUREMENTS / "container_streams.csv", ("stream", "count"), fresh=given.fresh)
    for name in STREAMS:
        for count in COUNTS:
            streams.add({"stream": name, "count": count}, lambda name=name, count=count: of_stream(name, count))
    networks = Records(MEASUREMENTS / "container_networks.csv", ("network", "coding"), fresh=given.fresh)
    for network, make in {
        "AlexNet, 11 % kept, 5 bits": sparse_alexnet,
        "AlexNet, dense, 8 bits": dense_alexnet,
    }.items():
        for coding in ("packed", "huffman", "entropy"):
            key = {"network": network, "coding": coding}
            networks.add(key, lambda make=make, coding=coding: of_network(make, coding, 1))
            print(networks.rows[-1])


if __name__ == "__main__":
    main()
