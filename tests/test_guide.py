"""The guide holds: every snippet on channels and cost models runs and gives what the page says, every command works."""

import contextlib
import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_toy import run

from ecc.core.table import Provenance
from ecc.network.tracing import trace
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.store import Store
from ecc.profiler.tables import Visit
from ecc.zoo.loading import load_model

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
TEXT = GUIDE.read_text(encoding="utf-8")
CHANNELS = TEXT.partition("## 2. ")[2].partition("\n## 3. ")[0]
COSTS = TEXT.partition("## 4. ")[2].partition("\n## 5. ")[0]


def blocks(chapter: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", chapter, flags=re.DOTALL)


def commands(chapter: str) -> list[str]:
    return [line for block in blocks(chapter, "sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the profile of a simulated device whose convolutions work in tiles of 16 × 16 channels."""
    folder = tmp_path_factory.mktemp("guide")
    graph = trace(load_model("zoo:resnet20").module, torch.zeros(1, 3, 32, 32), check=False)
    space, generator = graph.space, np.random.default_rng(0)
    dense = np.array(space.dense)

    def seconds(widths):
        kept = dict(zip(space.names, (np.ceil(widths / 16) * 16 / dense).tolist(), strict=True))
        each = [layer.macs * layer.reads.fraction(kept) * layer.writes.fraction(kept) for layer in graph.layers]
        return 5e-4 + 1.5e-3 * sum(each) / graph.macs()

    where = Provenance("resnet20", "f" * 16, (1, 3, 32, 32), "a simulated device", "d" * 16)
    drawn = generator.integers(dense // 4, dense + 1, size=(60, len(dense)))
    drawn[0] = dense // 4
    with Store.open(folder / "resnet20.db") as store:
        begun = store.begin_run(where, space, graph.layers, protocol={}, seed=0, started=0.0)
        for number, widths in enumerate(drawn):
            noise = generator.normal(0, 0.01, (2, 9)) / 3
            pairs = Pairs(seconds(widths) * np.exp(noise[0]), seconds(dense) * np.exp(noise[1]), np.full(9, 1e-3), ())
            config = dict(zip(space.names, map(int, widths), strict=True))
            store.add(begun, Visit(config, 0, number, "latency", pairs, float(number), 0.1, Disturbance(0.1, 0.0, 0)))
    return folder


def tried(chapter: str, folder: Path) -> tuple[int, list[str]]:
    """How many lines of a chapter were tried, and what is wrong with them."""
    torch.manual_seed(0)
    known: dict[str, object] = {}
    exec("import ecc, torch", known)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    said: list[str] = []
    with contextlib.chdir(folder):
        for block in blocks(chapter, "python"):
            if ">>>" in block:
                test = doctest.DocTestParser().get_doctest(block, known, "guide", str(GUIDE), 0)
                runner.run(test, out=said.append, clear_globs=False)
                known = test.globs
            else:
                exec(compile(block, str(GUIDE), "exec"), known)
    return runner.tries, said if runner.failures else []


def test_snippets_on_channels_give_what_the_guide_says(tmp_path):
    lines, wrong = tried(CHANNELS, tmp_path)
    assert (lines > 20, wrong) == (True, []), "".join(wrong)


def test_snippets_on_costs_give_what_the_guide_says(folder):
    lines, wrong = tried(COSTS, folder)
    assert (lines > 8, wrong) == (True, []), "".join(wrong)
    assert (folder / "staircase.json").exists()


@pytest.mark.parametrize("line", commands(CHANNELS))
def test_commands_on_channels_work(line, tmp_path):
    with contextlib.chdir(tmp_path):
        said = run(line.removeprefix("ecc "))
    assert said.code == 0, said.err
    assert "groups prunable" in said.out


def test_commands_on_costs_work(folder):
    with contextlib.chdir(folder):
        for line in commands(COSTS):
            said = run(line.removeprefix("ecc "))
            assert said.code == 0, f"{line}: {said.err}"
            for written in re.findall(r"\S+\.(?:json|html)", line):
                assert Path(written).stat().st_size > 1000


def test_pictures_of_the_guide_are_there():
    for name in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (GUIDE.parent / name).stat().st_size < 200_000


def test_the_index_names_every_page():
    index = (GUIDE.parent / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w[\w-]*\.md)(?:#[\w-]+)?\)", index)) == {
        page.name for page in GUIDE.parent.glob("*.md") if page.name != "index.md"
    }
