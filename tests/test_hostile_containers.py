from __future__ import annotations

import warnings

import pytest
import torch
from container_faults import HEADER, all_sorts, mutants, sealed

from ecc.core.errors import InputError
from ecc.stages.byte_layout import ByteSink, Words
from ecc.stages.code import PackedCode, packed
from ecc.stages.container import read, section_bytes, to_bytes
from ecc.stages.methods import STAGES
from ecc.stages.nodes import Numbers
from ecc.stages.tree_layout import memory_of

LIMIT = 1 << 26


def opened(content: bytes) -> PackedCode:
    """All that a reader does with a file."""
    nodes, aliases = read(content, limit_bytes=LIMIT)
    code = PackedCode(nodes, aliases)
    code.stored()
    code.decode()
    return code


def by_stage(name: str) -> PackedCode:
    """A small state in the way of a stage; as it is where the stage wants more than a state."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 10, generator=generator)
    weight[torch.rand(12, 10, generator=generator) < 0.6] = 0
    state = {"a.weight": weight, "a.bias": torch.randn(12, generator=generator), "b.weight": weight.T.reshape(5, 6, 4)}
    try:
        return packed(STAGES["entropy"]().encode(STAGES[name]().encode(state)))
    except InputError:
        return packed(state)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_container_is_refused_with_one_sentence(seed):
    survived(all_sorts(), 1000, seed)


@pytest.mark.parametrize("name", STAGES)
def test_a_damaged_container_of_a_stage_is_refused_with_one_sentence(name):
    survived(by_stage(name), 400, 0)


def survived(code: PackedCode, count: int, seed: int) -> None:
    """Every mutant is refused, or is another sound file that keeps to its declaration."""
    content = code.to_bytes()
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mutant in mutants(content, count, seed):
            try:
                found = opened(mutant)
            except InputError as error:
                told.append(str(error))
            else:
                assert sum(memory_of(node) for node in found.nodes.values()) <= LIMIT
    assert len(told) > 0.8 * count
    assert all("\n" not in each and len(each) < 400 for each in told)


def test_every_truncation_is_refused():
    content = all_sorts().to_bytes()
    for length in range(len(content)):
        with pytest.raises(InputError):
            opened(content[:length])


def test_every_flipped_bit_is_refused():
    content = all_sorts().to_bytes()
    for place in range(len(content)):
        with pytest.raises(InputError):
            opened(content[:place] + bytes((content[place] ^ 1 << place % 8,)) + content[place + 1 :])


def section(name: str, *pieces: int | bytes) -> bytes:
    """A section by hand: whole numbers and bytes behind a name that is told in full."""
    sink = ByteSink()
    sink.word(name, 2, 2)
    for piece in pieces:
        if isinstance(piece, int):
            sink.whole(piece)
        else:
            sink.content += piece
    return bytes(sink.content)


FLOAT, SYMBOLS, CODEBOOK = 8 << 2, 1, 8 << 2 | 2
DEEP = (CODEBOOK, 2, 0, 0, 1, 10 << 0)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (section("x", FLOAT, 2, 1 << 40, 1 << 40), "larger than any memory"),
        (section("x", FLOAT, 1, 1 << 30), r"needs 4294967296 bytes of memory where the file declares 1000"),
        (section("x", FLOAT, 17, *[1] * 17), "tensor of 17 axes"),
        (section("x", SYMBOLS | 2 << 2, 31, 1 << 50, 1, b"\0"), "needs 9007199254740992 bytes"),
        (section("x", SYMBOLS, 0, 1 << 60, 0), "needs 9223372036854775808 bytes"),
        (section("x", SYMBOLS, 1 << 24, 1, 3, b"123"), "an alphabet of 16777217"),
        (section("x", SYMBOLS | 9 << 2, 1, 1, 1, b"1"), "coder 9"),
        (section("x", 3), "shared part 0 is named of 0"),
        (section("x", 99 << 2), "number format 99"),
        (section("x", CODEBOOK, 250, 0, 0, 0), "kind 250"),
        (section("x", CODEBOOK, 2, 0, 65), "65 parts or parameters"),
        (section("x", CODEBOOK, 2, 0, 0, 65), "65 parts or parameters"),
        (section("x", *[each for _ in range(20) for each in (CODEBOOK, 2, 0, 0, 1, 1)]), "more than 8 deep"),
        (section("x", CODEBOOK, 2, 0, 2, 1 << 2, 5, 1 << 2, 5), "parameter 'weight' is there twice"),
        (section("x", CODEBOOK, 2, 0, 0, 2, 1, FLOAT, 1, 0, 1, FLOAT, 1, 0), "part 'weight' is there twice"),
        (section("x", CODEBOOK, 2, 0, 1, 1 << 2 | 2, b"\0\0\0\0\0\0\xf0\x7f"), "not finite"),
        (section("x", CODEBOOK, 2, 0, 1, 1 << 2 | 2, b"\0\0\0\0\0\0\xf0\x3f"), "not in its shortest form"),
        (section("x", CODEBOOK, 2, 1, 1 << 20, 0, 0), "needs 4194304 bytes"),
        (section("x", 0, 1, 1, b"\2"), "neither 0 nor 1"),
        (section("x", FLOAT, b"\x81\0"), "shortest form"),
        (section("x", FLOAT, 0, b"\0\0\0\0", b"\0"), "1 bytes are left over"),
        (b"\xff" * 9 + b"\x7f", "not in its shortest form or too large"),
        (b"\2" + b"\xff\x1f", "a name of 4095 bytes"),
        (b"\2" + b"\2\xff\xff", "not in UTF-8"),
        (b"\xfe\x7f", "word 4095 is named of"),
    ],
    ids=range(25),
)
def test_what_is_declared_is_held_against_what_is_there(body, told):
    with pytest.raises(InputError, match=told):
        opened(sealed(1000, [body]))


@pytest.mark.parametrize("memory", [0, 3, 5, 1 << 25])
def test_the_declared_memory_has_to_be_that_of_the_content(memory):
    with pytest.raises(InputError, match=r"needs 4 bytes of memory|less than it declares"):
        opened(sealed(memory, [section("x", FLOAT, 0, b"\0\0\0\0")]))


def test_no_bytes_follow_the_last_section():
    body = section("x", FLOAT, 0, b"\0\0\0\0")
    with pytest.raises(InputError, match="it holds less than it declares"):
        opened(sealed(4, [body, section("y", FLOAT, 0, b"\0\0\0\0")], count=1))
    with pytest.raises(InputError, match=r"it has \d+ bytes and declares \d+"):
        opened(sealed(4, [body]) + b"\0")


def test_a_file_that_declares_more_than_the_limit_is_refused_before_it_is_read():
    with pytest.raises(
        InputError, match=r"decodes to 67,108,865 bytes and 67,108,864 are allowed; give a larger limit"
    ):
        read(sealed(LIMIT + 1, []))
    with pytest.raises(InputError, match="2,000 bytes and 1,999 are allowed"):
        read(sealed(2000, []), limit_bytes=1999)


def test_names_are_in_their_shortest_form_and_there_once():
    one = section("x", FLOAT, 0, b"\0\0\0\0")
    with pytest.raises(InputError, match=r"the word 'x' is told twice"):
        opened(sealed(8, [one, one]))
    again = bytes((len(ByteSink().words) + 1 << 2 | 2,)) + one[3:]
    with pytest.raises(InputError, match=r"the name 'x' is there twice"):
        opened(sealed(8, [one, again]))


def names_of(*pieces: int | str) -> bytes:
    """A section of one empty tensor with names by hand: whole numbers and texts."""
    sink = ByteSink()
    for piece in pieces:
        if isinstance(piece, int):
            sink.whole(piece)
        else:
            sink.text(piece)
    for value in (FLOAT, 1, 0):
        sink.whole(value)
    return bytes(sink.content)


WEIGHT, TIED, SAME = 1 << 2, 1, 2


def test_a_name_that_goes_on_from_the_one_before_is_bounded_as_a_whole():
    grown = [WEIGHT | TIED, 0, "a" * 1000 + "."]
    assert list(read(sealed(0, [names_of(WEIGHT, 0, "a" * 1017 + ".")]))[0]) == ["a" * 1017 + ".weight"]
    with pytest.raises(InputError, match=r"the name 'a{40}'… has 1025 bytes; at most 1024 are stored"):
        opened(sealed(0, [names_of(*grown, WEIGHT, 1001, "b" * 17 + ".")]))
    with pytest.raises(InputError, match=r"has 1026 bytes; at most 1024 are stored"):
        opened(sealed(0, [names_of(*grown, WEIGHT, 1001, "é" * 8 + "bb.")]))


@pytest.mark.parametrize(
    "rest",
    [(3, "b."), (1, ".b."), (2, "")],
    ids=["more than there is", "less than is shared", "nothing new"],
)
def test_a_module_tells_just_what_it_does_not_share(rest):
    with pytest.raises(InputError, match="a name is not in its shortest form"):
        opened(sealed(0, [names_of(WEIGHT | TIED, 0, "a.", WEIGHT, *rest)]))


def test_a_module_may_be_a_start_of_the_one_before():
    (found,) = read(sealed(0, [names_of(WEIGHT | TIED, 0, "a.b.", WEIGHT, 2, "")]))[1].items()
    assert found == ("a.weight", "a.b.weight")


def test_few_bytes_do_not_stand_for_many_long_names():
    count = 1500
    told = [piece for place in range(count) for piece in (TIED | SAME, f"{place:x}")]
    modules = [
        piece
        for number in range(3)
        for place in range(count)
        for piece in (
            (15 + place << 2 | TIED | SAME,)
            if place
            else (15 << 2 | TIED, 1000 if number else 0, f"{number}." if number else "a" * 1000 + "0.")
        )
    ]
    with pytest.raises(InputError, match=r"64 bytes beside each, take [\d,]+ bytes where [\d,]+ are allowed; shorten"):
        opened(sealed(0, [names_of(*told, *modules, WEIGHT | SAME)]))


def test_a_word_is_found_without_looking_at_the_others():
    looks = 0

    class Word(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return str.__eq__(self, other)

    words = Words()
    for place in range(1000):
        assert not words.number(Word(place))
        words.add(Word(place))
    assert words.number(Word(999)) == len(words) == 1014
    assert words[1014] == "999"
    assert looks < 3000


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"\x89ECZ\x02\x00", "layout version 2, this program reads 1; update ecc"),
        (b"\x89ECZ\x01\x80", "flags 128, of which this program knows none; update ecc"),
        (b"PK\x03\x04\x01\x00", "no container of ecc"),
    ],
    ids=["version", "flags", "magic"],
)
def test_files_of_another_sort_are_told_so(start, told):
    with pytest.raises(InputError, match=told):
        read(sealed(0, [], start=start))
    assert read(sealed(0, [], start=HEADER)) == ({}, {})


def test_sections_cannot_change_places():
    nodes = {name: Numbers(torch.tensor(value)) for name, value in (("a", 1.0), ("b", 2.0))}
    content = to_bytes(nodes, {})
    start = len(content) - 2 * (size := section_bytes(nodes, {})["a"])
    swapped = content[:start] + content[start + size :] + content[start : start + size]
    with pytest.raises(InputError, match="section 1 of 2: its checksum is another one"):
        read(swapped)
