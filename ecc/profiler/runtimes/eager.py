"""Eager: the network as PyTorch runs it, operator by operator, without autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ecc.core.meter import Runnable
from ecc.profiler.devices import current_device
from ecc.profiler.runtimes.calling import Call

__all__ = ["Eager"]


@dataclass(frozen=True, slots=True)
class Eager:
    """PyTorch without a compiler, under inference mode.

    Attributes:
        device: Torch device string.
    """

    device: str = "cpu"

    def __post_init__(self) -> None:
        current_device(self.device)

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "eager"

    @property
    def environment(self) -> Mapping[str, str]:
        """Nothing beyond PyTorch."""
        return {}

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode; the module is moved and switched in place."""
        network, call = module.to(self.device).eval(), Call.of(inputs, self.device)
        args, kwargs = call.args, call.kwargs

        def run(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    network(*args, **kwargs)

        return run

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
