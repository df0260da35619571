"""What is typed wrongly is refused in the words of the command line, before a network is built."""

import pytest
from cli_toy import run

from ecc.core.errors import InputError
from ecc.core.factories import kind_of
from ecc.profiler.window import Window

PROFILE = "profile nofile.py:net --input 1x4 --store new.db"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cores 0,0", "name each core once, got '0,0'"),
        ("--energy-source counter", "add --metric energy, or leave it out"),
        ("--energy-source power --metric latency", "add --metric energy, or leave it out"),
        ("--store .", "give the name of a file such as profile.db"),
    ],
)
def test_options_that_make_no_sense_are_refused_first(options, words):
    said = run(f"{PROFILE} {options}")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_threads_are_named_as_users_name_them(threads):
    with pytest.raises(InputError, match=r"^the number of threads \(--threads\) must be at "):
        Window(threads=threads)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"hello\n", "no database and not readable JSON"),
        (b"\xff\xfe\x00random", "no database and not readable JSON"),
    ],
    ids=["empty", "text", "random"],
)
def test_a_file_of_something_else_is_not_called_a_cost_model(here, content, words):
    (here / "some.db").write_bytes(content)
    said = run("inspect some.db")
    assert said.code == 2
    assert said.err.startswith("ecc inspect: 'some.db' is no profile store, cost model or artefact: ")
    assert words in said.err


def test_json_of_something_else_is_said_to_be_that(here):
    (here / "some.json").write_text('\ufeff {"a": 1}', encoding="utf-8")
    assert run("inspect some.json").code == 2
    (here / "some.json").write_text('{"a": 1}', encoding="utf-8")
    assert "holds something else" in run("inspect some.json").err


def test_types_have_their_article():
    assert [kind_of(value) for value in (1, "text", OSError(), (1,))] == ["an int", "a str", "an OSError", "a tuple"]
