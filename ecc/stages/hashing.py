r"""Hashes from positions of a tensor to places in a short vector, the same on every machine; nothing of them is stored.

The default mixes a salt and the position in 64 bits (SplitMix64; Steele, Lea and Flood, OOPSLA 2014). The other one is
that of the authors of HashedNets: XXH32 with seed 1691 of the text ``i(i+1)(i+2)_j(j+1)(j+2)`` and a suffix, rows i and
columns j counted from 1. It knows no layer, which is harmless where each layer has a vector of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError

__all__ = ["MOST_BUCKETS", "HashKey", "PlaceCache", "mixed", "published_hash", "xxh32"]

MOST_BUCKETS = 1 << 30
"""Values and their negatives are counted in 31 bits."""

_GAMMA = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_PRIMES = tuple(np.uint32(p) for p in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1))
_SEED = 1691  # of the authors of HashedNets
_CHUNK = 1 << 18
Words = NDArray[np.uint64]
Halves = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class HashKey:
    """Where the elements of one tensor read: all that has to be stored of it.

    Attributes:
        salt: Another one for each tensor, 0 or more.
        columns: Elements of a row; positions count row by row.
        buckets: Values there are to read, K.
        hashes: Values that an element reads, U.
        run: So many elements beside each other in a row read values beside each other.
        published: ``W`` or ``B`` for the key of weights or biases of the authors of HashedNets, which has one hash, no
            runs, and no salt; empty for the mix.
    """

    salt: int
    columns: int
    buckets: int
    hashes: int = 1
    run: int = 1
    published: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.salt < 1 << 63 or self.columns < 1 or self.hashes < 1:
            raise InputError("HashKey(salt=...) must be from 0 to below 2⁶³, columns and hashes at least 1")
        if not 1 <= self.run <= self.buckets <= MOST_BUCKETS:
            raise InputError(f"HashKey(buckets=...) must be from run={self.run} to 2³⁰, got {self.buckets}")
        if self.published not in ("", "W", "B") or (self.published and (self.hashes, self.run) != (1, 1)):
            raise InputError("HashKey(published=...) must be '', 'W' or 'B', and but for '' has one hash and runs of 1")

    def places(self, positions: Words) -> NDArray[np.int32]:
        """Places in the values and, behind them, their negatives: from 0 to below 2K, shape (hashes, n).

        Args:
            positions: Of elements, row · columns + column, shape (n,).
        """
        if self.published:
            rows, columns = np.divmod(positions, np.uint64(self.columns))
            bucket = published_hash(rows, columns, f"idx{self.published}") % np.uint32(self.buckets)
            negative = published_hash(rows, columns, f"xi_{self.published}") % np.uint32(2) == 0
            return np.where(negative, bucket + np.uint32(self.buckets), bucket).astype(np.int32)[np.newaxis]
        blocks, offset = self._blocks(positions)
        found = np.empty((self.hashes, len(positions)), np.int32)
        for which in range(self.hashes):
            drawn = mixed(blocks, self.salt * 0x100 + which)
            bucket = (drawn >> np.uint64(32)) * np.uint64(self.buckets - self.run + 1) >> np.uint64(32)
            found[which] = bucket + offset + (drawn & np.uint64(1)) * np.uint64(self.buckets)
        return found

    def _blocks(self, positions: Words) -> tuple[Words, Words]:
        """The run in which each element is, and where in it."""
        if self.run == 1:
            return positions, np.zeros(1, np.uint64)
        row, column = np.divmod(positions, np.uint64(self.columns))
        block, offset = np.divmod(column, np.uint64(self.run))
        return row * np.uint64(-(-self.columns // self.run)) + block, offset

    def span(self, start: int, stop: int) -> NDArray[np.int32]:
        """:meth:`places` of the positions from ``start`` to before ``stop``, some at a time."""
        found = np.empty((self.hashes, stop - start), np.int32)
        for first in range(start, stop, _CHUNK):
            last = min(first + _CHUNK, stop)
            found[:, first - start : last - start] = self.places(np.arange(first, last, dtype=np.uint64))
        return found


class PlaceCache:
    """Places that were computed, those used last, up to a limit of memory; safe for several threads.

    Args:
        limit_bytes: Of all of them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self._held = limit_bytes, 0
        self._found: OrderedDict[tuple[HashKey, int, torch.device], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def places(self, key: HashKey, size: int, device: torch.device) -> Tensor | None:
        """Of the positions from 0 to before ``size``, int32 of shape (hashes, size); None if the limit is less."""
        nbytes = 4 * key.hashes * size
        if nbytes > self.limit_bytes:
            return None
        name = (key, size, device)
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
                return self._found[name]
        found = torch.from_numpy(key.span(0, size)).to(device)
        with self._lock:
            if name not in self._found:
                self._found[name] = found
                self._held += nbytes
            while self._held > self.limit_bytes:
                _, old = self._found.popitem(last=False)
                self._held -= 4 * old.numel()
        return found


def mixed(numbers: Words, salt: int) -> Words:
    """64 random bits for each number, by SplitMix64 from a state that the salt gives."""
    start = _finished(np.array([(salt + 1) * _GAMMA & _MASK], np.uint64))
    return _finished(numbers * np.uint64(_GAMMA) + start)


def _finished(x: Words) -> Words:
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(_FACTORS[0])
    x ^= x >> np.uint64(27)
    x *= np.uint64(_FACTORS[1])
    x ^= x >> np.uint64(31)
    return x


def published_hash(rows: Words, columns: Words, suffix: str) -> Halves:
    """The hash of the authors of HashedNets of positions (rows and columns from 0), shape (n,).

    Args:
        suffix: ``idxW`` for the bucket, which is the hash modulo K, or ``xi_W`` for the sign, negative where even;
            ``idxB`` and ``xi_B`` for biases, which are one column.
    """
    found = np.empty(len(rows), np.uint32)
    numbers = [part + np.uint64(one) for part in (rows, columns) for one in (1, 2, 3)]
    lengths = np.stack([_lengths(each) for each in numbers])
    kinds, which = np.unique(lengths, axis=1, return_inverse=True)
    underscore, tail = np.frombuffer(b"_", np.uint8), np.frombuffer(suffix.encode(), np.uint8)
    for kind in range(kinds.shape[1]):
        members = np.flatnonzero(which.reshape(-1) == kind)
        texts = [_digits(each[members], int(length)) for each, length in zip(numbers, kinds[:, kind], strict=True)]
        between, behind = (np.tile(each, (len(members), 1)) for each in (underscore, tail))
        found[members] = xxh32(np.concatenate([*texts[:3], between, *texts[3:], behind], axis=1), _SEED)
    return found


def _lengths(numbers: Words) -> NDArray[np.int64]:
    """Decimal digits of positive numbers."""
    powers = np.array([10**power for power in range(1, 20)], np.uint64)
    return np.searchsorted(powers, numbers, side="right") + 1


def _digits(numbers: Words, length: int) -> NDArray[np.uint8]:
    powers = np.array([10**power for power in reversed(range(length))], np.uint64)
    return (numbers[:, None] // powers % np.uint64(10) + np.uint64(48)).astype(np.uint8)


def xxh32(texts: NDArray[np.uint8], seed: int = 0) -> Halves:
    """XXH32 (Collet) of many texts of the same length.

    Args:
        texts: Shape (n, length).
    """
    one, two, three, four, five = _PRIMES
    count, length = texts.shape
    start = np.uint32(seed & 0xFFFFFFFF)
    words = np.ascontiguousarray(texts[:, : length // 4 * 4]).view("<u4").reshape(count, -1).astype(np.uint32)
    with np.errstate(over="ignore"):
        if length >= 16:
            first = (start + one + two, start + two, start, start - one)
            lanes = [np.full(count, each, np.uint32) for each in first]
            used = length // 16 * 4
            for place in range(used):
                lane = place % 4
                lanes[lane] = _rotated(lanes[lane] + words[:, place] * two, 13) * one
            turned = [_rotated(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True)]
            found = turned[0] + turned[1] + turned[2] + turned[3]
        else:
            used, found = 0, np.full(count, start + five, np.uint32)
        found = found + np.uint32(length)
        for place in range(used, words.shape[1]):
            found = _rotated(found + words[:, place] * three, 17) * four
        for place in range(length // 4 * 4, length):
            found = _rotated(found + texts[:, place].astype(np.uint32) * five, 11) * one
        found = (found ^ found >> np.uint32(15)) * two
        found = (found ^ found >> np.uint32(13)) * three
        return found ^ found >> np.uint32(16)


def _rotated(x: Halves, turn: int) -> Halves:
    return x << np.uint32(turn) | x >> np.uint32(32 - turn)
