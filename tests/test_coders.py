from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import count_symbols, narrowest
from ecc.stages.coders.bits import BitSink, BitSource
from ecc.stages.coders.frequencies import Frequencies, choose_frequencies, log2_fixed, write_frequencies
from ecc.stages.coders.huffman import code_lengths
from ecc.stages.coders.lanes import choose_lanes, from_steps, lane_blocks, to_steps
from ecc.stages.coders.registry import CODERS

EACH = pytest.mark.parametrize("coder", CODERS.values(), ids=CODERS)


def stream(name: str, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Streams as stages make them."""
    rng = np.random.default_rng(seed)
    match name:
        case "gaps":
            return np.minimum(rng.geometric(0.11, count) - 1, 31).astype(np.uint8), 32
        case "short gaps":
            return np.minimum(rng.geometric(0.8, count) - 1, 15).astype(np.uint8), 16
        case "codes":
            return np.clip(np.round(rng.normal(16, 5, count)), 0, 31).astype(np.uint8), 32
        case "bytes":
            return np.clip(np.round(rng.normal(128, 30, count)), 0, 255).astype(np.uint8), 256
        case "rare":
            return (rng.random(count) < 0.002).astype(np.uint8), 2
        case "words":
            return np.clip(rng.normal(3e4, 4e3, count), 0, 65535).astype(np.uint16), 1 << 16
        case "holes":
            return (rng.integers(0, 40, count) ** 3 * 200).astype(np.uint32), 1 << 24
    raise ValueError(name)


STREAMS = ("gaps", "short gaps", "codes", "bytes", "rare", "words", "holes")


def entropy_bytes(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * np.log2(len(values) / counts)).sum()) / 8


@EACH
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000, 70_000], ids="n={}".format)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_comes_back(coder, name, count):
    values, size = stream(name, count)
    if size > coder.largest_alphabet:
        with pytest.raises(InputError, match="gets no Huffman code"):
            coder.encode(values, size)
        return
    content = coder.encode(values, size)
    found = coder.decode(content, size, count)
    assert found.dtype == (narrowest(size) if count else found.dtype)
    assert np.array_equal(found, values)
    assert coder.encode(values.copy(), size) == content


@EACH
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_stream_comes_back(coder, data):
    size = data.draw(st.sampled_from([1, 2, 3, 255, 256, 257, 5000, 65536]))
    used = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))
    values = np.array(data.draw(st.lists(st.sampled_from(used), max_size=40)), np.uint32)
    assert np.array_equal(coder.decode(coder.encode(values, size), size, len(values)), values)


@EACH
@pytest.mark.parametrize("count", [600_001, 655_360], ids="n={}".format)
def test_streams_in_many_lanes_come_back(coder, count):
    values, size = stream("bytes", count)
    content = coder.encode(values, size)
    assert coder.name == "packed" or content[0] >> 3 >= 6  # the exponent of the lanes
    assert np.array_equal(coder.decode(content, size, count), values)


@pytest.mark.parametrize("count", [500, 5000, 50_000, 600_000], ids="n={}".format)
@pytest.mark.parametrize("name", ["gaps", "short gaps", "codes", "bytes"])
def test_rans_is_within_1_percent_of_the_entropy_and_a_small_table(name, count):
    values, size = stream(name, count)
    table = 6 + 0.7 * len(np.unique(values))  # bytes: under 6 bits for each symbol that there is
    assert len(CODERS["rans"].encode(values, size)) <= 1.01 * entropy_bytes(values) + table


@pytest.mark.parametrize(("name", "gain"), [("short gaps", 1.2), ("rare", 20.0), ("gaps", 1.0)])
def test_rans_beats_huffman_where_streams_are_skewed(name, gain):
    values, size = stream(name, 50_000)
    assert gain * len(CODERS["rans"].encode(values, size)) < len(CODERS["huffman"].encode(values, size))


@pytest.mark.parametrize("name", STREAMS)
def test_rans_is_never_much_worse_than_fields_of_equal_width(name):
    for count in (1, 10, 100, 1000, 30_000):
        values, size = stream(name, count)
        packed, found = (len(CODERS[coder].encode(values, size)) for coder in ("packed", "rans"))
        assert found <= packed + 5 + min(count, 0.7 * len(np.unique(values)))


@pytest.mark.parametrize("name", ["gaps", "short gaps", "codes", "bytes"])
def test_rans_is_as_short_as_that_of_constriction(name):
    constriction = pytest.importorskip("constriction", reason="constriction is not installed (extra peers)")
    values, size = stream(name, 50_000)
    shares = np.bincount(values, minlength=size) / len(values)
    model = constriction.stream.model.Categorical(shares, perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(values.astype(np.int32), model)
    theirs = coder.get_compressed().nbytes  # without the table, which a reader would need
    ours = len(CODERS["rans"].encode(values, size))
    assert ours <= 1.003 * theirs + 0.7 * len(np.unique(values)) + 6


def huffman_cost(counts: list[int]) -> int:
    """Bits of an unlimited Huffman code: the sum of all merged counts."""
    heap = list(counts)
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    return cost


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=60))
def test_code_lengths_are_those_of_huffman_where_the_limit_does_not_bind(counts):
    lengths = code_lengths(np.array(counts))
    assert int((np.array(counts) * lengths).sum()) == huffman_cost(counts)
    assert sum(2.0**-length for length in lengths.tolist()) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(3, 4))
def test_limited_code_lengths_are_the_best_that_there_are(counts, most):
    best = min(
        sum(count * length for count, length in zip(counts, lengths, strict=True))
        for lengths in itertools.product(range(1, most + 1), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )
    found = code_lengths(np.array(counts), most)
    assert found.max() <= most
    assert int((np.array(counts) * found).sum()) == best


def test_code_lengths_stay_within_the_limit_for_fibonacci_counts():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() == 16
    assert sum(2.0**-length for length in lengths.tolist()) == 1.0


def test_a_huffman_stream_is_read_bit_by_bit_as_the_page_says():
    values, size = stream("codes", 300)
    content = CODERS["huffman"].encode(values, size)
    symbols, counts = np.unique(values, return_counts=True)
    lengths = code_lengths(counts).tolist()
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    codes, code = {}, 0
    for before, place in itertools.pairwise([order[0], *order]):
        code <<= lengths[place] - lengths[before]
        codes[f"{code:0{lengths[place]}b}"] = int(symbols[place])
        code += 1
    bits = sum(count * length for count, length in zip(counts.tolist(), lengths, strict=True))
    last = lengths[symbols.tolist().index(values[-1])]
    words = math.ceil((bits - last + max(lengths)) / 16)  # read where fewer bits than those are left
    found, text = [], ""
    for word in np.frombuffer(content[-2 * words :], "<u2").tolist():
        for bit in range(16):
            text += str(word >> bit & 1)
            if text in codes:
                found.append(codes[text])
                text = ""
    assert found[:300] == values.tolist()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=200), st.integers(10, 16), st.integers(0, 8))
def test_frequencies_are_positive_and_fill_the_scale(weights, scale, digits):
    shares = Frequencies(np.arange(len(weights)), scale, digits, np.array(weights)).shares()
    assert int(shares.sum()) == 1 << scale
    assert shares.min() >= 1


def test_logarithms_in_whole_numbers_are_those_in_floats():
    values = np.concatenate([np.arange(1, 5000), 2 ** np.arange(32) - (np.arange(32) > 1)]).astype(np.uint64)
    assert np.abs(log2_fixed(values) / 65536 - np.log2(values.astype(float))).max() < 2e-5


def test_a_table_of_many_symbols_is_paid_for_by_the_stream():
    table, bits = choose_frequencies(*count_symbols(stream("words", 2000)[0]))
    sink = BitSink()
    write_frequencies(sink, table)
    assert 8 * len(sink.content()) < bits


@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [64, 65, 127, 128, 1000])
def test_steps_hold_every_symbol_at_its_lane(lanes, count):
    values = np.arange(count, dtype=np.uint32)
    steps, last = to_steps(values, lanes)
    assert np.array_equal(from_steps(steps, count), values)
    assert last == (count - 1) % lanes + 1
    rows = [row for _, block in lane_blocks(values, lanes) for row in block]
    assert np.array_equal(np.concatenate(rows), values)
    assert all(np.array_equal(row, steps[: len(row), lane]) for lane, row in enumerate(rows))


def test_lanes_cost_less_than_half_a_percent():
    for count, nbytes in ((500, 250), (1 << 22, 1 << 16), (6_700_000, 3_700_000), (61_000_000, 57_000_000)):
        assert (1 << choose_lanes(count, nbytes)) * 3 <= max(0.005 * nbytes, 3) or count > 1 << 21
        assert count <= (1 << choose_lanes(count, nbytes)) * (1 << 15) or choose_lanes(count, nbytes) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["field", "unary", "elias", "rice"]), st.integers(0, 3000)), max_size=60))
def test_bits_come_back_and_the_rest_behind_them(items):
    sink = BitSink()
    for sort, value in items:
        match sort:
            case "field":
                sink.field(value, 12)
            case "unary":
                sink.unary(value)
            case "elias":
                sink.elias(value + 1)
            case "rice":
                sink.rice(value, 5)
    source = BitSource(sink.content() + b"rest")
    read = {
        "field": lambda: source.field(12),
        "unary": source.unary,
        "elias": lambda: source.elias() - 1,
        "rice": lambda: source.rice(5),
    }
    assert [read[sort]() for sort, _ in items] == [value for _, value in items]
    assert source.rest() == b"rest"


@EACH
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([1, 2, 32, 300, 1 << 24]), st.integers(0, 3000))
def test_any_bytes_are_a_stream_or_refused(coder, content, size, count):
    try:
        found = coder.decode(content, size, count)
    except InputError as error:
        found = np.zeros(count, np.uint8)
        assert str(error)  # noqa: PT017
    assert found.shape == (count,)
    assert not count or int(found.max()) < size


@EACH
def test_a_changed_stream_is_refused_or_is_another_stream(coder):
    values, size = stream("codes", 400)
    content = coder.encode(values, size)
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        try:
            found = coder.decode(bytes(changed), size, len(values))
        except InputError:
            continue
        assert found.shape == values.shape
        assert int(found.max()) < size
        assert coder.name == "rans" or not np.array_equal(found, values)  # tables may round to the same shares
