import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from solver_toy import ResidualNet
from torch import nn

import ecc
from ecc.api.compressing import compress
from ecc.api.describing import Source
from ecc.api.keeping import load, verify
from ecc.api.recipe import Recipe
from ecc.core.budget import Budget
from ecc.core.errors import EccError, InputError, UnavailableError
from ecc.data.loading import load_data
from ecc.network.tracing import trace
from ecc.report.saving import save

DATA = load_data("digits")
INPUTS = DATA.example(4)


def shrunk(model):
    recipe = Recipe(method="magnitude", epochs=2)
    return compress(model, trace(model, INPUTS), DATA.task(), [Budget("macs", 0.5)], [], INPUTS, recipe=recipe)


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    return shrunk(ResidualNet().eval())


@pytest.fixture
def saved(result, tmp_path):
    """An artefact that says how its network is made, and on what data it is scored."""
    source = Source("solver_toy:ResidualNet", {}, "none", "digits", "residual")
    return save(result, tmp_path / "half", source=source).path


def rewritten(folder, change):
    """The manifest with some values replaced."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def test_loaded_network_computes_what_was_saved(result, saved):
    loaded = load(saved)
    torch.testing.assert_close(loaded.model(INPUTS), result.model(INPUTS), rtol=0, atol=0)
    assert not loaded.model.training
    assert dict(loaded.widths) == dict(result.widths)
    assert loaded.manifest.accuracy == result.accuracy
    assert (loaded.inputs.shape, loaded.inputs.dtype) == (INPUTS.shape, INPUTS.dtype)


def test_artefact_holds_its_page_pictures_and_history(result, saved):
    names = {path.name for path in saved.iterdir()}
    assert {"manifest.json", "weights.safetensors", "history.csv", "report.html"} <= names
    artefact = load(saved).artefact
    assert artefact.history()["phase"].tolist() == result.history["phase"].tolist()


def test_class_without_arguments_is_found_by_itself(result, tmp_path):
    loaded = ecc.load(ecc.save(result, tmp_path / "half").path)
    assert loaded.manifest.model == "solver_toy:ResidualNet"


def test_network_given_as_an_object_needs_one_of_its_architecture(tmp_path):
    torch.manual_seed(0)
    special = shrunk(ResidualNet(6, 6, 10).eval())
    folder = save(special, tmp_path / "half").path
    with pytest.raises(InputError, match=r"ecc\.load\(path, model=\.\.\.\)"):
        load(folder)
    fresh = ResidualNet(6, 6, 10)
    weights = fresh.stem.weight.clone()
    loaded = load(folder, model=fresh)
    torch.testing.assert_close(loaded.model(INPUTS), special.model(INPUTS), rtol=0, atol=0)
    assert torch.equal(fresh.stem.weight, weights)
    with pytest.raises(InputError, match="another network"):
        load(folder, model=ResidualNet(8, 8, 12))


def test_verification_counts_and_scores_anew(result, saved):
    found, why = verify(load(saved))
    assert (found.met, why) == (True, "")
    assert found.accuracy == pytest.approx(
        (result.model(torch.cat([x for x, _ in DATA.test])).argmax(1) == torch.cat([y for _, y in DATA.test]))
        .float()
        .mean()
        .item()
    )
    assert ecc.verify(saved).met is True


@pytest.mark.parametrize(
    ("data", "words"), [("", "does not name"), ("mnist", "--data-dir"), ("gone.py:data", "gone.py")]
)
def test_accuracy_that_cannot_be_computed_is_missing_with_the_reason(saved, data, words, monkeypatch):
    monkeypatch.delenv("ECC_DATA", raising=False)
    found, why = verify(load(rewritten(saved, {"data": data})))
    assert found.accuracy is None
    assert words in why
    assert found.met is True


def test_other_device_is_refused(saved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        verify(load(saved), device="cuda")
    moved = load(rewritten(saved, {"device": "Abacus", "device_fingerprint": "f" * 16}))
    with pytest.raises(UnavailableError, match="are for Abacus"):
        verify(moved, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "solver_toy:Nothing"},
        {"model": "zoo:lenet5"},
        {"model": "json:loads"},
        {"options": {"a": "4"}},
        {"options": {"a": "16"}},
        {"options": {"depth": "4"}},
        {"input_shapes": [[4, 3, 8, 8]]},
        {"input_shapes": [[1 << 40, 1, 1 << 20, 8]]},
        {"input_shapes": [[1 << 70, 1, 8, 8]]},
        {"input_dtypes": ["complex64"]},
        {"input_dtypes": ["int64"]},
        {"dense": {"nowhere": 8}},
    ],
)
def test_manifest_of_another_network_is_refused_with_one_sentence(saved, change):
    with pytest.raises(InputError) as caught:
        load(rewritten(saved, change))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(saved, tmp_path):
    other = save(shrunk(ResidualNet(8, 8, 4).eval()), tmp_path / "other").path
    shutil.copy(other / "weights.safetensors", saved / "weights.safetensors")
    files = json.loads((other / "manifest.json").read_text())["files"]
    mine = json.loads((saved / "manifest.json").read_text())["files"]
    rewritten(saved, {"files": mine | {"weights.safetensors": files["weights.safetensors"]}})
    with pytest.raises(InputError, match="do not fit"):
        load(saved)


def test_saving_where_something_else_lies_leaves_it_alone(result, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else"):
        save(result, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_network_of_several_inputs_is_kept(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x, y):
            return self.head((self.a(x) + self.b(y)).relu())

    torch.manual_seed(0)
    model, inputs = Two().eval(), (torch.randn(6, 3), torch.randn(6, 5))
    batches = [(inputs, torch.arange(6) % 2)]
    done = ecc.compress(
        model, batches, batches, budgets=["params<=60%"], method="uniform", epochs=2, example_inputs=inputs
    )
    folder = ecc.save(done, tmp_path / "two").path
    loaded = ecc.load(folder, model=Two())
    torch.testing.assert_close(loaded.model(*inputs), done.model(*inputs), rtol=0, atol=0)


class Choosing(nn.Module):
    """Its branch depends on values, so that it can be pruned where groups are declared only."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        y = self.outer(self.inner(x).relu())
        return y if y.sum() > 0 else -y


