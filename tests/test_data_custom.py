"""The user's own loaders: accepted in every honest form, refused with the reason in every other."""

from __future__ import annotations

import re

import pytest
import torch

from ecc.core.errors import InputError
from ecc.data import load_data

HEAD = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from ecc.data import Data, TensorBatches

def loader(n=12, size=(3, 4), targets=None, **more):
    y = torch.arange(n) % 5 if targets is None else targets
    return DataLoader(TensorDataset(torch.randn(n, *size), y), batch_size=5, **more)
"""


@pytest.fixture
def make(tmp_path):
    def made(body: str, **arguments):
        (tmp_path / "own.py").write_text(f"{HEAD}\n{body}\n")
        return load_data(f"{tmp_path / 'own.py'}:make", **arguments)

    return made


def test_a_tuple_of_data_loaders(make):
    data = make("def make():\n    return loader(shuffle=True), loader(), loader()")
    assert (data.name, data.kind, data.classes, data.input_shape) == ("make", "classification", 5, (3, 4))
    inputs, targets = next(iter(data.train))
    assert inputs.shape == (5, 3, 4)
    assert data.score(torch.eye(5)[targets], targets) == 1
    assert data.loss(torch.zeros(5, 5), targets).item() == pytest.approx(torch.log(torch.tensor(5.0)).item())
    assert data.example(20).shape == (20, 3, 4)


def test_float_targets_are_a_regression(make):
    data = make("def make():\n    return [loader(targets=torch.rand(12))] * 3")
    assert (data.kind, data.classes) == ("regression", 1)
    assert data.loss(torch.ones(3, 1), torch.zeros(3)) == 1


def test_one_hot_targets_are_not_taken_for_a_regression(make):
    body = "targets=torch.eye(4)[torch.arange(12) % 4]"
    with pytest.raises(InputError, match=r"targets of shape \(5, 4\) are one-hot; return class indices"):
        make(f"def make():\n    return [loader({body})] * 3")
    said = make(f"def make():\n    part = loader({body})\n    return dict(train=part, validation=part, test=part, "
                "kind='regression')")  # fmt: skip
    assert said.kind == "regression"


def test_a_mapping_says_more(make):
    data = make(
        "def loss(outputs, targets):\n    return outputs.mean()\n"
        "def make():\n"
        "    part = loader()\n"
        "    return dict(train=part, validation=part, test=part, name='mine', classes=9, loss=loss)"
    )
    assert (data.name, data.kind, data.classes) == ("mine", "classification", 9)
    assert data.loss(torch.ones(2), torch.zeros(2)) == 1


def test_data_itself_passes(make):
    body = (
        "def make(seed, batch_size, data_dir):\n"
        "    part = TensorBatches(torch.ones(4, 2), torch.ones(4), batch_size)\n"
        "    return Data(f'{seed} {data_dir}', 'regression', 1, (2,), part, part, part, loss=None, score=None)"
    )
    data = make(body, seed=3, batch_size=2, data_dir="somewhere")
    assert (data.name, len(data.train)) == ("3 somewhere", 2)


def test_several_inputs(make):
    data = make(
        "def make():\n"
        "    part = [((torch.zeros(3, 2), torch.ones(3, 7)), torch.tensor([0, 1, 1]))] * 2\n"
        "    return part, part, part"
    )
    assert (data.classes, data.input_shape) == (2, (2,))
    first, second = data.example(4)
    assert (first.shape, second.shape) == ((4, 2), (4, 7))


def test_looking_at_the_loaders_leaves_torchs_generator_alone(make):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    make("def make():\n    return (loader(shuffle=True),) * 3")
    state_after = torch.get_rng_state()
    # the factory itself draws its random inputs; only the look at the loaders must not
    torch.set_rng_state(state)
    for _ in range(1):
        torch.randn(12, 3, 4)
    assert torch.equal(torch.get_rng_state(), state_after)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "loader(), loader()",
            "the factory returned a tuple of 2; it must return the train, validation and test loaders",
        ),
        ("3", "the factory returned an int; it must return the train, validation and test loaders"),
        ("{'train': loader()}", "the factory returned no 'validation' loader; return train, validation, test"),
        ("dict(zip(('train', 'validation', 'test', 'los'), [loader()] * 4))", "the factory returned the unknown 'los'"),
        ("loader(), 3, loader()", "the validation loader failed with TypeError: 'int' object is not iterable; mend it"),
        ("loader(), [], loader()", "the validation loader yields no batch; give it at least one"),
        ("iter(loader()), loader(), loader()", "the train loader can be read only once; return a DataLoader or a list"),
        ("[torch.zeros(2)], loader(), loader()", r"the train loader yields a Tensor that is not \(inputs, targets\)"),
        ("[('a', torch.zeros(2))], loader(), loader()", "the train loader yields inputs that are neither a tensor nor"),
        (
            "[(torch.zeros(3), torch.zeros(2))], loader(), loader()",
            "the train loader yields 1 inputs and targets that do",
        ),
        (
            "loader(), loader(targets=-torch.ones(12).long()), loader()",
            "a validation target is -1; classes are counted",
        ),
        (
            "dict(train=loader(), validation=loader(), test=loader(), kind='rank')",
            "kind 'rank' is unknown; it is class",
        ),
    ],
)
def test_anything_else_is_refused_with_the_reason(make, tmp_path, value, message):
    with pytest.raises(InputError, match=rf"^data '{re.escape(str(tmp_path))}/own\.py:make': {message}"):
        make(f"def make():\n    return {value}")


def test_a_loader_that_fails_says_why(make):
    body = (
        "class Bad:\n    def __iter__(self):\n        raise OSError('disk gone')\n        yield\n"
        "def make():\n    return Bad(), loader(), loader()"
    )
    with pytest.raises(InputError, match=r"the train loader failed with OSError: disk gone; mend it$"):
        make(body)
