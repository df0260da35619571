"""An artefact of a network whose weights were pruned: what it holds, what it gives back, and what it refuses."""

import hashlib
import json
import shutil

import pandas as pd
import pytest
import safetensors.torch
import torch
from weight_job_toy import INPUTS, network, pruned, small

from ecc.api.describing import Source
from ecc.api.keeping import load, verify
from ecc.api.sparsity import LAYERS, layers_in
from ecc.api.weight_recipe import MASKING
from ecc.artefact import inspect
from ecc.core.errors import InputError
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.input_masks import stored_masks
from ecc.network.tracing import trace
from ecc.report.saving import save

SOURCE = Source("weight_job_toy:small", {}, "none", "digits", "small")


@pytest.fixture(scope="module")
def masked():
    (result,) = pruned("energy=0.5", method=MASKING, epochs=2)
    assert result.sparsity.masks
    return result


@pytest.fixture(scope="module")
def joint():
    (result,) = pruned("energy=0.4 params=0.5", method="uniform", then="projected-sgd", epochs=2)
    return result


@pytest.fixture(scope="module")
def folders(masked, joint, tmp_path_factory):
    """Where each result was written."""
    root = tmp_path_factory.mktemp("sparse")
    return {name: save(made, root / name, source=SOURCE).path for name, made in (("masked", masked), ("joint", joint))}


@pytest.fixture(params=["masked", "joint"])
def case(request, folders):
    """A result and its artefact."""
    return request.getfixturevalue(request.param), folders[request.param]


@pytest.fixture
def saved(folders, tmp_path):
    """A copy of the artefact with masks."""
    return shutil.copytree(folders["masked"], tmp_path / "made")


def rewritten(folder, tensors=None, manifest=None, files=None):
    """The artefact with other tensors, members of the manifest and files, and hashes that fit."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text()) | (manifest or {})
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    if tensors is not None:
        state = safetensors.torch.load_file(folder / "weights.safetensors") | tensors
        safetensors.torch.save_file(
            {name: tensor for name, tensor in state.items() if tensor is not None}, folder / "weights.safetensors"
        )
    for name in fields["files"]:
        content = (folder / name).read_bytes()
        fields["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(fields))
    return folder


def test_the_network_that_is_loaded_computes_what_was_saved_masks_and_all(case):
    result, folder = case
    loaded = load(folder)
    torch.testing.assert_close(loaded.model(INPUTS), result.model(INPUTS), rtol=0, atol=0)
    assert set(stored_masks(loaded.model)) == set(result.sparsity.masks) == set(loaded.manifest.masked)
    for name, mask in result.sparsity.masks.items():
        assert torch.equal(stored_masks(loaded.model)[name], mask)
    assert loaded.manifest.weight_method == result.sparsity.method


def test_the_energy_of_the_network_that_is_loaded_is_the_verdict(case):
    result, folder = case
    loaded = load(folder)
    found = systolic_energy(loaded.model, trace(loaded.model, INPUTS))  # behind the masks that it holds
    assert found.total == next(check.measured for check in result.budgets if check.metric == "energy")


def test_verify_judges_the_weights_and_masks_that_are_stored(case):
    result, folder = case
    loaded = load(folder)
    found, why = verify(loaded)
    assert why == ""
    assert found.met is True
    assert found.accuracy == result.accuracy
    before = {check.metric: check for check in result.budgets}
    for check in found.checks:
        assert check.measured == pytest.approx(before[check.metric].measured, rel=1e-12)
        assert (check.source, check.limit) == (before[check.metric].source, pytest.approx(before[check.metric].limit))


def test_weights_that_come_back_make_the_budget_missed(saved):
    dense = {name: tensor for name, tensor in network()[0].state_dict().items() if name.endswith("weight")}
    found, _ = verify(load(rewritten(saved, tensors=dense)))
    (check,) = found.checks
    assert check.met is False
    masks = stored_masks(load(saved).model)
    assert check.measured == pytest.approx(systolic_energy(*network(), masks=masks).total)


def test_masks_that_open_again_cost_what_they_cost(saved, masked):
    opened = {f"{name}.input_mask": torch.ones_like(mask) for name, mask in masked.sparsity.masks.items()}
    found, _ = verify(load(rewritten(saved, tensors=opened)))
    assert found.checks[0].measured == pytest.approx(systolic_energy(masked.model, network()[1], masks={}).total)
    assert found.checks[0].measured > masked.budgets[0].measured


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask * 2, "is not of 0 and 1"),
        (lambda mask: mask * float("nan"), "is not of 0 and 1"),
        (lambda mask: mask[..., :-1].contiguous(), "does not fit its network: "),
        (lambda mask: torch.ones(1 << 12), "does not fit its network: "),
        (lambda mask: None, "has no mask of the inputs of"),
    ],
    ids=["twice", "nan", "short", "long", "absent"],
)
def test_masks_that_are_none_are_refused(saved, masked, change, words):
    name = next(name for name, mask in masked.sparsity.masks.items() if mask.ndim > 1)
    with pytest.raises(InputError, match=words):
        load(rewritten(saved, tensors={f"{name}.input_mask": change(masked.sparsity.masks[name])}))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"masked": []}, "do not fit its network"),
        ({"masked": ["no.such"]}, "has no mask of the inputs of 'no.such'"),
        ({"masked": "inner"}, "manifest"),
        ({"weight_method": 3}, "weight_method"),
    ],
)
def test_manifests_that_say_something_else_of_masks_are_refused(saved, manifest, words):
    with pytest.raises(InputError, match=words):
        load(rewritten(saved, manifest=manifest))


def test_a_mask_of_a_layer_that_the_network_lacks_is_refused(saved):
    strange = {"no.such.input_mask": torch.ones(3)}
    with pytest.raises(InputError, match=r"there is no layer|has no layer"):
        load(rewritten(saved, tensors=strange, manifest={"masked": ["no.such"]}))


def test_a_cost_of_another_array_is_refused(saved):
    cost = json.loads((saved / "cost-energy.json").read_text())
    cost["array"]["name"] = "another"
    loaded = load(rewritten(saved, files={"cost-energy.json": json.dumps(cost).encode()}))
    with pytest.raises(InputError, match="the artefact's cost model in e_RF of systolic array another"):
        verify(loaded)


def test_the_table_of_layers_is_kept_and_checked_when_it_is_read(saved, masked):
    table = layers_in(load(saved).artefact)
    pd.testing.assert_frame_equal(table, masked.sparsity.layers, check_dtype=False)
    for content in (
        b"",
        b"\xff\xfe",
        b"a,b\n1,2\n",
        b"name,nonzeros\nx,1\n",
        b"name,nonzeros,dense_nonzeros\nx,1,inf\n",
    ):
        with pytest.raises(InputError, match="no table of layers"):
            layers_in(load(rewritten(saved, files={LAYERS: content})).artefact)


def test_manifests_from_before_there_were_masks_are_read(saved):
    fields = json.loads((saved / "manifest.json").read_text())
    del fields["weight_method"], fields["masked"]
    (saved / "manifest.json").write_text(json.dumps(fields))
    assert inspect(saved)["masked"] == []


def test_the_dense_network_takes_any_weights(saved, masked):
    torch.testing.assert_close(load(saved, model=small()).model(INPUTS), masked.model(INPUTS), rtol=0, atol=0)
