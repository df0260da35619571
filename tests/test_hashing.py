"""Hashes of positions: known values, spread, and the authors' key against the text it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecc.core.errors import InputError
from ecc.stages.hashing import HashKey, PlaceCache, mixed, published_hash, xxh32

CPU = torch.device("cpu")


def split_mix(state: int) -> int:
    """One step of SplitMix64 in whole numbers of Python."""
    mask = (1 << 64) - 1
    x = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def test_the_mix_is_split_mix_64():
    gamma, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    for salt in (0, 7, 1 << 62):
        start = split_mix((salt + 1) * gamma & mask)
        expected = [split_mix((number * gamma + start) & mask) for number in range(50)]
        assert mixed(np.arange(50, dtype=np.uint64), salt).tolist() == expected


def test_places_are_the_same_on_every_machine():
    assert HashKey(3, 10, 97).span(0, 6).tolist() == [[184, 83, 115, 101, 8, 185]]
    assert HashKey(3, 10, 97, published="W").span(0, 6).tolist() == [[98, 193, 49, 136, 96, 89]]


@pytest.mark.parametrize("suffix", ["idxW", "xi_W", "idxB"])
def test_the_published_hash_is_that_of_the_joined_texts(suffix):
    xxhash = pytest.importorskip("xxhash")
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.arange(12), [97, 98, 99, 997, 9_998, 123_456], rng.integers(0, 10**6, 200)])
    columns = rng.permutation(rows)
    for row, column, found in zip(rows, columns, published_hash(*_words(rows, columns), suffix), strict=True):
        texts = ["".join(str(each + one) for one in (1, 2, 3)) for each in (row, column)]
        assert int(found) == xxhash.xxh32(f"{texts[0]}_{texts[1]}{suffix}".encode(), seed=1691).intdigest()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 15, 16, 17, 19, 32, 45])
def test_xxh32_is_that_of_the_package(length):
    xxhash = pytest.importorskip("xxhash")
    texts = np.random.default_rng(length).integers(0, 256, (40, length)).astype(np.uint8)
    for seed in (0, 1691, 2**32 - 1):
        assert xxh32(texts, seed).tolist() == [xxhash.xxh32(bytes(each), seed=seed).intdigest() for each in texts]


def test_xxh32_has_the_known_values_of_its_specification():
    assert xxh32(np.zeros((1, 0), np.uint8)).tolist() == [0x02CC5D05]
    text = np.frombuffer(b"Nobody inspects the spammish repetition", np.uint8)[None]
    assert xxh32(text).tolist() == [0xE2293B2F]


@pytest.mark.parametrize("published", ["", "W"])
def test_buckets_and_signs_are_spread_like_chance(published):
    buckets, size = 500, 100_000
    counts = np.bincount(HashKey(5, 317, buckets, published=published).span(0, size)[0], minlength=2 * buckets)
    expected = size / (2 * buckets)
    squares = ((counts - expected) ** 2 / expected).sum()  # chi-squared with 999 degrees of freedom
    assert abs(squares - 999) < 5 * np.sqrt(2 * 999)


def test_hashes_salts_and_seeds_do_not_follow_one_another():
    first = HashKey(1, 100, 1000, hashes=2).span(0, 50_000)
    other = HashKey(2, 100, 1000, hashes=2).span(0, 50_000)
    for one, two in ((first[0], first[1]), (first[0], other[0]), (first[1], other[0])):
        assert abs(float((one == two).mean()) - 1 / 2000) < 5 * np.sqrt(1 / 2000 / 50_000)


def test_runs_read_values_beside_each_other_with_one_sign():
    key = HashKey(1, 10, 64, hashes=2, run=4)  # rows of 4, 4 and 2
    places = key.span(0, 300).reshape(2, 30, 10)
    for block in (slice(0, 4), slice(4, 8), slice(8, 10)):
        steps = np.diff(places[:, :, block], axis=2)
        assert (steps == 1).all()
        assert (places[:, :, block] // 64 == places[:, :, block.start : block.start + 1] // 64).all()
    assert len(np.unique(places[0, :, 0])) > 20


def test_some_positions_are_those_of_the_whole():
    for key in (HashKey(9, 7, 50, 3, 2), HashKey(9, 7, 50, published="B")):
        whole = key.span(0, 700)
        some = np.array([3, 699, 3, 70], np.uint64)
        assert (key.places(some) == whole[:, some.astype(int)]).all()
        assert (key.span(100, 200) == whole[:, 100:200]).all()


def test_the_cache_keeps_what_was_used_last_and_never_more_than_its_limit():
    cache = PlaceCache(4000)
    keys = [HashKey(salt, 10, 20) for salt in range(4)]
    first = cache.places(keys[0], 400, CPU)
    assert cache.places(keys[0], 400, CPU) is first
    cache.places(keys[1], 400, CPU)
    assert cache.places(keys[0], 400, CPU) is first
    cache.places(keys[2], 400, CPU)  # for which the second has to go
    assert cache.places(keys[0], 400, CPU) is first
    assert sum(4 * each.numel() for each in cache._found.values()) == cache._held <= 4000
    assert cache.places(keys[3], 1001, CPU) is None
    assert torch.equal(first, torch.from_numpy(keys[0].span(0, 400)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"buckets": 0}, "from run=1 to 2³⁰, got 0"),
        ({"run": 30}, "from run=30 to 2³⁰, got 20"),
        ({"salt": -1}, "from 0 to below"),
        ({"hashes": 2, "published": "W"}, "one hash and runs of 1"),
        ({"published": "V"}, "'', 'W' or 'B'"),
    ],
    ids=str,
)
def test_keys_without_sense_are_refused(options, told):
    with pytest.raises(InputError, match=told):
        HashKey(**{"salt": 1, "columns": 10, "buckets": 20} | options)


def _words(*numbers):
    return [each.astype(np.uint64) for each in numbers]
