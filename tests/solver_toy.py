"""Small networks with hand-made width groups and a cost that counts, for tests of solvers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ecc.core.cost import METRICS
from ecc.core.layers import Side, SumOfProducts
from ecc.core.problem import Constraint, Problem, Task
from ecc.core.widths import Slot, WidthGroup, WidthSpace


@dataclass(frozen=True, eq=False)
class CountingCost:
    """offset + sum of coefficient × product of sides."""

    space: WidthSpace
    terms: tuple[tuple[float, tuple[Side, ...]], ...]
    metric: str = "macs"
    provenance: None = None
    product: SumOfProducts = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "product", SumOfProducts(self.space, [sides for _, sides in self.terms]))

    @property
    def unit(self) -> str:
        return METRICS[self.metric]

    @property
    def dense(self) -> float:
        return sum(coefficient for coefficient, _ in self.terms)

    def __call__(self, widths):
        vector = widths if isinstance(widths, Tensor) else torch.from_numpy(self.space.vector(widths))
        return self.product(vector) @ torch.tensor([c for c, _ in self.terms], dtype=torch.float64)


def side(*names: str) -> Side:
    return Side(((1.0, names),))


@dataclass
class Loader:
    inputs: Tensor
    targets: Tensor
    batch_size: int = 128
    shuffle: bool = False

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self):
        order = torch.randperm(len(self.targets)) if self.shuffle else torch.arange(len(self.targets))
        for rows in order.split(self.batch_size):
            yield self.inputs[rows], self.targets[rows]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return (outputs.argmax(1) == targets).float().mean().item()


def digits_task(batch_size: int = 128, flat: bool = True) -> Task:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 16
    images = images.flatten(1) if flat else images[:, None]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(data.target)[order]
    train, held_out = slice(0, 1300), slice(1300, None)
    return Task(
        Loader(images[train], targets[train], batch_size, shuffle=True),
        Loader(images[held_out], targets[held_out], 512),
        nn.functional.cross_entropy,
        accuracy,
    )


def span(units: int, k: int = 1) -> np.ndarray:
    return np.arange(units * k).reshape(units, k)


def group(name: str, units: int, slots: list[tuple[str, int, int, str]], step: int = 1) -> WidthGroup:
    """Slots as (tensor, axis, positions per unit, role)."""
    made = tuple(Slot(tensor, axis, span(units, k), role) for tensor, axis, k, role in slots)
    return WidthGroup(name, units * step, step, True, "", made, ())


def mlp(first: int = 24, second: int = 16, dropout: float = 0.0):
    """64 → first → second → 10 with its groups and macs cost."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, first), nn.ReLU(), nn.Dropout(dropout), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)
    )
    groups = (
        group("0", first, [("0.weight", 0, 1, "write"), ("0.bias", 0, 1, "write"), ("3.weight", 1, 1, "read")]),
        group("3", second, [("3.weight", 0, 1, "write"), ("3.bias", 0, 1, "write"), ("5.weight", 1, 1, "read")]),
    )
    space = WidthSpace(("0", "3"), (first, second), (1, 1))
    one = side()
    terms = (
        (64.0 * first, (one, side("0"))),
        (float(first * second), (side("0"), side("3"))),
        (second * 10.0, (side("3"), one)),
    )
    return model, groups, CountingCost(space, terms)


class PressAt:
    """A progress at which Ctrl-C is pressed at the given steps, each once."""

    def __init__(self, *steps: int) -> None:
        self.steps = set(steps)

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        if done in self.steps:
            self.steps.remove(done)
            raise KeyboardInterrupt


class ResidualNet(nn.Module):
    """1×8×8 → stem, one residual block with a batch norm each, a convolution, flatten, head."""

    def __init__(self, a: int = 8, b: int = 8, c: int = 12):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        self.inner, self.inner_norm = nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)
        self.outer, self.outer_norm = nn.Conv2d(b, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        self.last = nn.Conv2d(a, c, 3, stride=2, padding=1)
        self.head = nn.Linear(c * 16, 10)

    def forward(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.outer_norm(self.outer(self.inner_norm(self.inner(x)).relu()))).relu()
        return self.head(self.last(x).relu().flatten(1))


def _norm(name):
    return [(f"{name}.{tensor}", 0, 1, "write") for tensor in ("weight", "bias", "running_mean", "running_var")]


def residual(a: int = 8, b: int = 8, c: int = 12):
    """A ResidualNet with its groups (the residual stream is one group) and macs cost."""
    torch.manual_seed(0)
    model = ResidualNet(a, b, c)
    groups = (
        group(
            "stem",
            a,
            [
                ("stem.weight", 0, 1, "write"),
                *_norm("stem_norm"),
                ("inner.weight", 1, 1, "read"),
                ("outer.weight", 0, 1, "write"),
                *_norm("outer_norm"),
                ("last.weight", 1, 1, "read"),
            ],
        ),
        group(
            "inner",
            b,
            [("inner.weight", 0, 1, "write"), *_norm("inner_norm"), ("outer.weight", 1, 1, "read")],
        ),
        group(
            "last",
            c,
            [("last.weight", 0, 1, "write"), ("last.bias", 0, 1, "write"), ("head.weight", 1, 16, "read")],
        ),
    )
    space = WidthSpace(("stem", "inner", "last"), (a, b, c), (1, 1, 1))
    terms = (
        (64 * 9.0 * a, (side(), side("stem"))),
        (2 * 64 * 9.0 * a * b, (side("stem"), side("inner"))),
        (16 * 9.0 * a * c, (side("stem"), side("last"))),
        (16 * 10.0 * c, (side("last"), side())),
    )
    return model, groups, CountingCost(space, terms)


def problem(network, task: Task, *limits: float, costs=None, seed: int = 0) -> Problem:
    """Limits as fractions of dense, one per cost."""
    model, groups, cost = network
    costs = costs or (cost,)
    constraints = tuple(Constraint(c, limit * c.dense) for c, limit in zip(costs, limits, strict=True))
    return Problem(model, groups, cost.space, task, constraints, seed)
