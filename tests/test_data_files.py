"""Damaged files: whatever the bytes, the answer is an array or one InputError."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.data.files import read_csv, read_idx, read_npz

VALUES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
GOOD = bytes([0, 0, 8, 3]) + np.array(VALUES.shape, ">i4").tobytes() + VALUES.tobytes()


def header(*sizes: int, kind: int = 8, dimensions: int | None = None) -> bytes:
    return bytes([0, 0, kind, len(sizes) if dimensions is None else dimensions]) + np.array(sizes, ">i4").tobytes()


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_idx_reads_what_was_written(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(GOOD, mtime=0) if name.endswith("gz") else GOOD)
    assert np.array_equal(read_idx(tmp_path / name, (3, 4)), VALUES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it does not begin as IDX bytes of this kind do"),
        (GOOD[:9], "its header is cut short"),
        (GOOD[:-1], "its length does not fit the 2 examples it claims"),
        (GOOD + b"x", "its length does not fit the 2 examples it claims"),
        (header(2, 3, 4, kind=13) + bytes(96), "it does not begin as IDX bytes of this kind do"),
        (header(2) + bytes(2), "it does not begin as IDX bytes of this kind do"),
        (header(2, 4, 3) + bytes(24), r"an example is \(4, 3\) instead of \(3, 4\)"),
        (header(0, 3, 4), "it claims 0 examples"),
        (header(-1, 3, 4), "it claims -1 examples"),
        (header(2**31 - 1, 3, 4), "it claims 2147483647 examples"),
    ],
)
@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_idx_of_another_form_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} is damaged: {message}; get the file again$"):
        read_idx(path, (3, 4))


@pytest.mark.parametrize(
    "content", [GOOD, gzip.compress(GOOD, mtime=0)[:-9], b"", gzip.compress(GOOD, mtime=0)[:20] + b"garbage" * 9]
)
def test_gzip_that_is_none_or_cut_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.gz (cannot be read|is damaged).*; get the file again$"):
        read_idx(tmp_path / "a.gz", (3, 4))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    for read in (lambda p: read_idx(p, (3, 4)), lambda p: read_npz(p, ["a"]), lambda p: read_csv(p, ["a"])):
        with pytest.raises(InputError, match=r"cannot be read \(IsADirectoryError"):
            read(tmp_path)


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read \(ValueError: Object arrays cannot be loaded"):
        read_npz(tmp_path / "a.npz", ["a"])


def test_npz_lacking_an_array_names_it(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    with pytest.raises(InputError, match=r"a\.npz is damaged: it holds no array b, c; get the file again$"):
        read_npz(tmp_path / "a.npz", ["a", "b", "c"])


def test_npz_whose_header_claims_more_than_it_holds_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue() + bytes(8))
    with pytest.raises(InputError, match=r"a\.npz cannot be read"):
        read_npz(tmp_path / "a.npz", ["a"])


def test_npz_that_unpacks_without_end_is_refused_before_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr("ecc.data.files._MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(2000, np.uint8))
    with pytest.raises(InputError, match=r"a\.npz is damaged: it unpacks to more than"):
        read_npz(tmp_path / "a.npz", ["a"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_no_damage_gives_another_error(tmp_path, position, byte, cut):
    stream = io.BytesIO()
    np.savez_compressed(stream, a=VALUES)
    packed = {"a.npz": stream.getvalue(), "a.gz": gzip.compress(GOOD, mtime=0), "a.csv": b'a,b\n"x y",2\n3,4\n'}
    for name, content in packed.items():
        hurt = bytearray(content)
        hurt[position % len(hurt)] = byte
        (tmp_path / name).write_bytes(hurt[: len(hurt) - cut])
    for name, read in {
        "a.npz": lambda path: read_npz(path, ["a"]),
        "a.gz": lambda path: read_idx(path, (3, 4)),
        "a.csv": lambda path: read_csv(path, ["a", "b"]),
    }.items():
        with suppress(InputError):
            read(tmp_path / name)
