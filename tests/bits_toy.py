"""A small network trained on the digits, for tests of settings that are chosen tensor by tensor."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from solver_toy import Loader
from torch import nn
from torch.nn import functional as F

import ecc
from ecc.core.code import Workshop
from ecc.core.problem import Task
from ecc.data.values import accuracy


@cache
def data():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return [Loader(inputs[rows], targets[rows], 64) for rows in (slice(0, 900), slice(900, 1200), slice(1200, None))]


@cache
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        for inputs, targets in data()[0]:
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
    return model.eval()


def workshop():
    train, validation, _ = data()

    def evaluate(model):
        with torch.no_grad():
            pairs = [(model(inputs), targets) for inputs, targets in validation]
        outputs, targets = (torch.cat(each) for each in zip(*pairs, strict=True))
        return float(F.cross_entropy(outputs, targets)), accuracy(outputs, targets)

    def refuse(model, **given):
        raise AssertionError("nothing is trained here")

    task = Task(train, validation, F.cross_entropy, accuracy)
    return Workshop(trained(), task, refuse, evaluate, (train.inputs[:1],))


def stage_with_data(apply, **given):
    train, validation, test = data()
    return ecc.stage(trained(), apply, train=train, validation=validation, test=test, **given)
