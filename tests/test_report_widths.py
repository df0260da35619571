"""The page of a width graph: every group and tensor axis is on it, it runs one known script, and names stay text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.network.graph import Block, WidthGraph
from ecc.network.tracing import trace
from ecc.network.values import owner
from ecc.report.tracks import Row, lay_out, macs_shares
from ecc.report.widths import render_widths, write_widths
from ecc.zoo.loading import load_model

HOSTILE = "\"><script>alert(1)<∕script><img src=x onerror=alert(2)>{{7*7}}' --> ]]>"


def traced(name: str, *shape: int) -> WidthGraph:
    """The graph of a network of the zoo, for a small input where that is legal."""
    loaded = load_model(f"zoo:{name}")
    return trace(loaded.module, torch.zeros(shape) if shape else loaded.example(), check=False)


@pytest.fixture(scope="module")
def resnet() -> WidthGraph:
    return traced("resnet50", 1, 3, 32, 32)


@pytest.fixture(scope="module")
def dense() -> WidthGraph:
    return traced("densenet121", 1, 3, 32, 32)


@pytest.fixture(scope="module")
def vit() -> WidthGraph:
    return traced("vit-small")


def removable(graph: WidthGraph) -> WidthGraph:
    """The graph with a removable block and one that stays."""
    inside = tuple(layer.name for layer in graph.layers if layer.name.startswith("layer1.1."))
    first = tuple(layer.name for layer in graph.layers if layer.name.startswith("layer1.0."))
    blocks = (
        Block("layer1.0", False, "its shortcut changes the width", first, (), 5, 6),
        Block("layer1.1", True, "", inside, ("layer1.1.conv1",), 7_000_000, 8),
    )
    return replace(graph, blocks=blocks)


class Page(HTMLParser):
    """Tags with their attributes, the text, and the cells of every table row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[tuple[dict[str, str], list[str]]] = []
        self.open: list[tuple[dict[str, str], list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag == "tr":
            self.open.append((attributes, []))
        elif tag == "td":
            self.open[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append(self.open.pop())

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1][1]:
            self.open[-1][1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, *classes: str) -> list[dict[str, str]]:
        """Attributes of the elements that have all of these classes."""
        return [found for _, found in self.tags if set(classes) <= set(found.get("class", "").split())]

    def rows_of(self, kind: str) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in cells] for found, cells in self.rows if found.get("class") == kind]


@pytest.mark.parametrize("name", ["resnet", "dense", "vit"])
def test_every_group_and_every_slot_is_on_the_page(name: str, request: pytest.FixtureRequest) -> None:
    graph: WidthGraph = request.getfixturevalue(name)
    page = Page(render_widths(graph, name))
    listed = page.rows_of("group")
    assert [cells[:3] for cells in listed] == [[g.name, str(g.width), str(g.step)] for g in graph.groups]
    for cells, group in zip(listed, graph.groups, strict=True):
        assert cells[3].startswith("yes" if group.prunable else f"no: {group.reason}")
    said = [(layer, tensor, role) for layer, tensors, role, _ in page.rows_of("slot") for tensor in tensors.split()]
    held = [
        (owner(slot.tensor), f"{slot.tensor.removeprefix(owner(slot.tensor) + '.')}[{slot.axis}]", f"{slot.role}s")
        for group in graph.groups
        for slot in group.slots
    ]
    assert sorted(said) == sorted(held)


@pytest.mark.parametrize("name", ["resnet", "dense", "vit"])
def test_each_group_is_one_line_with_a_mark_at_every_layer_that_it_ties(
    name: str, request: pytest.FixtureRequest
) -> None:
    graph: WidthGraph = request.getfixturevalue(name)
    tracks = lay_out(graph)
    names = [{row.name, *row.norms} for row in tracks.rows]
    assert sum(map(len, names)) == len(set().union(*names))
    for i, (group, line) in enumerate(zip(graph.groups, tracks.lines, strict=True)):
        marked = set().union(*(names[r] for r, row in enumerate(tracks.rows) if i in row.marks))
        assert set(group.layers) <= marked
        assert i in tracks.rows[line.first].marks
        assert i in tracks.rows[line.last].marks
    for one, other in combinations(tracks.lines, 2):
        assert one.lane != other.lane or one.last < other.first or other.last < one.first
    page = Page(render_widths(graph, name))
    stops = [found["data-g"] for found in page.of("stop")]
    assert sorted(stops) == sorted(str(i) for row in tracks.rows for i in row.marks)


