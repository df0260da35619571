import json

import pytest
import torch
from solver_toy import ResidualNet

import ecc
from ecc.api.compressing import compress
from ecc.api.fronts import AXES, front_of
from ecc.api.recipe import Recipe
from ecc.artefact import read
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.data.loading import load_data
from ecc.network.tracing import trace
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


def test_measurements_of_two_devices_are_not_mixed_but_counts_are(folders, tmp_path):
    check = BudgetCheck("latency", 1e-3, 2e-3, 9e-4, 9e-4, 8e-4, 9.5e-4, True, 0.99, relative=True)
    measured = {"budgets": [check.to_json()]}
    here = copied(folders[0], tmp_path / "here", measured)
    moved = copied(folders[1], tmp_path / "moved", measured | {"device": "Abacus", "device_fingerprint": "f" * 16})
    with pytest.raises(InputError, match="different devices"):
        front_of([here, moved], x="latency")
    with pytest.raises(InputError, match="has no measured latency"):
        front_of([here, folders[1]], x="latency")
    assert len(front_of([here, moved], x="macs").points) == 3


def test_page_and_picture_are_written_side_by_side_and_again(folders, tmp_path):
    front = front_of(folders, x="macs")
    with pytest.raises(InputError, match=r"the folder .* does not exist; make it"):
        write_front(front, tmp_path / "deep" / "front.html")
    (tmp_path / "deep").mkdir()
    page, picture = write_front(front, tmp_path / "deep" / "front.html")
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert picture.parent == page.parent == tmp_path / "deep"
    assert write_front(front, page) == (page, picture)
    assert picture.read_bytes() == first
    assert sorted(path.name for path in page.parent.iterdir()) == ["front-front.png", "front.html"]


@pytest.mark.parametrize("place", [".", "file/front.html"])
def test_place_that_is_no_file_is_refused(folders, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder|cannot be written"):
        write_front(front_of(folders, x="macs"), tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
