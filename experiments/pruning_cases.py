"""The networks, data and trained starting points of the experiments on channel pruning.

A start is trained once per network and seed and kept in a folder; every method and budget begins with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from torch import nn

from ecc.core.problem import Batches
from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.zoo.loading import load_model

__all__ = ["CASES", "Case"]

_PRETRAINED = Path("weights") / "resnet20_cifar10.safetensors"
_TESTED = 512  # examples at a time
_VALIDATION = 1000  # examples; the solvers look at the score after every epoch


@dataclass(frozen=True, slots=True)
class Case:
    """A network with its data, and how long it is trained.

    Attributes:
        name: In the tables.
        model: As on the command line.
        options: Of its factory.
        data: As on the command line.
        examples: Of the training part that are used; None for all.
        batch: Examples per training step.
        start_epochs: Of the dense network; 0 where pretrained weights are loaded.
        epochs: Of each compression in all.
        lr: Step size of every training.
        timed: Examples in the batch that is timed; enough that there is more to save than what calling layers takes.
        tested_on_both: Whether the validation examples are tested on too, where test examples are few; no method and no
            training chooses by them.
    """

    name: str
    model: str
    data: str
    start_epochs: int
    epochs: int
    options: Mapping[str, str] = field(default_factory=dict)
    examples: int | None = None
    batch: int = 64
    lr: float = 2e-3
    timed: int = 16
    tested_on_both: bool = False

    def load(self) -> Data:
        """The data with the part of the training examples that is used."""
        data = load_data(self.data, batch_size=self.batch)
        train, validation, test = (_in_memory(part) for part in (data.train, data.validation, data.test))
        if self.tested_on_both:
            inputs, targets = torch.cat([validation.inputs, test.inputs]), torch.cat([validation.targets, test.targets])
            test = TensorBatches(inputs, targets, self.batch, transform=test.transform)
        return replace(
            data,
            train=_first(train, self.examples, self.batch, shuffle=True),
            validation=_first(validation, _VALIDATION, self.batch),
            test=_first(test, None, _TESTED),
        )

    def start(self, data: Data, seed: int, folder: Path) -> nn.Module:
        """The trained dense network of a seed."""
        torch.manual_seed(seed)
        model = load_model(self.model, self.options).module
        pretrained = None if self.start_epochs else Path(os.environ["ECC_DATA"]) / _PRETRAINED
        path = pretrained or folder / f"{self.name}-{seed}.safetensors"
        if not path.exists():
            config = TrainConfig(epochs=self.start_epochs, lr=self.lr, distill=0.0, seed=seed)
            train(model, data.task(), config)
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path)
        model.load_state_dict(safetensors.torch.load_file(path), strict=False)
        return model.eval()


def _in_memory(batches: Batches) -> TensorBatches:
    if not isinstance(batches, TensorBatches):
        raise TypeError(f"the readers of ecc give TensorBatches, got {type(batches).__name__}")
    return batches


def _first(batches: TensorBatches, count: int | None, size: int, *, shuffle: bool = False) -> TensorBatches:
    return TensorBatches(batches.inputs[:count], batches.targets[:count], size, shuffle, batches.transform)


_ALL = (
    Case(
        "digits-resnet",
        "zoo:digits-resnet",
        "digits",
        start_epochs=20,
        epochs=12,
        options={"width": "32"},
        timed=64,
        tested_on_both=True,
    ),
    Case("lenet5-caffe", "zoo:lenet5-caffe", "fashion-mnist", start_epochs=10, epochs=6, examples=6000),
    Case(
        "mobilenet-small",
        "zoo:mobilenet-v2",
        "fashion-mnist-32",
        start_epochs=20,
        epochs=6,
        options={"width": "0.35", "in_channels": "1", "num_classes": "10"},
        examples=6000,
        timed=64,
    ),
    Case("resnet20", "zoo:resnet20", "cifar10-lossless", start_epochs=0, epochs=4, examples=2000, lr=1e-3),
)

CASES: Mapping[str, Case] = MappingProxyType({case.name: case for case in _ALL})
"""Every case by name."""
