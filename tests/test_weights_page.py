"""docs/weights.md: its example gives what it says, its commands can be parsed, and it names every method."""

import doctest
import re
from pathlib import Path

import torch
from cli_toy import run

from ecc.api.weight_recipe import WEIGHT_METHODS

PAGE = Path(__file__).parents[1] / "docs" / "weights.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_example_gives_what_the_page_says():
    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(TEXT, {}, "weights", str(PAGE), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=said.append)
    assert (runner.tries > 10, runner.failures) == (True, 0), "".join(said)


def test_its_commands_have_options_that_exist():
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL):
        for line in block.splitlines():
            known = run(f"{' '.join(line.split()[1:2])} --help").out
            assert all(option in known for option in re.findall(r"--[a-z]+", line)), line


def test_the_page_names_every_method_and_no_other():
    table = TEXT.partition("## Methods")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(WEIGHT_METHODS)