def test_lanes_are_few_and_residual_streams_have_the_left_ones(resnet: WidthGraph, dense: WidthGraph) -> None:
    lines = lay_out(resnet).lines
    streams = [group.name for group, line in zip(resnet.groups, lines, strict=True) if line.stream]
    assert streams == [f"layer{i}.0.conv3" for i in (1, 2, 3, 4)]
    assert {line.lane for line in lines if line.stream} == {0, 1}
    assert max(line.lane for line in lines) < 5
    assert max(line.lane for line in lay_out(dense).lines) < 27  # 24 layers of a block, each read by all that follow


def test_rows_run_in_order_of_execution_under_their_modules(resnet: WidthGraph) -> None:
    tracks = lay_out(resnet)
    convolutions = [layer.name for layer in resnet.layers if layer.kind != "norm"]
    assert [row.name for row in tracks.rows] == convolutions
    assert [section.name for section in tracks.sections] == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert [section.start for section in tracks.sections[1:]] == [section.stop for section in tracks.sections[:-1]]
    assert sum(row.macs for row in tracks.rows) == resnet.macs()


def test_norms_stand_beside_the_layer_that_they_belong_to(
    resnet: WidthGraph, dense: WidthGraph, vit: WidthGraph
) -> None:
    def norms(graph: WidthGraph, name: str) -> tuple[str, ...]:
        return next(row.norms for row in lay_out(graph).rows if row.name == name)

    assert norms(resnet, "layer1.0.conv2") == ("layer1.0.bn2",)
    block = "features.denseblock1.denselayer2"
    assert norms(dense, f"{block}.conv1") == (f"{block}.norm1", f"{block}.norm2")
    assert norms(dense, f"{block}.conv2") == ()
    assert norms(vit, "blocks.0.mlp.fc1") == ("blocks.0.norm2",)


def test_marks_tell_who_makes_and_who_takes() -> None:
    def mark(rows: tuple[Row, ...], name: str) -> set[str]:
        return {mark for row in rows if row.name == name for mark in row.marks.values()}

    recurrent = lay_out(traced("lstm-acoustic")).rows
    assert [row.name for row in recurrent] == ["layers.0", "layers.1", "head"]
    assert mark(recurrent, "layers.0") == {"both"}
    mobile = lay_out(traced("mobilenet-v1", 1, 3, 32, 32))
    depthwise = [row for row in mobile.rows if row.kinds == {"depthwise"}]
    assert depthwise
    assert all(set(row.marks.values()) == {"pass"} for row in depthwise)


def test_learned_positions_that_no_layer_uses_alone_have_a_row(vit: WidthGraph) -> None:
    rows = {row.name: row for row in lay_out(vit).rows}
    assert rows["pos_embed"].marks == rows["cls_token"].marks == rows["patch_embed.proj"].marks == {0: "write"}


