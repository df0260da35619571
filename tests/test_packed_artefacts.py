"""Packed artefacts: what is saved comes back bit for bit, and nothing that does not fit is taken."""

import hashlib
import json
import shutil

import pandas as pd
import pytest
import torch
from staging_toy import INPUTS, digits, small, trained
from torch import nn

import ecc
from ecc.api.describing import Source
from ecc.api.fronts import front_of
from ecc.api.keeping import verify
from ecc.api.packing import code_of, inspect, inspect_packed, is_packed, tensors_of
from ecc.artefact import PACKED, read
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode
from ecc.stages.codebook import Codebook
from ecc.stages.container import to_bytes
from ecc.stages.fixed_point.stage import FixedPoint
from ecc.stages.prune import Prune

SOURCE = Source("staging_toy:small", {}, "trained here", "digits", "small")
STAGES = ["fold", Prune(density=0.3, epochs=1), Codebook(bits=4, epochs=0), "half", "entropy"]


@pytest.fixture(scope="module")
def staged():
    data = digits()
    return ecc.stage(trained(), STAGES, train=data.train, validation=data.validation, test=data.test)


@pytest.fixture(scope="module")
def folder(staged, tmp_path_factory):
    return ecc.save(staged, tmp_path_factory.mktemp("packed") / "out", source=SOURCE).path


@pytest.fixture(autouse=True)
def unpainted(monkeypatch):
    """Only the artefact of ``folder`` has its page and pictures, which take longer than all else."""
    monkeypatch.setattr("ecc.report.saving.pictures", lambda report: {})
    monkeypatch.setattr("ecc.report.saving.render", lambda report: "")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def compressed():
    data = digits()
    return ecc.compress(
        trained(), data.train, data.validation, budgets="macs<=0.6", method="uniform", epochs=1, test=data.test
    )


def rewritten(folder, weights=None, change=None):
    """The artefact with other weights and another manifest, and hashes that fit."""
    value = json.loads((folder / "manifest.json").read_text())
    if weights is not None:
        (folder / PACKED).write_bytes(weights)
        value["files"][PACKED] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    if change is not None:
        change(value)
    (folder / "manifest.json").write_text(json.dumps(value))
    return folder


# -- there and back


def test_what_is_saved_is_what_is_loaded(staged, folder):
    loaded = ecc.load(folder)
    assert not loaded.model.training
    assert isinstance(loaded.model[1], nn.Identity)
    for name, tensor in staged.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    x = torch.rand(8, 1, 8, 8)
    assert torch.equal(loaded.model(x), staged.model(x))
    assert (folder / PACKED).read_bytes() == staged.code.to_bytes()
    assert not (folder / "weights.safetensors").exists()


def test_the_manifest_tells_each_stage(staged, folder):
    manifest = read(folder).manifest
    assert manifest.stages == staged.stages
    assert [dict(edit) for edit in manifest.edits] == [dict(edit) for edit in staged.code.edits]
    assert manifest.edits
    assert manifest.made_by == "fold + prune + codebook + half + entropy"
    assert (manifest.method, manifest.model, manifest.data) == ("", SOURCE.model, "digits")
    assert (manifest.accuracy_dense, manifest.accuracy) == (staged.accuracy_before, staged.accuracy)
    assert manifest.counts["params"] == sum(int(each.count_nonzero()) for each in staged.model.parameters())
    assert manifest.settings["stages.effort"] == 1.0
    assert len(read(folder).history()) == 1


def test_verify_scores_the_decoded_network(staged, folder):
    found, why = verify(ecc.load(folder))
    assert (found.accuracy, why, found.checks) == (staged.accuracy, "", ())


def test_an_artefact_can_be_staged_again_from_its_folder(folder, staged, tmp_path):
    again = ecc.stage(folder, "huffman")
    assert again.bytes_before == staged.nbytes
    saved = ecc.save(again, tmp_path / "again")
    assert [stage.name for stage in saved.manifest.stages] == [*(stage.name for stage in staged.stages), "huffman"]
    x = torch.rand(8, 1, 8, 8)
    assert torch.equal(ecc.load(saved.path).model(x), staged.model(x))


def test_a_compression_keeps_its_widths_and_budgets(compressed, tmp_path):
    before = ecc.save(compressed, tmp_path / "before", source=SOURCE)
    data = digits()
    result = ecc.stage(before.path, ["fold", FixedPoint(bits=6)], train=data.train, validation=data.validation)
    assert result.bytes_before == before.weights.bytes
    assert result.dense_bytes == 4 * compressed.graph.params()
    after = ecc.save(result, tmp_path / "after")
    assert after.manifest.made_by == "uniform + fold + fixed-point"
    assert dict(after.manifest.widths) == dict(before.manifest.widths)
    assert after.manifest.budgets == before.manifest.budgets
    assert after.manifest.accuracy_dense == before.manifest.accuracy_dense
    assert after.content("slim.json") == before.content("slim.json")
    assert verify(ecc.load(after.path))[0].met
    assert ecc.load(after.path).model[5].in_features == ecc.load(before.path).model[5].in_features < 192


def test_tied_weights_are_stored_once_and_tied_when_loaded(tmp_path):
    torch.manual_seed(0)
    saved = ecc.save(ecc.stage(Tied(), FixedPoint(bits=6), example_inputs=torch.zeros(1, 32)), tmp_path / "tied")
    model = ecc.load(saved.path, model=Tied()).model
    assert torch.equal(model.one.weight, model.two.weight)
    assert inspect(saved.path)["tied"] == {"two.weight": "one.weight"}
    assert saved.weights.bytes < 32 * 32 + 600


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x).relu())


