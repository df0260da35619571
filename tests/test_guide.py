"""The guide's chapter on channels holds: every snippet runs and gives what the page says, every command works."""

import contextlib
import doctest
import re
from pathlib import Path

import pytest
import torch
from cli_toy import run

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
CHAPTER = GUIDE.read_text(encoding="utf-8").partition("## 2. ")[2].partition("\n## 3. ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", CHAPTER, flags=re.DOTALL)


def test_snippets_give_what_the_guide_says():
    torch.manual_seed(0)
    known: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for block in blocks("python"):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, known, "guide", str(GUIDE), 0)
            runner.run(test, out=said.append, clear_globs=False)
            known = test.globs
        else:
            exec(compile(block, str(GUIDE), "exec"), known)
    assert runner.tries > 20
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_commands_of_the_guide_work(line, tmp_path):
    with contextlib.chdir(tmp_path):
        said = run(line.removeprefix("ecc "))
    assert (said.code, said.err) == (0, "")
    assert "groups prunable" in said.out


def test_pictures_of_the_guide_are_there():
    for name in re.findall(r"!\[.*?\]\((.*?)\)", CHAPTER):
        assert (GUIDE.parent / name).stat().st_size < 200_000
