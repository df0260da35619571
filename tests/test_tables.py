"""Tables: folded to a width, styled on a terminal only, plain and whole in pipes, harmless whatever names hold."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.cli.tables import Look, _columns, table, toned

HEADER = ["group", "width", "layers", "prunable"]
ROWS = [
    ["layer1.0.conv1", 64, "layer1.0.conv1, layer1.0.bn1", "yes"],
    ["fc", 1000, "fc", "no: it is the network's output, and what comes out must stay as it is"],
]
PIPE = Look()
TERMINAL = Look(width=100, styled=True)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_a_pipe_has_a_line_per_row_and_numbers_to_the_right():
    text = table(["name", "n"], [["a", 5], ["bcd", 1000]], look=PIPE)
    assert text == "name     n\n----  ----\na        5\nbcd   1000"


def test_a_table_without_rows_is_its_header():
    assert table(["name", "n"], [], look=PIPE) == "name  n\n----  -"
    assert ESCAPE.sub("", table(["name", "n"], [], look=TERMINAL)).splitlines()[0].split() == ["name", "n"]


def test_a_terminal_has_bold_headers_and_the_same_words():
    wide = Look(width=200, styled=True)
    styled = table(HEADER, ROWS, look=wide)
    assert "\x1b[1m" in styled
    assert ESCAPE.sub("", styled).split() == _words_of_rich(table(HEADER, ROWS, look=PIPE), styled)


def _words_of_rich(plain, styled):
    """The words of the plain table, with the rules as long as rich draws them."""
    rules = iter(word for word in ESCAPE.sub("", styled).split() if set(word) == {"-"})
    return [next(rules) if set(word) == {"-"} else word for word in plain.split()]


def test_tones_are_colours_on_a_terminal_and_words_elsewhere():
    rows = [[toned("problem", "bad"), "x"]]
    assert "\x1b[1;31mproblem" in table(["", "what"], rows, look=Look(80, styled=True))
    assert table(["", "what"], rows, look=PIPE).splitlines()[-1] == "problem  x"


@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_no_line_is_longer_than_the_width_and_nothing_is_lost(width, styled):
    text = ESCAPE.sub("", table(HEADER, ROWS, look=Look(width, styled=styled)))
    assert max(map(len, text.splitlines())) <= width
    flat = "".join(text.split())
    for row in ROWS:
        for cell in row:
            assert all(word in flat for word in str(cell).split())


def test_a_table_that_cannot_be_folded_becomes_blocks():
    text = table(HEADER, ROWS, look=Look(30))
    assert text.startswith("group     layer1.0.conv1\nwidth     64\n")
    assert "\n\ngroup     fc\n" in text


def test_an_unstyled_terminal_that_is_wide_enough_shows_what_a_pipe_gets():
    assert table(HEADER, ROWS, look=Look(200)) == table(HEADER, ROWS, look=PIPE)


@pytest.mark.parametrize(
    ("terminal", "environment", "look"),
    [
        (False, {}, Look()),
        (False, {"COLUMNS": "60"}, Look(60)),
        (False, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}, Look()),
        (True, {"COLUMNS": "60", "TERM": "xterm"}, Look(60, styled=True)),
        (True, {"COLUMNS": "60", "NO_COLOR": "1"}, Look(60)),
        (True, {"COLUMNS": "60", "NO_COLOR": ""}, Look(60, styled=True)),
        (True, {"COLUMNS": "60", "TERM": "dumb"}, Look(60)),
        (False, {"COLUMNS": "0"}, Look()),
        (False, {"COLUMNS": "wide"}, Look()),
    ],
)
def test_the_look_follows_the_stream_and_the_environment(terminal, environment, look):
    assert Look.of(Stream(terminal), environment) == look


def test_columns_are_those_that_a_terminal_shows():
    assert _columns("abc") == 3
    assert _columns("層") == 2
    assert _columns("e\u0301") == 1
    lines = table(["a", "b"], [["層", "x"], ["ab", "y"]], look=PIPE).splitlines()
    assert [line.rstrip()[-1] for line in lines[2:]] == ["x", "y"]


def test_names_cannot_move_the_cursor_or_colour_the_terminal():
    evil = "\x1b[2Jnet\r\nfc\x9b31m[bold red]x[/]"
    for look in (PIPE, Look(40), Look(200, styled=True)):
        text = table(["name"], [[evil]], look=look)
        assert set(ESCAPE.findall(text)) <= {"\x1b[1m", "\x1b[0m"}
        assert "\r" not in text
        assert "[boldred]x[/]" in "".join(text.split())


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=4),
    st.integers(8, 120),
    st.booleans(),
)
def test_any_table_is_drawn(rows, width, styled):
    text = table(["a", "bb", "ccc"], rows, look=Look(width, styled=styled))
    assert "\x1b" not in ESCAPE.sub("", text)