def test_share_of_the_macs_is_what_goes_with_a_group(resnet: WidthGraph) -> None:
    shares = macs_shares(resnet)
    assert set(shares) == {group.name for group in resnet.prunable}
    for group in (resnet.prunable[0], resnet.prunable[3], resnet.prunable[-1]):
        half = (group.width // group.step // 2) * group.step
        left = 1 - resnet.macs({group.name: half}) / resnet.macs()
        assert left == pytest.approx(shares[group.name] * (1 - half / group.width), rel=1e-6)  # no layer has it twice


def test_blocks_are_brackets_and_a_table(resnet: WidthGraph) -> None:
    graph = removable(resnet)
    page = Page(render_widths(graph, "blocks"))
    assert len(page.of("bracket", "stays")) == 4
    assert len(page.of("bracket")) == 4 + 3 + 1  # and one in the legend
    assert "layer1.0: stays: its shortcut changes the width" in page.text
    assert "layer1.1: may be removed whole" in page.text
    assert [cells[:4] for cells in page.rows_of("block")] == [
        ["layer1.0", "no: its shortcut changes the width", "5 MAC", "6"],
        ["layer1.1", "yes", "7.00 MMAC", "8"],
    ]
    assert "removed" not in Page(render_widths(replace(graph, blocks=()), "no blocks")).text


def test_widths_stand_beside_the_dense_ones(resnet: WidthGraph) -> None:
    widths = {"conv1": 16, "layer1.0.conv1": 8}
    page = Page(render_widths(resnet, "half", widths))
    listed = {cells[0]: cells[1:3] for cells in page.rows_of("group")}
    assert listed["conv1"] == ["64", "16"]
    assert listed["layer1.0.conv1"] == ["64", "8"]
    assert listed["layer1.0.conv2"] == ["64", "64"]
    assert f"{resnet.params(widths):,} parameters" in page.text
    bare = Page(render_widths(resnet, "fewer", removed=["layer1.1"]))
    listed = {cells[0]: cells[1:3] for cells in bare.rows_of("group")}
    assert listed["layer1.1.conv1"] == ["64", "0"]
    assert listed["conv1"] == ["64", "64"]
    assert "and without layer1.1" in bare.text
    assert f"{resnet.params(removed=['layer1.1']):,} parameters" in bare.text
    with pytest.raises(InputError, match="width 65 of group 'conv1' is not admissible"):
        render_widths(resnet, "too wide", {"conv1": 65})


def test_notes_and_renormalised_groups_are_named(resnet: WidthGraph) -> None:
    page = Page(render_widths(replace(resnet, notes=("the odd one",), renormalised=("bn1.weight",)), "notes"))
    assert "the odd one" in page.text
    (first, second, *_) = page.rows_of("group")
    assert "new statistics" in first[3]
    assert "new statistics" not in second[3]


def sealed(html: str) -> Page:
    """The page, once it is sure that it fetches nothing and runs nothing but its own script."""
    page = Page(html)
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert [tag for tag, _ in page.tags].count("script") == len(scripts) == 1
    (policy,) = (found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a", "use"} & {tag for tag, _ in page.tags}
    for _, found in page.tags:
        assert not {"src", "href", "xlink:href", "action", "srcdoc"} & set(found)
        assert not any(name.startswith("on") for name in found)
    assert not re.search(r"url\(|@import|@font-face|innerHTML|fetch\(|https?://", html)
    return page


def test_the_page_fetches_nothing_and_runs_its_own_script_only(resnet: WidthGraph) -> None:
    page = sealed(render_widths(resnet, "resnet50"))
    assert "37 of 38 groups prunable" in page.text
    assert render_widths(resnet, "resnet50") == render_widths(resnet, "resnet50")


def test_hostile_names_stay_text() -> None:
    class Net(nn.Module):
        def __init__(self, names: tuple[str, str, str]) -> None:
            super().__init__()
            self.names = names
            self.add_module(names[0], nn.Conv2d(3, 4, 1))
            self.add_module(names[1], nn.BatchNorm2d(4))
            self.add_module(names[2], nn.Conv2d(4, 5, 1))

        def forward(self, x: Tensor) -> Tensor:
            for name in self.names:
                x = self._modules[name](x)  # type: ignore[misc]
            return x

    def page(names: tuple[str, str, str], text: str) -> Page:
        graph = trace(Net(names), torch.zeros(1, 3, 4, 4))
        block = Block(text, False, text, (graph.layers[0].name,), (), 1, 1)
        return sealed(render_widths(replace(graph, blocks=(block,), notes=(text,)), text))

    hostile, honest = page((HOSTILE, f"b{HOSTILE}", f"c{HOSTILE}"), HOSTILE), page(("a", "b", "c"), "name")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in honest.tags]
    assert [set(found) for _, found in hostile.tags] == [set(found) for _, found in honest.tags]
    assert hostile.text.count("<script>alert(1)<∕script>") >= 10
    assert "{{7*7}}" in hostile.text


def test_a_network_without_groups_has_a_page() -> None:
    page = sealed(render_widths(WidthGraph((), (), {}, ((1, 3),)), "nothing"))
    assert "no channels that layers share" in page.text
    assert not page.of("row")


@pytest.mark.parametrize("n", [300, 301], ids="{} layers".format)
def test_long_networks_start_folded(n: int) -> None:
    layers = tuple(Layer(f"{i // 10}.{i}", "linear", Side(), Side(), 1) for i in range(n))
    page = Page(render_widths(WidthGraph((), layers, {}, ((1, 4),)), "long"))
    sections = [found for tag, found in page.tags if tag == "details"]
    assert len(sections) == 30
    assert all(("open" in found) == (n == 300) for found in sections)


def test_the_page_is_written_whole_or_not_at_all(resnet: WidthGraph, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = write_widths(resnet, "resnet50", tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == render_widths(resnet, "resnet50")
    with pytest.raises(InputError, match="is a folder"):
        write_widths(resnet, "resnet50", tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_widths(resnet, "resnet50", path / "page.html")
    with pytest.raises(InputError, match=r"the folder '.*new' does not exist; make it, or write page.html elsewhere"):
        write_widths(resnet, "resnet50", tmp_path / "new" / "page.html")
    assert list(tmp_path.rglob("*")) == [path]
