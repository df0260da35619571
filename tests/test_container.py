from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from container_faults import all_sorts
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError, StorageError
from ecc.stages import container
from ecc.stages.code import PackedCode, packed
from ecc.stages.container import node_bytes, read, section_bytes, stream, to_bytes, write
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Node, Numbers, Symbols, is_same, leaves
from ecc.stages.tree_layout import memory_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "container.md"
DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def same(one: Node, other: Node) -> bool:
    """Whether two trees are equal, bit by bit."""
    if isinstance(one, Form) and isinstance(other, Form):
        facts = [(node.kind, node.shape, node.dtype, dict(node.parameters), list(node.parts)) for node in (one, other)]
        return facts[0] == facts[1] and all(same(one.parts[name], other.parts[name]) for name in one.parts)
    if isinstance(one, Symbols) and isinstance(other, Symbols):
        return (one.size, one.coder) == (other.size, other.coder) and np.array_equal(one.values, other.values)
    if isinstance(one, Numbers) and isinstance(other, Numbers):
        values = [(leaf.values.dtype, leaf.values.shape) for leaf in (one, other)]
        raw = [leaf.values.reshape(-1).view(torch.uint8) for leaf in (one, other)]
        return values[0] == values[1] and torch.equal(*raw)
    return False


def test_a_code_comes_back_as_it_was_with_its_order_and_its_aliases():
    code = all_sorts()
    nodes, aliases = read(code.to_bytes())
    assert list(nodes) == list(code.nodes)
    assert aliases == code.aliases
    assert all(same(nodes[name], node) for name, node in code.nodes.items())
    assert PackedCode(nodes, aliases).to_bytes() == code.to_bytes()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3), (1,) * 16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_every_type_and_shape_keep_every_bit(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=generator, dtype=torch.uint8)
    node = Numbers(raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype))
    assert same(read(to_bytes({"x": node}, {}))[0]["x"], node)


def test_the_layout_is_that_of_the_page():
    codes = Symbols(np.array([1, 2, 0, 3], np.uint8), 4)
    form = Form("codebook", (2, 2), torch.float32, {}, {"codes": codes, "centroids": Numbers(torch.zeros(4).half())})
    found = to_bytes({"a.weight": form, "a.bias": Numbers(torch.tensor([1.0]))}, {"b.weight": "a.weight"})
    lines = PAGE.read_text(encoding="utf-8").partition("## Example")[2].split("```")[1].splitlines()
    assert found == bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def test_the_page_names_every_kind_by_its_number():
    listed = " ".join(PAGE.read_text(encoding="utf-8").partition("\nKinds: ")[2].partition(". What")[0].split())
    found = dict(part.split(maxsplit=1)[::-1] for part in listed.partition(";")[0].split(", "))
    assert found == {name: str(kind.number) for name, kind in KINDS.items()}


@pytest.mark.parametrize(
    "values",
    [torch.ones(()).expand(1), torch.ones(()).expand(1, 1), torch.ones(2, 3)[:, 1:2][:1], torch.tensor([1j]).conj(),
     torch.tensor([1 + 2j]).conj().imag],
    ids=["expanded", "expanded twice", "a slice", "conjugated", "negative"],
)  # fmt: skip
def test_numbers_with_odd_strides_are_stored_by_their_values(values):
    found = read(to_bytes({"x": Numbers(values)}, {}))[0]["x"]
    assert isinstance(found, Numbers)
    assert torch.equal(found.values, values)
    assert is_same(found, Numbers(values))


def test_a_name_that_could_not_be_read_is_not_written():
    node = Numbers(torch.tensor(1.0))
    for name in ("a" * 1024, "é" * 512, "a" * 1017 + ".weight"):
        assert list(read(to_bytes({name: node}, {}))[0]) == [name]
        with pytest.raises(InputError, match=r"has 10\d\d bytes; at most 1024 are stored"):
            to_bytes({"a" + name: node}, {})
    with pytest.raises(InputError, match="the name 'x' is there twice"):
        to_bytes({"x": node}, {"x": "x"})
    many = {f"{'a' * 1000}.{place}": "x" for place in range(1100)}
    with pytest.raises(InputError, match="shorten them"):
        to_bytes({"x": node}, many)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), unique=True, max_size=8))
def test_any_names_come_back(names):
    nodes = {name: Numbers(torch.tensor(place)) for place, name in enumerate(names)}
    found, _ = read(to_bytes(nodes, {}))
    assert list(found) == names


