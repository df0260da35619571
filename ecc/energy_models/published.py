"""Cost models that others published, as coefficients."""

from __future__ import annotations

from ecc.energy_models.bilinear import BilinearCost

__all__ = ["alexnet_tx2"]

_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
_CHANNELS = (3, 64, 192, 384, 256, 256, 4096, 4096, 1000)
_BIAS_J = 0.00248207
_DENSE_J = (0.00223371, 0.00753995, 0.00390926, 0.00494067, 0.00339310, 0.01615652, 0.00721406, 0.00195418)


def alexnet_tx2() -> BilinearCost:
    """Energy of AlexNet (224², one image) on a Jetson TX2, as released with ECC (Yang, Zhu, Liu: CVPR 2019).

    Groups ``conv1`` … ``fc7`` are what each layer writes; 0.0498 J per image when dense. How far it can be trusted was
    not published, so it promises no interval and no bounds of its widths.
    """
    return BilinearCost.chain(_CHANNELS, _DENSE_J, constant=_BIAS_J, names=_LAYERS)
