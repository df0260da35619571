"""One small network of every family of torchvision's classifiers, at 32 pixels or the smallest input that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from conftest import import_torchvision
from torch import Tensor, nn

__all__ = ["VISION", "Vision", "enliven"]


@dataclass(frozen=True)
class Vision:
    """A network of torchvision.

    Attributes:
        name: Of its factory.
        size: Side of a small square input: 32 pixels, or the smallest that it takes if that is more.
        native: Side of the input that it is made for.
        options: Of the factory.
        sized: Whether the factory has to know the side of the input.
    """

    name: str
    size: int = 32
    native: int = 224
    options: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False

    def build(self, *, native: bool = False, **options: Any) -> tuple[nn.Module, Tensor]:
        """The network in eval mode with random weights, and one random image.

        Raises:
            ImportError: If torchvision is not installed.
        """
        torch.manual_seed(0)
        size = self.native if native else self.size
        sized = {"image_size": size} if self.sized else {}
        model = getattr(import_torchvision(), self.name)(weights=None, **{**self.options, **sized, **options})
        return model.eval(), torch.randn(1, 3, size, size)


_PLAIN = {"aux_logits": False, "init_weights": False}  # the initialisation of these two takes minutes

VISION: Mapping[str, Vision] = {
    network.name: network
    for network in (
        Vision("alexnet", 63),
        Vision("convnext_tiny"),
        Vision("densenet121"),
        Vision("efficientnet_b0"),
        Vision("efficientnet_v2_s", 32, 384),
        Vision("googlenet", options=_PLAIN),
        Vision("inception_v3", 75, 299, _PLAIN),
        Vision("maxvit_t", 224),
        Vision("mnasnet0_5"),
        Vision("mobilenet_v2"),
        Vision("mobilenet_v3_small"),
        Vision("mobilenet_v3_large"),
        Vision("regnet_x_400mf"),
        Vision("regnet_y_400mf"),
        Vision("resnet18"),
        Vision("resnet50"),
        Vision("resnext50_32x4d"),
        Vision("wide_resnet50_2"),
        Vision("shufflenet_v2_x0_5"),
        Vision("squeezenet1_1"),
        Vision("swin_t"),
        Vision("swin_v2_t"),
        Vision("vgg11_bn"),
        Vision("vit_b_16", sized=True),
    )
}


def enliven(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Make every part of a random network matter: statistics from random images, no branch scaled to nothing."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.ones_(parameter)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(torch.randn((8, *shape[1:]), generator=generator, dtype=next(model.parameters()).dtype))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        # A channel that hardly varies would blow up whatever is added to it, and with it the rounding.
        norm.running_var.clamp_(min=max(0.1, 0.1 * float(norm.running_var.mean())))
    model.eval()
