"""Factories that users name: found, called, and every way in which they fail told in one sentence."""

from __future__ import annotations

import re
import sys

import pytest

from ecc.core.errors import InputError
from ecc.core.factories import build, parse_value, suggestion


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("1e3", 1000.0), ("0.5", 0.5), ("true", True), ("False", False), ("3x", "3x"), ("", "")],
)
def test_values_are_read_as_the_first_kind_that_fits(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_a_file_finds_what_lies_beside_it_even_late(here):
    folder = here / "nets"
    folder.mkdir()
    (folder / "beside_of_test.py").write_text("answer = 42\n")
    (folder / "net.py").write_text(
        "def make(plus=0):\n    import beside_of_test\n    return beside_of_test.answer + plus\n"
    )
    before = list(sys.path)
    assert build("model", "nets/net.py:make", {"plus": 1}) == 43
    assert sys.path == before


def test_a_module_of_the_current_folder_is_found(here):
    (here / "package_of_test").mkdir()
    (here / "package_of_test" / "part.py").write_text(
        "class A:\n    @staticmethod\n    def make():\n        return 'made'\n"
    )
    assert build("model", "package_of_test.part:A.make") == "made"


def test_a_file_may_define_dataclasses(here):
    (here / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Config:\n    width: int = 3\ndef make():\n    return Config().width\n"
    )
    assert build("model", "net.py:make") == 3


def test_an_offer_reaches_only_a_factory_that_names_it(here):
    (here / "net.py").write_text(
        "def no():\n    return 0\ndef yes(seed):\n    return seed\ndef over(**k):\n    return k\n"
    )
    assert build("data", "net.py:no", offer={"seed": 5}) == 0
    assert build("data", "net.py:yes", offer={"seed": 5}) == 5
    assert build("data", "net.py:over", {"a": 1}, offer={"seed": 5}) == {"a": 1}


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("net", {}, "model 'net' names no factory; write package.module:factory or file.py:factory"),
        ("net.py", {}, "model 'net.py' names no factory; write package.module:factory or file.py:factory"),
        ("net.py:", {}, "model 'net.py:' names no factory; write package.module:factory or file.py:factory"),
        (":make", {}, "model ':make' names no factory; write package.module:factory or file.py:factory"),
        ("gone.py:make", {}, "model 'gone.py:make': there is no file gone.py; give the path of a Python file"),
        (
            "..net:make",
            {},
            "model '..net:make': '..net' is no module name; write package.module:factory or file.py:factory",
        ),
        (
            "no_such_module.inner:make",
            {},
            "model 'no_such_module.inner:make': there is no module 'no_such_module' in the current folder or this "
            "environment; install it, or give the path of a file as file.py:factory",
        ),
        ("net.py:mak", {}, "model 'net.py:mak': net.py has no 'mak'; did you mean make?"),
        ("net.py:other", {}, "model 'net.py:other': net.py has no 'other'; choose from fails, leaves, make"),
        ("net.py:size", {}, "model 'net.py:size': size is a int, not a factory; name a function that makes it"),
        (
            "net.py:make",
            {"wdth": 3},
            "model 'net.py:make' cannot be called with these options: got an unexpected keyword argument 'wdth'; "
            "it takes width",
        ),
        (
            "net.py:fails",
            {},
            "model 'net.py:fails': the factory failed with ValueError: no; mend it or its options",
        ),
        (
            "net.py:leaves",
            {},
            "model 'net.py:leaves': the factory failed with SystemExit: 1; mend it or its options",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value[:12] else "",
)
def test_failures_are_one_sentence_with_the_mend(here, spec, options, message):
    (here / "net.py").write_text(
        "size = 3\n"
        "def make(width=1):\n    return width\n"
        "def fails():\n    raise ValueError('no\\nsecond line')\n"
        "def leaves():\n    raise SystemExit(1)\n"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        build("model", spec, options)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def make(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import no_such_thing\n", "ModuleNotFoundError"),
    ],
)
def test_a_file_that_does_not_import_says_why_and_leaves_no_trace(here, body, why):
    (here / "net.py").write_text(body)
    before = set(sys.modules)
    with pytest.raises(
        InputError, match=rf"^model 'net.py:make': importing .*net\.py failed with {why}: .*; mend the file$"
    ):
        build("model", "net.py:make")
    assert not [name for name in set(sys.modules) - before if name.startswith("_ecc_net_")]


def test_a_module_that_lacks_another_is_not_called_missing_itself(here):
    (here / "module_of_test.py").write_text("import no_such_thing\n")
    with pytest.raises(InputError, match=r"importing module_of_test failed with .*'no_such_thing'; install it$"):
        build("model", "module_of_test:make")


def test_suggestions_forgive_case_and_underscores():
    assert suggestion("MobileNet_V2", ["mobilenet-v2", "vgg16"]) == "; did you mean mobilenet-v2?"
    assert suggestion("xyz", ["mobilenet-v2", "vgg16"]) == "; choose from mobilenet-v2, vgg16"


@pytest.mark.parametrize(
    "spec",
    ["os:system", "torch:os.system", "subprocess:getoutput", "torch.hub:load", "builtins:eval", "here:calls_of"],
)
def test_what_a_file_names_is_run_only_if_it_can_be_a_networks_factory(here, spec):
    (here / "here.py").write_text("import os\ncalls_of = os.system\n", encoding="utf-8")
    with pytest.raises(InputError, match="stands in a file and names no factory of networks, so it is not run"):
        build("model", spec, {}, stored=True)


def test_what_a_file_names_is_run_where_it_makes_networks(here):
    (here / "nets.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 3)\n"
        "    @classmethod\n    def small(cls):\n        return cls()\ndef make():\n    return Net()\n",
        encoding="utf-8",
    )
    for spec in ("nets:Net", "nets:make", "nets.py:make", "nets:Net.small"):
        assert build("model", spec, stored=True).out_features == 3
    assert build("model", "torch.nn:Flatten", stored=True).start_dim == 1
