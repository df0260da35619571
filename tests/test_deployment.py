"""Exports: files that other programs run, there only once they gave the network's outputs, and over nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from cli_toy import run
from staging_toy import digits, small, trained
from torch import nn

import ecc
from ecc.api.deployment import exporting, onnx_files
from ecc.api.deployment.examples import Example, input_names_of
from ecc.api.deployment.formats import Writer
from ecc.api.deployment.program_files import ProgramFiles
from ecc.core.errors import EccError, InputError, UnavailableError
from ecc.profiler.runtimes.calling import Call

SOURCE = ecc.Source("staging_toy:small", {}, "trained here", "digits", "small")


class TwoTowers(nn.Module):
    """An image, and words of which not all are given; outputs by name."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 4, 3)
        self.words = nn.Embedding(11, 4)
        self.memory = nn.LSTM(4, 4, batch_first=True)

    def forward(self, image, words, scale=None):
        seen, read = self.image(image).mean((2, 3)), self.memory(self.words(words))[0][:, -1]
        return {"score": (seen * read).sum(1), "read": read if scale is None else read * scale}


class PairsOnly(nn.Module):
    """Works on two examples at a time."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x.reshape(2, 4))


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def towers():
    torch.manual_seed(0)
    return TwoTowers().eval()


def tower_inputs(batch):
    generator = torch.Generator().manual_seed(batch)
    image = torch.randn(batch, 3, 6, 6, generator=generator)
    return {"words": torch.randint(0, 11, (batch, 5), generator=generator), "image": image}


@pytest.fixture(scope="module")
def half():
    data = digits()
    return ecc.compress(
        trained(), data.train, data.validation, budgets="macs<=0.6", method="uniform", epochs=1, test=data.test
    )


@pytest.fixture
def artefact(half, tmp_path, monkeypatch):
    monkeypatch.setattr("ecc.report.saving.pictures", lambda report: {})
    monkeypatch.setattr("ecc.report.saving.render", lambda report: "")
    return ecc.save(half, tmp_path / "half", source=SOURCE).path


def test_onnx_with_several_inputs_and_outputs_takes_batches_of_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = towers()
    made = ecc.export(model, tmp_path / "net.onnx", inputs=tower_inputs(2))
    assert (made.batch, made.reason, made.exporter, made.int8) == (None, "", "torch.onnx (dynamo)", False)
    assert made.max_abs_diff < 1e-5
    assert [str(each) for each in made.inputs] == ["words: int64 (batch, 5)", "image: float32 (batch, 3, 6, 6)"]
    session = onnxruntime.InferenceSession(str(made.file))
    assert [each.name for each in session.get_outputs()] == ["score", "read"]
    assert {each.shape[0] for each in session.get_inputs()} == {"batch"}
    inputs = tower_inputs(7)
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        expected = model(**inputs)
    for array, name in zip(found, ("score", "read"), strict=True):
        np.testing.assert_allclose(array, expected[name].numpy(), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_large_weights_lie_beside_the_onnx_model_and_keep_their_names(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(onnx_files, "_LARGEST_BYTES", 100)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 2)).eval()
    made = ecc.export(model, tmp_path / "net.onnx", inputs=torch.randn(1, 64))
    assert [path.name for path in made.files] == ["net.onnx", "net.onnx.data"]
    assert made.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    held = onnx.load(str(made.file), load_external_data=False).graph.initializer
    assert {"0.weight", "1.weight"} <= {each.name for each in held}
    assert made.files[1].stat().st_size > made.files[0].stat().st_size / 4


def test_a_network_that_fixes_its_batch_is_exported_for_that_one_and_says_why(tmp_path):
    model, inputs = PairsOnly().eval(), torch.randn(2, 4)
    made = ecc.export(model, tmp_path / "net.pt2", format="pt2", inputs=inputs)
    assert made.batch == 2
    assert "does not run on a batch of 1" in made.reason
    torch.testing.assert_close(torch.export.load(made.file).module()(inputs), model(inputs))
    with pytest.raises(InputError, match="does not run on a batch of 1"):
        ecc.export(model, tmp_path / "other.pt2", format="pt2", inputs=inputs, batch="any")
    assert not (tmp_path / "other.pt2").exists()


def test_pt2_is_called_as_the_network_is(tmp_path):
    model = towers()
    made = ecc.export(model, tmp_path / "net.pt2", format="pt2", inputs=tower_inputs(1))
    extra = {"ecc.json": ""}
    found = torch.export.load(made.file, extra_files=extra).module()(**tower_inputs(4))
    torch.testing.assert_close(found["score"], model(**tower_inputs(4))["score"])
    assert json.loads(extra["ecc.json"]) == {"network": "TwoTowers"}
    assert made.batch is None


def test_a_state_dict_makes_the_network_again_without_the_artefact(half, artefact, tmp_path):
    made = ecc.export(artefact, tmp_path / "half.safetensors", format="state-dict")
    assert made.max_abs_diff == 0
    shutil.rmtree(artefact)
    x = digits().example(5)
    torch.testing.assert_close(ecc.load_state(made.file)(x), half.model(x), rtol=0, atol=0)
    assert set(safetensors.torch.load_file(made.file)) == set(half.model.state_dict())
    recipe = made.files[1]
    with pytest.raises(InputError, match="belongs to another network"):
        ecc.load_state(made.file, model=nn.Linear(2, 2))
    content = recipe.read_text()
    for old, new, said in [
        ('"kind": "ecc-state-dict"', '"kind": "pickle"', "not that of an exported state dict"),
        ('"schema": 1,\n "weights"', '"schema": 9,\n "weights"', "has schema 9"),
        ('"edits": []', '"edits": [{"edit": "run", "path": "0"}]', "is no edit"),
        ('"model": "staging_toy:small"', '"model": ""', "names no dense network"),
    ]:
        assert old in content
        recipe.write_text(content.replace(old, new))
        with pytest.raises(InputError, match=said):
            ecc.load_state(made.file)
    recipe.write_text(content)
    made.file.write_bytes(made.file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(InputError, match="does not have the SHA-256"):
        ecc.load_state(made.file)
    recipe.unlink()
    with pytest.raises(InputError, match=r"half.json cannot be read: .*; copy both files"):
        ecc.load_state(made.file)


def test_the_weights_of_stages_are_decoded_and_kept_with_the_changes_that_they_made(tmp_path):
    data = digits()
    staged = ecc.stage(trained(), ["fold", "fixed-point"], train=data.train, validation=data.validation)
    made = ecc.export(staged, tmp_path / "net.safetensors", format="state-dict")
    found = ecc.load_state(made.file, model=small())
    torch.testing.assert_close(found(data.example(3)), staged.model(data.example(3)), rtol=0, atol=0)
    assert isinstance(found[1], nn.Identity)


def test_int8_multiplies_the_bytes_of_the_stage_and_tells_how_near_it_is(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    monkeypatch.setattr("ecc.stages.fixed_point.onnx_int8.saturates", lambda: False)
    data = digits()
    staged = ecc.stage(trained(), ["fixed-point"], train=data.train, validation=data.validation)
    options = {"data": data}
    made = ecc.export(staged, tmp_path / "net.onnx", **options, tolerance=0.2)
    assert (made.int8, made.batch) == (True, None)
    assert 0 < made.difference < 0.2
    assert made.agreement > 0.9
    assert made.examples == "256 examples of the test part of digits"
    weights = [each for each in onnx.load(str(made.file)).graph.initializer if len(each.dims) > 1]
    assert {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    codes = np.concatenate([numpy_helper.to_array(each).ravel() for each in weights]).astype(int)
    forms = [node for node in staged.code.nodes.values() if getattr(node, "kind", "") == "fixed"]
    stored = np.concatenate([each.parts["codes"].values.astype(int) - each.parameters["offset"] for each in forms])
    assert np.array_equal(np.sort(np.abs(codes)), np.sort(np.abs(stored)))  # a folded norm may turn signs
    before = made.file.read_bytes()
    with pytest.raises(
        EccError, match=r"too far from float: outputs differ by .* winner in .*; nothing is written"
    ) as no:
        ecc.export(staged, tmp_path / "net.onnx", **options, tolerance=1e-6)
    assert no.value.exit_code == 1
    assert made.file.read_bytes() == before


def test_nothing_is_written_where_the_file_computes_something_else(tmp_path, monkeypatch):
    def writers(self, network, call, batched, names):
        other = nn.Linear(4, 2).eval()
        return [
            Writer("a bad exporter", lambda path: path.write_text("x"), lambda path: lambda call: [other(*call.args)])
        ]

    monkeypatch.setattr(ProgramFiles, "writers", writers)
    with pytest.raises(EccError, match=r"a bad exporter makes computes something else .* of the largest one") as error:
        ecc.export(nn.Linear(4, 2), tmp_path / "net.pt2", format="pt2", inputs=torch.randn(1, 4))
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with pytest.raises(InputError, match="gives other outputs each time"):
        ecc.export(Noisy(), tmp_path / "net.pt2", format="pt2", inputs=torch.randn(1, 4))
    assert list(tmp_path.iterdir()) == []


def test_only_its_like_is_replaced(artefact, tmp_path, monkeypatch):
    model, inputs = nn.Linear(4, 2), torch.randn(1, 4)
    first = ecc.export(model, tmp_path / "net.safetensors", format="state-dict", inputs=inputs)
    with pytest.raises(InputError, match=r"exists and is not a program of torch\.export, so it is not overwritten"):
        ecc.export(model, first.file.rename(tmp_path / "net"), format="pt2", inputs=inputs)
    (tmp_path / "net").rename(first.file)
    again = ecc.export(nn.Linear(4, 2), first.file, format="state-dict", inputs=inputs)
    assert again.file == first.file
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match=r"notes\.json' exists and is not"):
        ecc.export(model, tmp_path / "notes.safetensors", format="state-dict", inputs=inputs)
    other = ecc.export(model, tmp_path / "rows.json", format="state-dict", inputs=inputs)
    assert [file.name for file in other.files] == ["rows.json", "rows.json.json"]
    with pytest.raises(InputError, match="is an artefact, whose files are its own"):
        ecc.export(artefact, artefact / "weights.safetensors", format="state-dict")
    with pytest.raises(InputError, match="does not exist; make it"):
        ecc.export(model, tmp_path / "none" / "net.pt2", format="pt2", inputs=inputs)
    with pytest.raises(InputError, match="is no plain file"):
        ecc.export(model, tmp_path, format="pt2", inputs=inputs)


def test_a_name_that_ends_in_another_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a file that ends in \.pt2 is taken for pt2 and not onnx"):
        ecc.export(nn.Linear(4, 2), tmp_path / "net.pt2", format="onnx", inputs=torch.randn(1, 4))


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ProgramFiles, "_write", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device; choose another place"):
        ecc.export(nn.Linear(4, 2), tmp_path / "net.pt2", format="pt2", inputs=torch.randn(1, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "the ending '' names no format; give one"),
        ({"format": "pb"}, "must be one of onnx, pt2, state-dict, got 'pb'"),
        ({"format": "pt2", "opset": 18}, "an opset is of ONNX, not of pt2"),
        ({"format": "pt2", "int8": True}, "int8 is of ONNX, not of pt2"),
        ({"format": "state-dict", "batch": 2}, "fits batches of any size"),
        ({"format": "pt2", "batch": 0}, "must be a whole number of at least 1 or 'any', got 0"),
        ({"format": "pt2", "tolerance": -1.0}, "the tolerance must be positive, got -1.0"),
        ({"format": "onnx", "opset": 99}, "opset 99 is none that is known here; give 9 to"),
        ({"format": "pt2"}, "nothing is known of the network's inputs; give inputs="),
        ({"format": "onnx", "int8": True, "inputs": torch.randn(1, 4)}, "int8 needs data that set the ranges"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        ecc.export(nn.Linear(4, 2), tmp_path / "net", **options)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UnavailableError, match=r"onnxscript is not installed; pip install 'ecc-compress\[onnx\]'"):
        ecc.export(nn.Linear(4, 2), tmp_path / "net.onnx", inputs=torch.randn(1, 4))


def test_inputs_are_named_as_the_forward_names_them_in_whatever_order():
    call = Call.of(tower_inputs(2), "cpu")
    assert input_names_of(towers(), call) == ["words", "image"]
    nested = Call.of(([torch.zeros(1), torch.ones(1)], torch.ones(2)), "cpu")
    assert input_names_of(PairsOnly(), nested) == ["input_0", "input_1", "input_2"]


def test_token_ids_are_drawn_from_the_smallest_table():
    words = torch.zeros(2, 5, dtype=torch.int64)
    example = Example.of(towers(), {"words": words, "image": torch.zeros(2, 3, 6, 6)})
    drawn = example.draw(0, 30).kwargs["words"]
    assert drawn.shape == (30, 5)
    assert (int(drawn.min()), int(drawn.max())) == (0, 10)
    assert example.batched == [True, True]


def test_the_command_writes_the_file_and_says_what_it_compared(artefact, tmp_path):
    out = tmp_path / "half.pt2"
    said = run("export", artefact, "--format pt2 --out", out, "--json --quiet")
    assert (said.code, said.err) == (0, "")
    assert said.value["file"] == str(out)
    assert said.value["max_abs_diff"] <= 1e-5
    assert said.value["batch"] is None
    (artefact / "weights.safetensors").write_bytes(b"no tensors")
    said = run("export", artefact, "--format pt2 --out", tmp_path / "new.pt2")
    assert (said.code, said.out) == (2, "")
    assert "the artefact is damaged" in said.err
    said = run("export", artefact, "--batch some --out", out)
    assert said.code == 2
    assert "must be a whole number of at least 1, or any, got 'some'" in said.err
    assert Path(out).stat().st_size > 1000
    assert exporting.FORMATS == ("onnx", "pt2", "state-dict")
