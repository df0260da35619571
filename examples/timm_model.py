"""A network of timm, to half of its multiply-accumulates.

    pip install timm
    python examples/timm_model.py [NAME]      # default: test_resnet, the smallest that timm has

Convolutional networks, mixers and transformers of timm are traced as they are. Those that cannot take 32×32 inputs
of one channel say so themselves.
"""

import sys

import timm
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ecc


def loaders() -> tuple[DataLoader, DataLoader]:
    """Digits, twice as wide and high as they are."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    inputs, targets = nn.functional.interpolate(inputs, scale_factor=4), torch.from_numpy(labels)
    first, last = (TensorDataset(inputs[part], targets[part]) for part in (slice(1400), slice(1400, None)))
    return DataLoader(first, batch_size=64, shuffle=True), DataLoader(last, batch_size=64)


def main(name: str = "test_resnet") -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, in_chans=1, num_classes=10)
    train, validation = loaders()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for inputs, targets in train:  # pretrained=True instead, where its weights can be had
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    model.eval()

    graph = ecc.trace(model, next(iter(validation))[0][:1])
    print(graph)
    for group in graph.groups:
        if not group.prunable:
            print(f"  {group.name} stays: {group.reason}")
    result = ecc.compress(model, train, validation, budgets=["macs<=50%"], method="uniform", epochs=1)
    print(result)
    torch.save(result.model.state_dict(), "small.pt")  # an ordinary module: save it as you always do


if __name__ == "__main__":
    main(*sys.argv[1:2])
