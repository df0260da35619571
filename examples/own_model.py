"""A network and loaders of one's own, to half of what they take.

    python examples/own_model.py              # half of the multiply-accumulates, which are counted: a few seconds
    python examples/own_model.py --measure    # 60 % of the latency of this machine, measured: a minute or two

Nothing of ecc is needed to write the network or the data: any nn.Module, and any iterable of (inputs, targets) that can
be iterated again and again.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import ecc


class Residual(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden))
        self.second = nn.Sequential(nn.Conv2d(hidden, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def network() -> nn.Module:
    """What ``ecc graph examples/own_model.py:network --input 1x1x8x8`` calls."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), Residual(32, 64), nn.MaxPool2d(2), Residual(32, 64), nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )  # fmt: skip


def loaders() -> tuple[DataLoader, DataLoader, DataLoader]:
    """Training, validation and test batches: what ``--data examples/own_model.py:loaders`` calls."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    data = TensorDataset(inputs, torch.from_numpy(labels))
    train, validation, test = random_split(data, [1200, 300, 297], torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(validation, 64), DataLoader(test, 64)


def main(measure: bool = False, out: str = "own-model") -> None:
    torch.manual_seed(0)
    model, (train, validation, test) = network(), loaders()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(3):
        for inputs, targets in train:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
    model.eval()

    batch = next(iter(test))[0][:16]  # what is counted or timed: take the batch that you will deploy
    graph = ecc.trace(model, batch)
    for group in graph.groups:  # channels that can only go together, and why others stay
        print(f"{group.name}: {group.width} channels of {', '.join(group.layers)} {group.reason}")

    budgets, costs = ["macs<=50%", "params<=50%"], []
    if measure:
        table = ecc.profile(model, batch, samples=60, store="own-model.db")  # rows are kept, and not measured again
        fit = ecc.judge(table, "latency")
        print(fit)  # the held-out error, beside the noise of the rows
        budgets, costs = ["latency<=60%"], [fit.cost]
    result = ecc.compress(
        model, train, validation, test=test, example_inputs=batch, budgets=budgets, costs=costs, epochs=3
    )
    print(result)

    ecc.save(result, out, source=ecc.Source(model=f"{__file__}:network"))
    small = ecc.load(out).model  # an nn.Module of the same classes, ready to run
    print(f"{sum(p.numel() for p in model.parameters()):,} → {sum(p.numel() for p in small.parameters()):,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="a budget on measured latency")
    parser.add_argument("--out", default="own-model", help="folder of the artefact")
    main(**vars(parser.parse_args()))
