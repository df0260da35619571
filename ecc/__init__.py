"""ecc: profile a device once, prune any PyTorch network to a budget, prove on the device that it holds."""

__version__ = "0.1.0"