def test_a_network_without_inputs_cannot_be_saved_and_says_why(tmp_path):
    with pytest.raises(InputError, match=r"nothing is known of its inputs; give data, or example_inputs"):
        ecc.save(ecc.stage(trained(), FixedPoint()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- what people look at


def test_the_rows_of_tensors_add_up_to_the_file_but_for_its_header(staged):
    rows = tensors_of(staged.code)
    assert 0 < staged.nbytes - rows["bytes"].sum() < 32
    assert rows.loc["5.weight", "form"] == "sparse, codebook, half"
    assert rows.loc["5.weight", "size"] == 192 * 48
    assert rows.loc["5.weight", "entries"] < 0.4 * 192 * 48
    assert rows.loc["5.weight", "bits"] == 8 * rows.loc["5.weight", "bytes"] / (192 * 48)
    assert rows.loc["7.bias", ["form", "coder", "shape"]].tolist() == ["half", "", "10"]


def test_inspect_tells_of_the_folder_and_of_the_file_alone(staged, folder):
    value, alone = inspect(folder), inspect_packed(folder / PACKED)
    assert value["tensors"] == alone["tensors"]
    assert (alone["kind"], alone["bytes"]) == (PACKED, staged.nbytes)
    assert value["tensors"]["0.weight"]["shape"] == [12, 1, 3, 3]
    assert [stage["name"] for stage in value["stages"]] == ["fold", "prune", "codebook", "half", "entropy"]
    assert is_packed(folder / PACKED)
    assert not is_packed(folder / "manifest.json")


def test_a_front_over_bytes_places_the_packed_file(compressed, folder, tmp_path):
    plain = ecc.save(compressed, tmp_path / "plain", source=SOURCE)
    front = front_of([plain.path, folder], x="bytes")
    methods = [(point.method, point.x) for point in front.points if point.method != "dense"]
    assert methods == [
        ("uniform", float(plain.weights.bytes)),
        ("fold + prune + codebook + half + entropy", float((folder / PACKED).stat().st_size)),
    ]


def test_the_page_shows_each_stage_and_each_tensor(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Bytes of the weights" in page
    assert "small, compressed by fold + prune + codebook + half + entropy" in page
    for text in ("5.weight", "sparse, codebook, half", f"{read(folder).weights.bytes:,}", "density 0.3"):
        assert text in page, text
    assert (folder / "bytes.png").read_bytes().startswith(b"\x89PNG")


# -- what does not fit


def test_a_change_of_the_weights_is_found(copied):
    content = bytearray((copied / PACKED).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / PACKED).write_bytes(bytes(content))
    with pytest.raises(InputError, match="does not have the SHA-256"):
        ecc.load(copied)


def test_a_damaged_container_with_a_hash_that_fits_is_refused(copied):
    content = bytearray((copied / PACKED).read_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(InputError, match=r"weights\.ecz is damaged"):
        ecc.load(rewritten(copied, bytes(content)))
    with pytest.raises(InputError, match="is no container of ecc"):
        ecc.load(rewritten(copied, b"nothing"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda nodes: nodes.pop("7.bias"), "7.bias is absent and should be of shape"),
        (lambda nodes: nodes.update(extra=nodes["7.bias"]), "extra is of shape .10,. and should be absent"),
        (lambda nodes: nodes.update({"7.bias": nodes["5.bias"]}), r"7.bias is of shape \(48,\) and should be of shape"),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_of_another_network_are_refused_before_they_are_decoded(copied, change, said, monkeypatch):
    code = code_of(read(copied))
    nodes = dict(code.nodes)
    change(nodes)
    monkeypatch.setattr(PackedCode, "decode", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=said):
        ecc.load(rewritten(copied, to_bytes(nodes, code.aliases)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(edits=[{"edit": "run", "path": "0"}]), "'run' is no edit of a network's structure"),
        (lambda v: v.update(edits=[{"edit": "identity", "path": "99"}]), "which the network does not have"),
        (lambda v: v.update(edits=[{"edit": None, "path": "1"}]), "another value than text and whole numbers"),
        (lambda v: v.update(edits=[3]), "'edit' is not an object|is not an object"),
        (lambda v: v.update(edits=[]), "do not fit its network"),
        (lambda v: v.update(stages=[{}]), "has no plain text 'name'|has no object|is not an object"),
        (lambda v: v["stages"][0].update(bytes=-1), "no whole number 'bytes'"),
        (lambda v: v["files"].update({"weights.safetensors": v["files"]["history.csv"]}), "has one of them"),
        (lambda v: v["files"].pop(PACKED), r"does not list weights\.safetensors"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(copied, change, said):
    with pytest.raises(InputError, match=said):
        ecc.load(rewritten(copied, change=change))


def test_a_failing_write_leaves_the_old_artefact(staged, copied, monkeypatch):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(InputError, match="no space is left"):
        ecc.save(staged, copied, source=SOURCE)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_the_history_of_what_was_never_trained_is_empty(tmp_path):
    saved = ecc.save(ecc.stage(trained(), FixedPoint(), example_inputs=INPUTS), tmp_path / "out", source=SOURCE)
    pd.testing.assert_frame_equal(saved.history(), pd.DataFrame())
    assert saved.manifest.accuracy is None
    assert isinstance(ecc.load(saved.path).model, type(small()))
