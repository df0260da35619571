"""ecc systolic: the fields of the interface, a page, and one sentence for each wrong input."""

import doctest
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cli_toy import NETWORK, run

from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.tracing import trace
from ecc.report.systolic import systolic_figure
from ecc.zoo.loading import load_model

NET = "net.py:small --input 1x1x8x8"
MORE = """

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.cube, self.head = nn.Conv3d(1, 2, 3), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.cube(x).flatten(1))


def plain():
    return nn.Sequential(nn.LayerNorm(8))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NETWORK + MORE)
    monkeypatch.chdir(tmp_path)


def pruned(path="pruned.safetensors"):
    model = load_model("net.py:small").module
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) < 0.25
    safetensors.torch.save_file(model.state_dict(), path)
    return model


def test_the_fields_of_the_interface_are_there():
    said = run(f"systolic {NET} --json")
    assert said.code == 0
    value = said.value
    assert value["unit"] == "e_RF"
    assert [layer["name"] for layer in value["layers"]] == ["stem", "inner", "outer", "head"]
    parts = ("mac", "weights", "inputs", "outputs")
    assert value["total"] == pytest.approx(sum(layer[part] for layer in value["layers"] for part in parts))
    assert value["relaxed_total"] >= value["total"]
    assert 0 < value["floor"] < 1
    assert value["layers"][0]["nonzeros"] == 9 * 16
    assert set(value["cycles"]) == {"os", "ws", "is"}
    assert value["cycles"]["os"] == sum(layer["cycles"]["os"] for layer in value["layers"])
    assert value["seconds"] is None
    assert value["left_out"] == []


def test_pruned_weights_take_less_and_their_index_something():
    model = pruned()
    dense, sparse, indexed, bitmap = (
        run(f"systolic {NET} --json", options).value
        for options in (
            "",
            "--weights pruned.safetensors",
            "--weights pruned.safetensors --index-bits 4",
            "--weights pruned.safetensors --index-bits bitmap",
        )
    )
    expected = systolic_energy(model, trace(model, torch.zeros(1, 1, 8, 8)))
    assert sparse["total"] == expected.total < dense["total"]
    assert sparse["nonzeros"] == expected.nonzeros
    assert sparse["relaxed_dense"] == dense["relaxed_dense"]
    assert sparse["total"] < indexed["total"] <= indexed["relaxed_total"]
    assert sparse["total"] < bitmap["total"] <= bitmap["relaxed_total"]


def test_an_array_of_ones_own_says_joules_and_seconds_where_it_knows_them():
    with open("own.toml", "w") as file:
        file.write('unit = "J"\ne_rf = 1e-13\ne_mac = 3e-13\ne_cache = 6e-13\ne_dram = 2e-11\nfrequency_hz = 1e9\n')
    own, eyeriss = (run(f"systolic {NET} --json --preset", name).value for name in ("own.toml", "eyeriss"))
    assert own["unit"] == "J"
    assert own["total"] == pytest.approx(1e-13 * eyeriss["total"])
    assert own["seconds"]["ws"] == pytest.approx(eyeriss["cycles"]["ws"] / 1e9)
    said = run(f"systolic {NET} --preset own.toml").out
    assert " nJ; relaxed" in said
    assert "e_RF" not in said
    assert " J" not in run(f"systolic {NET}").out


def test_what_is_not_counted_is_named():
    said = run("systolic net.py:Odd --input 2x1x4x4x4")
    assert said.code == 0
    assert (
        "not counted: conv (864 MAC), it is of an unknown kind, or in a module that cannot be followed inside: cube"
        in said.out
    )
    (cube,) = run("systolic net.py:Odd --input 2x1x4x4x4 --json").value["left_out"]
    assert (cube["name"], cube["macs"]) == ("cube", 864)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_shows_every_layer_and_takes_names_as_text(tmp_path):
    name = "<script>alert(1)&"
    with open("own.toml", "w") as file:
        file.write(f'name = "{name}"\n')
    said = run(f"systolic {NET} --preset own.toml --html page.html --json")
    assert said.value["page"] == "page.html"
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in page.tags
    assert "svg" in page.tags
    assert f"small on {name}" in page.words
    assert {"stem", "inner", "outer", "head"} <= set(page.words)
    assert page.words.count("16 MAC") == 0
    assert any("are no joules" in words for words in page.words)


def test_a_chart_has_a_bar_for_each_part_of_each_layer():
    model = load_model("net.py:small").module
    energy = systolic_energy(model, trace(model, torch.zeros(1, 1, 8, 8)))
    (axes,) = systolic_figure(energy).axes
    factor = sum(bar.get_width() for bar in axes.patches) / energy.total
    assert len(axes.patches) == 4 * len(energy.layers)
    for bars, part in zip(axes.containers, ("mac", "weights", "inputs", "outputs"), strict=True):
        widths = [bar.get_width() / factor for bar in bars]
        assert widths == pytest.approx([getattr(each, part) for each in energy.layers])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("net.py:plain --input 2x8", "the network has no convolution and no linear layer"),
        (
            f"{NET} --preset tiny.toml",
            "layer stem: 3 rows of its input are 24 elements, and the input cache of tiny holds 20",
        ),
        (f"{NET} --preset eyris", "'eyris' is no systolic array; did you mean eyeriss?"),
        (f"{NET} --preset none.toml", "systolic array 'none.toml' cannot be read"),
        (f"{NET} --weights other.safetensors", "are of another network"),
        (f"{NET} --weights cut.safetensors", "cannot be read"),
        (f"{NET} --weights long.safetensors", "cannot be read"),
        (f"{NET} --weights none.safetensors", "there is no such file"),
        (f"{NET} --index-bits many", "index bits 'many' are neither a number from 0 to 64"),
        (f"{NET} --html missing/page.html", "the folder 'missing' does not exist"),
        (f"{NET} --batch 0", "--batch must be at least 1, got 0"),
        ("net.py:small", "the input shape of small is not known"),
    ],
)
def test_wrong_input_is_one_sentence(line, sentence, tmp_path):
    (tmp_path / "tiny.toml").write_text("input_cache = 20\n")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, "other.safetensors")
    pruned("whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "long.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
    said = run("systolic", line)
    assert said.code == 2
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "missing").exists()


def test_help_shows_an_example_that_works():
    said = run("systolic --help")
    assert said.code == 0
    assert "example: ecc systolic zoo:alexnet" in " ".join(said.out.split())
    assert json.dumps(run("systolic zoo:lenet5 --json").value["total"])


# -- the page docs/systolic.md

DOCS = (Path(__file__).parents[1] / "docs" / "systolic.md").read_text(encoding="utf-8")


def test_the_documented_values_are_those_that_come_out():
    test = doctest.DocTestParser().get_doctest(DOCS, {}, "systolic", "systolic.md", 0)
    said = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=said.append)
    assert runner.tries > 5
    assert runner.failures == 0, "".join(said)


def test_the_documented_commands_and_array_work(tmp_path):
    (line,) = re.findall(r"ecc (systolic zoo:lenet5.*)\n", DOCS)
    assert run(line).value["array"]["name"] == "tpu-v1"
    (own,) = re.findall(r"```toml\n(.*?)```", DOCS, flags=re.DOTALL)
    (tmp_path / "own.toml").write_text(own)
    assert run("systolic zoo:lenet5 --preset own.toml --json").value["unit"] == "J"
