"""The released layout against a decoder and an encoder that go entry by entry, as the reference describes them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.stages.codebook import Codebook
from ecc.stages.prune import Prune
from ecc.stages.released_layout import ALEXNET, ReleasedLayer, read_released, write_released

LAYERS = (ReleasedLayer("conv", (6, 3, 5, 5), 8), ReleasedLayer("fc", (10, 90), 4), ReleasedLayer("out", (4, 30), 5, 3))


def field_bits(content, bits, count):
    number = int.from_bytes(content, "little")  # fields lie from the low bits of the first byte up
    return [(number >> (bits * place)) & ((1 << bits) - 1) for place in range(count)]


def slowly_read(content, layers):
    """Layer → (weights, biases), as in §1.2 of the reference: position = cumsum(gap + 1) - 1, the rest is entry 0."""
    counts, head, found = struct.unpack_from(f"<{len(layers)}I", content), 4 * len(layers), {}
    for layer, count in zip(layers, counts, strict=True):
        values = 1 << layer.code_bits
        codebook = struct.unpack_from(f"<{values}f", content, head)
        head += 4 * values
        bias = struct.unpack_from(f"<{layer.shape[0]}f", content, head)
        head += 4 * layer.shape[0]
        streams = []
        for bits in (layer.code_bits, layer.gap_bits):
            size = -(-count * bits // 8)
            streams.append(field_bits(content[head : head + size], bits, count))
            head += size
        weights, place = [codebook[0]] * layer.size, -1
        for code, gap in zip(*streams, strict=True):
            place += gap + 1
            weights[place] = codebook[code]
        found[layer.name] = torch.tensor(weights).reshape(layer.shape), torch.tensor(bias)
    assert head == len(content)
    return found


def slowly_written(dense_codes, gap_bits):
    """Entries (code, stored gap) of one layer, with fillers, by the loop of the reference."""
    entries, last = [], -1
    for place in np.flatnonzero(dense_codes).tolist():
        gap = place - last
        while gap > 1 << gap_bits:
            entries.append((0, (1 << gap_bits) - 1))
            gap -= 1 << gap_bits
        entries.append((int(dense_codes[place]), gap - 1))
        last = place
    return entries


def random_code(layers, density, seed):
    generator = torch.Generator().manual_seed(seed)
    state, code = {}, None
    for layer in layers:
        weights = torch.randn(layer.shape, generator=generator)
        state[f"{layer.name}.weight"] = weights * (torch.rand(layer.shape, generator=generator) < density)
        state[f"{layer.name}.bias"] = torch.randn(layer.shape[0], generator=generator)
    code = Prune(density=None).encode(state)
    from ecc.stages.codebook import _assigned
    from ecc.stages.nodes import map_weights

    nodes = dict(code.nodes)
    for layer in layers:
        centroids = torch.linspace(-2, 2, (1 << layer.code_bits) - 1)
        nodes[f"{layer.name}.weight"] = map_weights(
            code.nodes[f"{layer.name}.weight"], lambda leaf, rising=centroids: _assigned(leaf, rising)
        )
    return type(code)(nodes)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.003, 0.05, 0.3, 0.8]), st.integers(0, 99))
def test_files_say_what_the_slow_decoder_reads_and_come_back(density, seed):
    code = random_code(LAYERS, density, seed)
    content = write_released(code, LAYERS)
    decoded, slow = code.decode(), slowly_read(content, LAYERS)
    for layer in LAYERS:
        assert torch.equal(slow[layer.name][0], decoded[f"{layer.name}.weight"])
        assert torch.equal(slow[layer.name][1], decoded[f"{layer.name}.bias"])
    back = read_released(content, LAYERS)
    assert all(torch.equal(tensor, decoded[name]) for name, tensor in back.decode().items())
    assert write_released(back, LAYERS) == content


def test_entries_are_those_of_the_slow_encoder():
    layer = ReleasedLayer("fc", (8, 200), 4)
    code = random_code([layer], 0.02, 7)
    content = write_released(code, [layer])
    weights = code.decode()["fc.weight"].flatten()
    centroids = torch.linspace(-2, 2, 15)
    codes = [0 if w == 0 and float(w) == 0 else 1 + int((centroids - w).abs().argmin()) for w in weights]
    kept = code.nodes["fc.weight"].parts["values"].shape[0]
    assert sum(each > 0 for each in codes) <= kept
    entries = slowly_written(np.array(codes), 4)
    (count,) = struct.unpack_from("<I", content)
    streams = content[4 + 4 * 16 + 4 * 8 :]
    assert count == len(entries)
    half = -(-count // 2)
    assert field_bits(streams[:half], 4, count) == [code for code, _ in entries]
    assert field_bits(streams[half:], 4, count) == [gap for _, gap in entries]


def test_the_low_nibble_comes_first_and_fillers_are_code_0_gap_15():
    layer = ReleasedLayer("fc", (1, 40), 4)
    codebook = np.zeros(16, "<f4")
    codebook[[3, 5]] = 0.5, -1.0
    bias = np.array([0.25], "<f4")
    codes, gaps = bytes([0x03, 0x05]), bytes([0xF2, 0x01])  # places 2, filler at 18, 20
    content = struct.pack("<I", 3) + codebook.tobytes() + bias.tobytes() + codes + gaps
    state = read_released(content, [layer]).decode()
    assert state["fc.weight"].nonzero().tolist() == [[0, 2], [0, 20]]
    assert state["fc.weight"][0, [2, 20]].tolist() == [0.5, -1.0]
    assert state["fc.bias"].tolist() == [0.25]
    assert write_released(read_released(content, [layer]), [layer]) == content


def test_the_released_network_has_its_published_size():
    assert sum(layer.size for layer in ALEXNET) == 60_954_656
    assert [layer.code_bits for layer in ALEXNET] == [8] * 5 + [4] * 3


def test_stages_write_it():
    state = {"fc.weight": torch.randn(40, 60), "fc.bias": torch.randn(40)}
    code = Codebook(bits=4, epochs=0).encode(Prune(density=0.1, epochs=0).encode(state))
    layer = ReleasedLayer("fc", (40, 60), 5)  # 16 values and one for zero
    back = read_released(write_released(code, [layer]), [layer])
    assert torch.equal(back.decode()["fc.weight"], code.decode()["fc.weight"])
    with pytest.raises(InputError, match=r"fc.weight has 16 values, and codes of 4 bits .* name 15 at most"):
        write_released(code, [ReleasedLayer("fc", (40, 60), 4)])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:7], "ends within the counts of its 3 layers, after 7 bytes"),
        (lambda content: content[:-1], "bytes, and its counts of entries ask for"),
        (lambda content: content + b"\0", "and its counts of entries ask for"),
        (lambda content: b"\xff" * 4 + content[4:], "declares 4294967295 entries for conv, which has 450 weights"),
        (lambda content: content[:12] + struct.pack("<f", 1.0) + content[16:], "the codebook of conv begins with 1"),
        (lambda content: content[:-1] + b"\xff", "the gaps of out lead to element"),
    ],
)
def test_damaged_files_are_refused(damage, said):
    content = write_released(random_code(LAYERS, 0.9, 3), LAYERS)
    with pytest.raises(InputError, match=said):
        read_released(damage(content), LAYERS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 3))
def test_any_changed_byte_is_read_or_refused(place, value, seed):
    content = bytearray(write_released(random_code(LAYERS, 0.1, seed), LAYERS))
    content[place % len(content)] = value
    try:
        state = read_released(bytes(content), LAYERS).decode()
    except InputError:
        return
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        f"{layer.name}.{part}": layer.shape if part == "weight" else layer.shape[:1]
        for layer in LAYERS
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({}, "fc.bias must be stored as 40 floats"),
        ({"fc.bias": torch.zeros(40)}, "fc.weight must have shared values"),
        ({"fc.bias": torch.zeros(40), "fc.weight": torch.zeros(40, 60)}, "apply prune and codebook to it"),
    ],
)
def test_codes_of_another_form_are_refused(nodes, said):
    from ecc.stages.code import packed

    with pytest.raises(InputError, match=said):
        write_released(packed(nodes), [ReleasedLayer("fc", (40, 60), 5)])


def test_layers_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"ReleasedLayer\(code_bits=...\) must be from 1 to 8, got 9"):
        ReleasedLayer("fc", (3, 4), 9)
    with pytest.raises(InputError, match=r"positive axes, got \(0, 4\)"):
        ReleasedLayer("fc", (0, 4), 4)
