"""Help: fits the terminal, names stay whole, and examples can be pasted into a shell."""

import argparse
import shlex
from importlib import import_module

import pytest

from ecc.cli.help import HelpFormatter
from ecc.cli.main import COMMANDS, whole_parser

WIDTH = 80


@pytest.fixture(scope="module")
def helps():
    """The help of every command, and of ecc itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(WIDTH))
        parser = whole_parser()
        commands = next(action.choices for action in parser._actions if action.dest == "command")
        return {"": parser.format_help()} | {name: each.format_help() for name, each in commands.items()}


def test_every_command_is_on_one_line_of_the_overview(helps):
    lines = [line.split() for line in helps[""].splitlines()]
    for name, (_, summary) in COMMANDS.items():
        assert any(words[:2] == [name, summary.split()[0]] for words in lines), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_can_be_pasted(helps, name):
    (command,) = (each for each in import_module(COMMANDS[name][0]).COMMANDS if each.name == name)
    text = helps[name].rpartition("example:\n")[2]
    assert shlex.split(text.replace("\\\n", " ")) == shlex.split(command.example)


@pytest.mark.parametrize("name", ["compress", "stage", "completion"])
def test_names_are_not_cut(helps, name):
    assert not [line for line in helps[name].splitlines() if line.endswith(("-", "-\\"))]
    assert max(len(line) for line in helps[name].splitlines() if "{" not in line and " > ~" not in line) <= WIDTH


@pytest.mark.parametrize("name", ["compress", "stage"])
def test_settings_have_a_line_for_each_part(helps, name):
    part = {"compress": "admm: rho, ", "stage": "codebook: bits, "}[name]
    assert any(line.lstrip().startswith(part) for line in helps[name].splitlines())


def test_lines_that_begin_with_blanks_stay_lines():
    parser = argparse.ArgumentParser(
        prog="p", formatter_class=HelpFormatter, description="a b\n  kept: well-known, " + "word-s " * 20, epilog="c\nd"
    )
    lines = parser.format_help().splitlines()
    assert "a b" in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("  kept: well-known, "))
    assert lines[start + 1].startswith("      word-s")
