"""What a network takes, as shapes on the command line: one tensor, several in order, several by name."""

from types import SimpleNamespace

import pytest
import torch
from cli_toy import run
from torch import nn

from ecc.cli.arguments import example_inputs
from ecc.core.errors import InputError
from ecc.profiler.store import Store
from ecc.profiler.window import Window

NETWORK = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.words = nn.Embedding(2, 8)
        self.hidden = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, img, ids):
        seen, read = self.conv(img).mean((2, 3)), self.words(ids).mean(1)
        return self.head(self.hidden(torch.cat([seen, read], 1)).relu())
"""
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=2, burst=1, idle_s=0)
IN_ORDER = "two.py:Two --input 2x3x6x6 --input 2x5:int64"
BY_NAME = "two.py:Two --input ids=2x5:int64 --input img=2x3x6x6"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Window, "of", classmethod(lambda cls, kind: QUICK))


def loaded(vocabulary: int = 0):
    return SimpleNamespace(module=nn.Identity(), name="net", vocabulary=vocabulary)


def test_one_shape_is_a_tensor_several_are_a_tuple_and_named_ones_a_dict():
    assert example_inputs(loaded(), ["2x3"]).shape == (2, 3)
    image, ids = example_inputs(loaded(7), ["2x3", "2x9:int64"])
    assert (image.shape, image.dtype) == ((2, 3), torch.float32)
    assert (ids.shape, ids.dtype) == ((2, 9), torch.int64)
    assert 1 < int(ids.max()) < 7
    named = example_inputs(loaded(), ["b=1x2", "a=1x3:float64"])
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == {"b": (1, 2), "a": (1, 3)}


def test_inputs_of_one_shape_are_not_the_same_numbers_and_follow_the_seed():
    first, second = example_inputs(loaded(), ["2x3", "2x3"])
    assert not torch.equal(first, second)
    assert torch.equal(first, example_inputs(loaded(), ["2x3"]))
    assert not torch.equal(first, example_inputs(loaded(), ["2x3"], seed=1))


def test_the_batch_is_that_of_all_tensors_that_have_the_first_ones():
    inputs = example_inputs(loaded(), ["2x3", "2x9", "5x9"], batch=4)
    assert [tuple(tensor.shape) for tensor in inputs] == [(4, 3), (4, 9), (5, 9)]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["1x3x6x6,1x5"], "has a comma; join sizes by x, and give each further tensor by an --input of its own"),
        (["1,3,6,6"], "has a comma; join sizes by x"),
        (["1x3", "ids=1x5"], "name each --input"),
        (["ids=1x3", "ids=1x5"], "--input ids is given more than once"),
        (["my ids=1x3"], "is not NAME=SHAPE"),
        (["=1x3"], "is not NAME=SHAPE"),
        (["a=b=1x3"], "is not NAME=SHAPE"),
        (["[1x3]"], "or give inputs of another kind in Python: ecc.trace and ecc.profile"),
        (["1x3", "99999999999x99999999"], "do not fit in memory"),
    ],
    ids=str,
)
def test_other_texts_are_refused_with_what_to_write(texts, words):
    with pytest.raises(InputError, match=words):
        example_inputs(loaded(), texts)


@pytest.mark.parametrize("line", [IN_ORDER, BY_NAME], ids=["in order", "by name"])
def test_networks_of_several_inputs_are_traced_and_counted(line):
    assert run(f"graph {line} --json").value["macs"] > 0
    layers = {layer["name"] for layer in run(f"systolic {line} --batch 1 --json").value["layers"]}
    assert {"conv", "hidden", "head"} <= layers


@pytest.mark.parametrize("line", [IN_ORDER, BY_NAME], ids=["in order", "by name"])
def test_networks_of_several_inputs_are_profiled_and_fitted(line):
    assert run(f"profile {line} --batch 3 --samples 20 --store two.db --json").value["rows"] == 20
    with Store("two.db") as store:
        table = store.table()
    assert table.provenance.input_shape == ((3, 3, 6, 6) if line is IN_ORDER else (3, 5))
    assert run("fit two.db --metric latency -o two.json --json").value["samples"] == 20
    assert run("inspect two.db --html two.html").code == 0