@pytest.mark.parametrize("value", [0, 127, 128, -1, -(1 << 63), (1 << 63) - 1, 0.5, 0.1, -1e300, 3.5e38], ids=str)
def test_parameters_come_back_as_they_were(value):
    form = Form("log", (), torch.float32, {"levels": value}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(container.read_node.__globals__["KINDS"]["log"]), "check", lambda *_: None)
        found = read(to_bytes({"x": form}, {}))[0]["x"]
    assert isinstance(found, Form)
    assert found.parameters == {"levels": value}
    assert type(found.parameters["levels"]) is type(value)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (Form("log", (), torch.float32, {"levels": float("nan")}, {}), "parameter 'levels' is nan"),
        (Form("log", (), torch.float32, {"levels": 1 << 63}, {}), "which 64 bits do not hold"),
        (Form("none", (), torch.float32, {}, {}), "got 'none'"),
        (Symbols(np.zeros(1, np.uint8), 2, "zip"), "must be one of packed, huffman, rans, got 'zip'"),
        (Numbers(torch.zeros([1] * 17)), "tensor of 17 axes"),
    ],
    ids=range(5),
)
def test_what_could_not_be_read_is_not_written(node, told):
    with pytest.raises(InputError, match=told):
        to_bytes({"x": node}, {})


def test_the_sections_and_the_header_are_the_file():
    code = all_sorts()
    parts = section_bytes(code.nodes, code.aliases)
    assert list(parts) == list(code.nodes)
    assert 13 <= code.nbytes - sum(parts.values()) <= 24
    first = next(iter(code.nodes))
    assert node_bytes(first, code.nodes[first]) == section_bytes({first: code.nodes[first]}, {})[first]


def test_many_small_tensors_cost_a_few_bytes_each():
    state = {f"layers.{place}.{leaf}": torch.zeros(4) for place in range(50) for leaf in ("weight", "bias")}
    assert packed(state).nbytes < 100 * (16 + 16)
    norms = torch.nn.Sequential(*(torch.nn.BatchNorm2d(4) for _ in range(20))).state_dict()
    content = sum(tensor.nbytes for tensor in norms.values())
    assert packed(norms).nbytes < content + 100 * 12


def test_the_declared_memory_is_that_of_all_parts():
    code = all_sorts()
    needed = sum(memory_of(node) for node in code.nodes.values())
    assert read(code.to_bytes(), limit_bytes=needed)
    with pytest.raises(InputError, match=f"decodes to {needed:,} bytes and {needed - 1:,} are allowed"):
        read(code.to_bytes(), limit_bytes=needed - 1)


def test_a_stream_gives_what_reading_gives_and_holds_one_section(tmp_path):
    code = all_sorts()
    write(tmp_path / "weights.ecz", code.nodes, code.aliases)
    found = dict(stream(tmp_path / "weights.ecz"))
    assert sorted(found) == sorted([*code.nodes, *code.aliases])
    assert found["tied.weight"] is found["features.0.weight"]
    assert all(same(found[name], node) for name, node in code.nodes.items())

    many = {str(place): Symbols(np.zeros(1 << 17, np.uint8), 256) for place in range(20)}
    assert write(tmp_path / "many.ecz", many, {}) > 20 << 17
    tracemalloc.start()
    for _, node in stream(tmp_path / "many.ecz"):
        assert sum(1 for _ in leaves(node)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 17  # a section, its symbols and what decoding needs; the file has 20


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"container '.*none.ecz' cannot be read: No such file"):
        next(stream(tmp_path / "none.ecz"))
    with pytest.raises(InputError, match="that is no plain file"):
        write(tmp_path, {}, {})
    with pytest.raises(StorageError, match="give a folder that is writable"):
        write(tmp_path / "none" / "weights.ecz", {}, {})


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "weights.ecz"
    write(path, {"x": Numbers(torch.zeros(3))}, {})
    old = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write(path, {"x": Numbers(torch.ones(9))}, {})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
import torch
from ecc.stages.container import write
from ecc.stages.nodes import Numbers
nodes = [{"x": Numbers(torch.full((1 << 16,), float(each)))} for each in range(2)]
write(sys.argv[1], nodes[0], {})
print("ready", flush=True)
while True:
    for each in nodes:
        write(sys.argv[1], each, {})
"""


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "weights.ecz"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(20):  # whenever it is looked at, the file is whole
            read(path.read_bytes())
            time.sleep(0.003)
        process.kill()
    (node,) = read(path.read_bytes())[0].values()
    assert isinstance(node, Numbers)
    assert len(node.values.unique()) == 1