class Normed(nn.Module):
    """Its layer norm takes statistics over channels that go."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 16), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))))


def choosing():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Choosing(), nn.Linear(16, 10))


HIDDEN = {"writes": ["2.inner.weight:0", "2.inner.bias:0"], "reads": ["2.outer.weight:1"]}


@pytest.mark.parametrize(
    ("make", "options"),
    [(choosing, {"groups": {"hidden": HIDDEN}}), (Normed, {"renormalise": True})],
    ids=["declared groups", "renormalised"],
)
def test_a_result_of_a_graph_with_options_is_loaded_with_the_same_ones(make, options, tmp_path):
    torch.manual_seed(0)
    model = make().eval()
    recipe, budgets = Recipe(method="uniform", epochs=1), [Budget("params", 0.8)]
    done = compress(model, trace(model, INPUTS, **options), DATA.task(), budgets, [], INPUTS, recipe=recipe)
    assert min(done.widths.values()) < 16
    folder = save(done, tmp_path / "optional").path
    loaded = load(folder, model=make())
    assert loaded.graph.space == done.graph.space
    torch.testing.assert_close(loaded.model(INPUTS), done.model(INPUTS), rtol=0, atol=0)
    found, _ = verify(loaded, data="digits")
    assert found.met


@pytest.mark.parametrize(
    "groups", [7, {"hidden": 7}, {"hidden": {"writes": "all"}}, {"hidden": {"writes": ["no.weight:0"]}}], ids=str
)
def test_declared_groups_of_a_damaged_manifest_are_refused_with_one_sentence(saved, groups):
    with pytest.raises(InputError):
        load(rewritten(saved, {"groups": groups}))


def test_a_network_that_fails_the_check_is_not_written(result, tmp_path):
    group = result.graph.prunable[0]
    slots = tuple(replace(slot, indices=slot.indices[::-1]) if slot.role == "read" else slot for slot in group.slots)
    groups = tuple(replace(g, slots=slots) if g is group else g for g in result.graph.groups)
    wrong = replace(result, graph=replace(result.graph, groups=groups))
    with pytest.raises(EccError, match=f"differs from the masked one by .* once group '{group.name}' is pruned"):
        save(wrong, tmp_path / "wrong")
    assert not list(tmp_path.iterdir())


def test_a_network_that_was_changed_by_hand_is_not_written(result, tmp_path):
    class Doubled(ResidualNet):
        def forward(self, x):
            return 2 * super().forward(x)

    changed = copy.deepcopy(result.model)
    changed.__class__ = Doubled
    with pytest.raises(EccError, match=r"differs by .* from the one that would be loaded; save what compress returned"):
        save(replace(result, model=changed), tmp_path / "wrong")
    with pytest.raises(EccError, match="is not the dense one without the units that went"):
        save(replace(result, model=nn.Linear(2, 3)), tmp_path / "wrong")
    assert not list(tmp_path.iterdir())


def test_artefacts_without_a_slim_manifest_are_loaded(result, saved):
    (saved / "slim.json").unlink()
    files = json.loads((saved / "manifest.json").read_text())["files"]
    files.pop("slim.json")
    loaded = load(rewritten(saved, {"files": files}))
    torch.testing.assert_close(loaded.model(INPUTS), result.model(INPUTS), rtol=0, atol=0)


def test_artefacts_of_a_version_that_found_fewer_groups_are_loaded(result, saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    name = next(iter(manifest["dense"]))
    older = {key: {g: v for g, v in manifest[key].items() if g != name} for key in ("dense", "widths", "kept")}
    loaded = load(rewritten(saved, {"fingerprint": "0" * 16, **older}))
    torch.testing.assert_close(loaded.model(INPUTS), result.model(INPUTS), rtol=0, atol=0)
    with pytest.raises(InputError, match="another network"):
        load(rewritten(saved, {key: manifest[key] for key in older}))
