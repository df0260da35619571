"""A user's network file, its trained weights, and ``ecc`` as a function, for tests of the command line."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ecc.cli.main import main
from ecc.data.loading import load_data
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.zoo.loading import load_model

NETWORK = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


def small(width: int = 16):
    return Small(width)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.outer(self.inner(x).relu())


def deep():
    return nn.Sequential(nn.Conv2d(1, 4, 1), Residual(4), nn.Conv2d(4, 2, 1))


def normed():
    return nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))


class Broken(Small):
    def __init__(self):
        super().__init__(16)

    def forward(self, x):
        return super().forward(x) * float("nan")


class Lone(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))


def fails():
    raise OSError("no such disk")


def text():
    return "network"


def needs(depth):
    return Small(depth)
"""


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        return json.loads(self.out)


PROCESS = [sys.executable, "-c", "import sys; from ecc.cli.main import main; sys.exit(main())"]
"""``ecc`` as a process of its own."""


def run(*arguments: object) -> Said:
    """``ecc`` with the arguments, split at spaces where they are one text."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([word for argument in arguments for word in str(argument).split()])
        except SystemExit as error:  # of --help
            code = int(error.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def workplace(folder: Path) -> Path:
    """A folder with ``net.py`` and trained ``weights.safetensors`` of its network ``small``."""
    (folder / "net.py").write_text(NETWORK)
    torch.manual_seed(0)
    model = load_model(f"{folder / 'net.py'}:small").module
    train(model, load_data("digits").task(), TrainConfig(epochs=3, lr=5e-3))
    safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors")
    return folder
