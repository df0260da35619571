"""Acoustic models on log-mel frames (batch, frames, features): a feed-forward one, an LSTM and a GRU.

The shapes follow Hinton et al. (IEEE Signal Processing Magazine 2012) and Sak et al. (Interspeech 2014), at a size that
suits isolated words: a clip of a fixed number of frames gives one class.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ecc.zoo.sizes import positive_ints

__all__ = ["MlpAcoustic", "RecurrentAcoustic", "gru_acoustic", "lstm_acoustic", "mlp_acoustic"]


class RecurrentAcoustic(nn.Module):
    """Recurrent layers, mean over time, one linear layer.

    Attributes:
        layers: One module per layer, so that each has a width of its own: torch's stacked form must keep them equal.
        head: Reads the mean of the last layer's outputs.
    """

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], features: int, width: int, layers: int, num_classes: int
    ) -> None:
        super().__init__()
        sizes = [features, *[width] * layers]
        self.layers = nn.ModuleList(kind(fan_in, fan_out, batch_first=True) for fan_in, fan_out in pairwise(sizes))
        self.head = nn.Linear(width, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from frames of shape (batch, time, features)."""
        for layer in self.layers:
            frames, _ = layer(frames)
        logits: Tensor = self.head(frames.mean(1))
        return logits


class MlpAcoustic(nn.Module):
    """All frames side by side, hidden layers with ReLU, one linear layer."""

    def __init__(self, inputs: int, width: int, layers: int, num_classes: int) -> None:
        super().__init__()
        hidden: list[nn.Module] = []
        for fan_in, fan_out in pairwise([inputs, *[width] * layers]):
            hidden += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden)
        self.head = nn.Linear(width, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from frames of shape (batch, time, features)."""
        logits: Tensor = self.head(self.hidden(frames.flatten(1)))
        return logits


def lstm_acoustic(num_classes: int = 10, features: int = 40, width: int = 128, layers: int = 2) -> RecurrentAcoustic:
    """LSTM with ``layers`` layers of ``width`` cells."""
    positive_ints("lstm-acoustic", num_classes=num_classes, features=features, width=width, layers=layers)
    return RecurrentAcoustic(nn.LSTM, features, width, layers, num_classes)


def gru_acoustic(num_classes: int = 10, features: int = 40, width: int = 128, layers: int = 2) -> RecurrentAcoustic:
    """GRU with ``layers`` layers of ``width`` cells."""
    positive_ints("gru-acoustic", num_classes=num_classes, features=features, width=width, layers=layers)
    return RecurrentAcoustic(nn.GRU, features, width, layers, num_classes)


def mlp_acoustic(
    num_classes: int = 10, features: int = 40, frames: int = 64, width: int = 512, layers: int = 3
) -> MlpAcoustic:
    """Feed-forward network with ``layers`` hidden layers of ``width`` units."""
    sizes = {"features": features, "frames": frames, "width": width, "layers": layers}
    positive_ints("mlp-acoustic", num_classes=num_classes, **sizes)
    return MlpAcoustic(frames * features, width, layers, num_classes)
