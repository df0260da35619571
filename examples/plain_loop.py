"""A training loop of one's own, in which channels go a few at a time: ecc's parts without its solvers.

    python examples/plain_loop.py

Each round the weakest channels go, wherever they are, until the network is within the next limit; the optimiser goes on
with the state of what stays. No trainer, no callbacks: the loop is yours.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ecc


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def train(model: nn.Module, optimiser: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    model.train()
    total = 0.0
    for index in torch.randperm(len(inputs)).split(64):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[index]), targets[index])
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(index)
    return total / len(inputs)


def weakest(model: nn.Module, graph: ecc.WidthGraph, limit: float) -> dict[str, int]:
    """Widths within ``limit`` multiply-accumulates: channels go one at a time, the weakest of all groups first."""
    parameters = dict(model.named_parameters())
    norms = {}
    for group in graph.prunable:  # its first layer makes the channels: one row of that weight each
        rows = parameters[f"{group.layers[0]}.weight"].detach().flatten(1).norm(dim=1)
        norms[group.name] = (rows / rows.mean()).sort().values
    widths, gone = {group.name: group.width for group in graph.prunable}, dict.fromkeys(norms, 0)
    while graph.macs(widths) > limit:
        name = min((each for each in norms if widths[each] > 4), key=lambda each: float(norms[each][gone[each]]))
        widths[name], gone[name] = widths[name] - 1, gone[name] + 1
    return widths


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)
    model = network()
    optimiser: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    dense = ecc.trace(model, inputs[:1]).macs()
    for share in (1.0, 0.8, 0.6, 0.45, 0.3, 0.3):
        graph = ecc.trace(model, inputs[:1])
        widths = weakest(model, graph, share * dense)
        small = ecc.slim(model, graph, widths)  # compared with the masked network before it is returned
        optimiser = ecc.transfer_optimiser(optimiser, model, small, graph, widths)
        model = small
        loss = train(model, optimiser, inputs[:1400], targets[:1400])
        model.eval()
        with torch.inference_mode():
            right = float((model(inputs[1400:]).argmax(1) == targets[1400:]).float().mean())
        macs = ecc.trace(model, inputs[:1]).macs()
        print(f"{macs / dense:4.0%} of the MACs, loss {loss:.3f}, {right:.1%} of the other digits are right")


if __name__ == "__main__":
    main()
