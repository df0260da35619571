import base64
import hashlib
import io
import json
import os
import re
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from cli_toy import run
from solver_toy import ResidualNet

import ecc
from ecc.api.compressing import compress
from ecc.api.fronts import AXES, find_artefacts, front_of
from ecc.api.recipe import Recipe
from ecc.artefact import read
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.data.loading import load_data
from ecc.fronts import Front, Fronts, Point
from ecc.network.tracing import trace
from ecc.report.front_page import render_fronts
from ecc.report.front_table import front_csv
from ecc.report.saving import save, write_front


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Artefacts of two budgets and two methods of one network."""
    torch.manual_seed(0)
    data = load_data("digits")
    model, inputs, place = ResidualNet().eval(), data.example(2), tmp_path_factory.mktemp("fronts")
    graph, made = trace(model, inputs), []
    for method, limit in (("uniform", 0.4), ("uniform", 0.7), ("magnitude", 0.5)):
        recipe = Recipe(method=method, epochs=2, seed=5)
        result = compress(model, graph, data.task(), [Budget("macs", limit)], [], inputs, recipe=recipe)
        made.append(save(result, place / f"{method}-{limit}").path)
    return made


def copied(folder, target, change):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | change))
    return target


@pytest.mark.parametrize("axis", ["macs", "params"])
def test_points_are_what_the_artefacts_say_and_dense_is_there_once(folders, axis):
    front = front_of(folders, x=axis)
    manifests = [read(folder).manifest for folder in folders]
    assert [point.method for point in front.points] == ["dense", "uniform", "uniform", "magnitude"]
    assert [point.x for point in front.points[1:]] == [manifest.counts[axis] for manifest in manifests]
    assert front.points[0].x == manifests[0].counts[f"{axis}_dense"]
    assert [point.accuracy for point in front.points[1:]] == [manifest.accuracy for manifest in manifests]
    assert {point.seed for point in front.points[1:]} == {5}


def test_bytes_are_those_of_the_weights_on_disk(folders):
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in folders]
    dense, *points = front_of(folders, x="bytes").points
    assert [point.x for point in points] == sizes
    assert (dense.method, dense.x) == ("dense", 4 * read(folders[0]).manifest.counts["params_dense"])


def test_order_of_the_artefacts_does_not_change_the_hypervolumes(folders):
    assert front_of(folders, x="macs").hypervolume == front_of(folders[::-1], x="macs").hypervolume
    assert ecc.front(folders, x="macs").hypervolume == front_of(folders, x="macs").hypervolume


@pytest.mark.parametrize("axis", ["latency", "energy"])
def test_axis_that_was_not_measured_is_refused(folders, axis):
    with pytest.raises(InputError, match=rf"no measured {axis} \(measured: macs\)"):
        front_of(folders, x=axis)


def test_unknown_axis_and_missing_folder_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match=", ".join(AXES)):
        front_of(folders, x="beauty")
    with pytest.raises(InputError, match="is not a folder"):
        front_of([*folders, tmp_path / "nowhere"], x="macs")


def test_artefact_without_accuracy_is_refused(folders, tmp_path):
    blind = copied(folders[0], tmp_path / "blind", {"accuracy": None})
    with pytest.raises(InputError, match="has no accuracy"):
        front_of([blind], x="macs")


def measured(latency, dense=2e-3, **changes):
    """Changes of a manifest: a latency of that value, on a device."""
    check = BudgetCheck(
        "latency", dense / 2, dense, latency, latency, 0.9 * latency, 1.1 * latency, True, 0.99, relative=True
    )
    return {"budgets": [check.to_json()], "device": "Abacus", "device_fingerprint": "f" * 16, **changes}


def test_devices_have_axes_of_their_own_and_counts_are_common(folders, tmp_path):
    here = copied(folders[0], tmp_path / "here", measured(9e-4))
    same = copied(folders[2], tmp_path / "same", measured(8e-4))
    moved = copied(folders[1], tmp_path / "moved", measured(2e-2, 4e-2, device="Slide rule", device_fingerprint="0"))
    first, second = front_of([here, moved, same], x="latency")
    assert [(point.method, point.x) for point in first.points] == [
        ("dense", 2e-3),
        ("uniform", 9e-4),
        ("magnitude", 8e-4),
    ]
    assert [(point.method, point.x) for point in second.points] == [("dense", 4e-2), ("uniform", 2e-2)]
    assert (first.place["device"], second.place["device"]) == ("Abacus", "Slide rule")
    (counted,) = front_of([here, moved, same], x="macs")
    assert [point.method for point in counted.points] == [
        "dense",
        "uniform (for Abacus)",
        "uniform (for Slide rule)",
        "magnitude",
    ]
    with pytest.raises(InputError, match="has no measured latency"):
        front_of([here, folders[1]], x="latency")


def test_what_was_measured_is_placed_by_its_ratio_to_the_dense_network(folders, tmp_path):
    calm = copied(folders[0], tmp_path / "calm", measured(1e-3, 2e-3))
    busy = copied(folders[1], tmp_path / "busy", measured(2e-3, 4e-3))
    (front,) = front_of([calm, busy])
    assert [point.x for point in front.points] == pytest.approx([3e-3, 1.5e-3, 1.5e-3])
    assert front.points[1].x_high == pytest.approx(1.65e-3)


@pytest.mark.parametrize("fact", ["data", "network", "fingerprint"])
def test_other_data_and_networks_have_axes_of_their_own(folders, tmp_path, fact):
    other = copied(folders[1], tmp_path / "other", {fact: "else"})
    fronts = front_of([folders[0], other], x="macs")
    assert [len(front.points) for front in fronts] == [2, 2]


def test_settings_that_differ_name_methods_and_those_of_stages_name_budgets(folders, tmp_path):
    epochs = json.loads((folders[0] / "manifest.json").read_text())["settings"]
    longer = copied(folders[0], tmp_path / "longer", {"settings": epochs | {"epochs": 9, "seed": 1}, "seed": 1})
    (front,) = front_of([*folders, longer], x="macs")
    assert list(front.methods) == ["uniform (epochs 2)", "magnitude", "uniform (epochs 9)"]
    stage = {"name": "codebook", "bytes": 9, "accuracy": 0.5, "seconds": 1.0, "choices": {}}
    packed = [
        copied(folders[0], tmp_path / f"{bits}", {"stages": [{**stage, "settings": {"bits": bits, "seed": bits}}]})
        for bits in (3, 5)
    ]
    (front,) = front_of(packed, x="bytes")
    assert list(front.methods) == ["uniform + codebook"]
    assert [point.budget for point in front.points] == [
        "no limit",
        "macs ≤ 0.4 of dense and codebook.bits 3",
        "macs ≤ 0.4 of dense and codebook.bits 5",
    ]


def test_seeds_of_a_budget_are_one_level_and_each_start_is_a_dense_point(folders, tmp_path):
    again = copied(folders[0], tmp_path / "again", {"seed": 6, "weights": "fresh, seed 6", "accuracy": 0.5})
    (front,) = front_of([folders[0], again], x="macs")
    assert [(level.method, len(level.points)) for level in front.levels] == [("uniform", 2), ("dense", 2)]
    assert [point.seed for point in front.points] == [5, 6, 5, 6]


def test_folder_of_artefacts_is_searched_and_what_cannot_be_placed_is_told(folders, tmp_path):
    sweep = tmp_path / "sweep"
    (sweep / "jobs" / ".work").mkdir(parents=True)
    copied(folders[0], sweep / "jobs" / "one", {})
    copied(folders[1], sweep / "jobs" / "two", {})
    copied(folders[2], sweep / "jobs" / "three", {"accuracy": None})
    copied(folders[2], sweep / "jobs" / ".work" / "hidden", {})
    (sweep / "jobs" / "failed").mkdir()
    (sweep / "jobs" / "broken").mkdir()
    (sweep / "jobs" / "broken" / "manifest.json").write_text("{")
    (sweep / "again").symlink_to(sweep / "jobs")
    assert [path.name for path in find_artefacts(sweep)] == ["broken", "one", "three", "two"]
    fronts = front_of([sweep, sweep / "jobs" / "one", folders[2]], x="macs")
    assert [point.method for point in fronts.points] == ["dense", "uniform", "uniform", "magnitude"]
    assert [(Path(one.folder).name, "no accuracy" in one.reason) for one in fronts.left_out] == [
        ("broken", False),
        ("three", True),
    ]
    with pytest.raises(InputError, match="has no accuracy"):
        front_of([sweep, sweep / "jobs" / "three"], x="macs")
    with pytest.raises(InputError, match=r"none of 4 artefacts can be placed: .*JSON"):
        front_of([sweep], x="latency")
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        front_of([sweep / "jobs" / "failed"])


HOSTILE = '=1+1;"><script>alert(1)</script>,"x'


def test_hostile_names_break_neither_page_nor_table(folders, tmp_path):
    evil = copied(folders[0], tmp_path / '<b>,\n"evil', {"method": HOSTILE, "network": HOSTILE, "data": HOSTILE})
    os.rename(evil, os.fsencode(tmp_path) + b'/<i>\xff,\n"')
    fronts = front_of([tmp_path], x="macs")
    written = write_front(fronts, tmp_path / "front.html")
    html = written.page.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<i>" not in html
    assert html.count("<script") == 2
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", html)
    rows = pd.read_csv(io.BytesIO(front_csv(fronts)))
    assert len(rows) == 2
    assert rows["method"][1].startswith("'=1+1;")
    assert rows["label"][1].startswith("<i>")
    json.dumps(fronts.to_json()).encode()


def test_the_axis_is_the_metric_of_the_first_budget_unless_it_is_given(folders, tmp_path):
    assert front_of(folders).x == "macs"
    assert front_of([copied(folders[0], tmp_path / "timed", measured(1e-3))]).x == "latency"
    assert front_of([copied(folders[0], tmp_path / "free", {"budgets": []})]).x == "macs"


def test_command_writes_page_figures_and_table(folders, tmp_path):
    said = run("front", folders[0].parent, f"--out {tmp_path / 'f.html'} --csv {tmp_path / 'f.csv'} --json")
    assert said.code == 0
    value = said.value
    assert {point["method"] for point in value["points"]} == {"dense", "uniform", "magnitude"}
    assert set(value["hypervolume"]) == {"dense", "uniform", "magnitude"}
    (pair,) = value["panels"][0]["comparisons"]
    assert pair["better"] is None
    assert "one seed tells nothing of the spread, so nothing is claimed" in pair["sentence"] or pair["reason"]
    for name in ("figure", "svg", "page", "csv"):
        assert Path(value[name]).stat().st_size > 100
    text = run("front", folders[0].parent, f"--out {tmp_path / 'f.html'}").out
    assert "No pair of methods can be told apart" in text
    (tmp_path / "f.csv").write_text("mine")
    assert run("front", folders[0], f"--out {tmp_path / 'f.html'} --csv {tmp_path / 'f.csv'}").code == 2
    assert (tmp_path / "f.csv").read_text() == "mine"


def test_table_holds_every_point(folders):
    fronts = front_of(folders, x="macs")
    rows = pd.read_csv(io.BytesIO(front_csv(fronts)))
    assert rows["x"].tolist() == [point.x for point in fronts.points]
    assert rows["dominated"].tolist() == list(fronts.panels[0].dominated)
    assert rows["network"].unique().tolist() == ["ResidualNet"]


def test_two_thousand_points_are_quick():
    points = [
        Point(f"m{i % 5}", 1 + (i * 37 % 2000) / 700, (i * 61 % 1000) / 1000, i // 5 % 10, budget=f"x ≤ {i // 50}")
        for i in range(2000)
    ]
    fronts = Fronts((Front(tuple(points), "latency", "s"),))
    begin = time.process_time()
    html = render_fronts(fronts)
    assert time.process_time() - begin < 10  # a second or so; no figure per point is drawn
    assert html.count("<circle") > 2000


def test_page_and_pictures_are_written_side_by_side_and_again(folders, tmp_path):
    front = front_of(folders, x="macs")
    with pytest.raises(InputError, match=r"the folder .* does not exist; make it"):
        write_front(front, tmp_path / "deep" / "front.html")
    (tmp_path / "deep").mkdir()
    written = write_front(front, tmp_path / "deep" / "front.html")
    first = written.picture.read_bytes(), written.drawing.read_bytes(), written.page.read_bytes()
    assert first[0].startswith(b"\x89PNG")
    assert first[1].startswith(b"<svg")
    assert write_front(front, written.page) == written
    assert (written.picture.read_bytes(), written.drawing.read_bytes(), written.page.read_bytes()) == first
    names = sorted(path.name for path in written.page.parent.iterdir())
    assert names == ["front.html", "front.png", "front.svg"]
    with pytest.raises(InputError, match=r"call it front\.html"):
        write_front(front, written.drawing)


@pytest.mark.parametrize("place", [".", "file/front.html"])
def test_place_that_is_no_file_is_refused(folders, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder|cannot be written"):
        write_front(front_of(folders, x="macs"), tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
