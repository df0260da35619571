"""Eager: the network as PyTorch runs it, operator by operator, without autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError, UnavailableError
from ecc.core.meter import Runnable

__all__ = ["Eager"]


@dataclass(frozen=True, slots=True)
class Eager:
    """PyTorch without a compiler, under inference mode.

    Attributes:
        device: Torch device string.
    """

    device: str = "cpu"

    def __post_init__(self) -> None:
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise InputError(f"device {self.device!r} is unknown; choose cpu or cuda") from None
        if kind not in ("cpu", "cuda"):
            raise InputError(f"device {self.device!r} cannot be measured; choose cpu or cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise UnavailableError("no CUDA device is visible to PyTorch here; measure with --device cpu")

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "eager"

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode; the module is moved and switched in place."""
        network = module.to(self.device).eval()
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            kwargs = {name: self._moved(value) for name, value in inputs.items()}
        elif isinstance(inputs, tuple | list):
            args = tuple(self._moved(value) for value in inputs)
        else:
            args = (self._moved(inputs),)

        def run(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    network(*args, **kwargs)

        return run

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def _moved(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value
