"""Systolic arrays: presets, and TOML files that nobody has checked."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.energy_models.systolic.array import PRESETS, SystolicArray


def test_eyeriss_has_the_constants_of_the_iclr_2019_model():
    array = SystolicArray.preset("eyeriss")
    assert (array.rows, array.columns, array.input_cache, array.weight_cache) == (12, 14, 51200, 4096)
    assert (array.e_rf, array.e_mac, array.e_cache, array.e_dram, array.unit, array.bits) == (1, 3, 6, 200, "e_RF", 16)
    assert array.frequency_hz is None


def test_tpu_v1_does_its_published_92_tera_operations_a_second():
    array = SystolicArray.preset("tpu-v1")
    assert array.rows * array.columns * 2 * array.frequency_hz == pytest.approx(92e12, rel=0.003)
    assert (array.bits, array.unit) == (8, "e_RF")  # energies are normalised: never joules


def test_a_file_with_every_attribute_gives_that_array(tmp_path):
    array = SystolicArray("mine", 8, 4, 100, 50, 25, 1e-12, 2e-12, 6e-12, 2e-10, "J", "ws", 8, 1e9)
    path = tmp_path / "any.toml"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in dataclasses.asdict(array).items()))
    assert SystolicArray.from_toml(path) == array == SystolicArray.parse(str(path))


def test_what_a_file_leaves_out_is_as_in_its_base(tmp_path):
    path = tmp_path / "half-tpu.toml"
    path.write_text('base = "tpu-v1"\nrows = 128\n')
    assert SystolicArray.from_toml(path) == dataclasses.replace(PRESETS["tpu-v1"], name="half-tpu", rows=128)
    path.write_text("")
    assert SystolicArray.from_toml(path) == dataclasses.replace(PRESETS["eyeriss"], name="half-tpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row = 3", r"has the unknown key 'row'; did you mean rows\?"),
        ("[array]\nrows = 3", r"has the unknown key 'array'"),
        ("rows = 0", r"SystolicArray\(rows=...\) must be a whole number from 1 to 65536, got 0"),
        ("rows = 1.5", r"SystolicArray\(rows=...\) must be a whole number"),
        ("rows = true", r"SystolicArray\(rows=...\) must be a whole number"),
        ("rows = [1]", r"SystolicArray\(rows=...\) must be a whole number"),
        ("rows = " + "9" * 3000, r"SystolicArray\(rows=...\) must be a whole number"),
        ("rows = " + "9" * 5000, r"is not readable TOML"),
        ("rows = ", r"is not readable TOML"),
        ("a = " + "[" * 30000, r"is not readable TOML"),
        ("# " + "x" * 70000, r"is larger than 64 KiB"),
        ("e_dram = nan", r"SystolicArray\(e_dram=...\) must be from 0 to 1e\+09 e_RF, got nan"),
        ("e_dram = inf", r"SystolicArray\(e_dram=...\) must be"),
        ("e_cache = -1", r"SystolicArray\(e_cache=...\) must be"),
        ("e_rf = 2", r"SystolicArray\(unit='e_RF'\) means that e_rf is 1, got 2"),
        ("e_mac = 0\ne_dram = 0", r"must not both be 0"),
        ('unit = "pJ"', r"SystolicArray\(unit=...\) must be one of e_RF, e_MAC, J, got 'pJ'"),
        ('unit = ["J"]', r"SystolicArray\(unit=...\) must be one of"),
        ('unit = "J"\ne_rf = 1e-12', r"has unit J and no e_mac; give e_rf, e_mac, e_cache, e_dram in joules"),
        ('unit = "J"\ne_rf = 1\ne_mac = 3\ne_cache = 6\ne_dram = 200', r"must be from 0 to 1e-06 J, got 1"),
        ('dataflow = "rs"', r"SystolicArray\(dataflow=...\) must be one of os, ws, is, got 'rs'"),
        ("dataflow = {}", r"SystolicArray\(dataflow=...\) must be one of"),
        ("bits = 128", r"SystolicArray\(bits=...\) must be a whole number from 1 to 64"),
        ("frequency_hz = 0", r"SystolicArray\(frequency_hz=...\) must be in Hz"),
        ('name = ""', r"SystolicArray\(name=...\) must be a short text"),
        ('name = "\\u001b[2J"', r"SystolicArray\(name=...\) must be a short text"),
        ('base = "tpu"', r"there is no systolic array 'tpu'; did you mean tpu-v1\?"),
        ("base = 1", r"has a base that is no name"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value,
)
def test_what_makes_no_array_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "array.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        SystolicArray.from_toml(path)
    assert len(str(caught.value)) < 600


@given(st.binary(max_size=200))
def test_hostile_bytes_give_an_array_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile.toml"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert isinstance(SystolicArray.from_toml(path), SystolicArray)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eyeris", r"'eyeris' is no systolic array; did you mean eyeriss\?, or give a TOML file of your own"),
        ("", r"'' is no systolic array; choose from eyeriss, tpu-v1, or give"),
        ("nowhere.toml", r"systolic array 'nowhere.toml' cannot be read: No such file or directory"),
        ("a\0.toml", r"cannot be read"),
    ],
)
def test_names_of_nothing_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        SystolicArray.parse(text)


def test_a_folder_is_no_array(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        SystolicArray.from_toml(tmp_path)
