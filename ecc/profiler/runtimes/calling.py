"""Calling: a network's inputs on a device, and what eager makes of them, by which every other runtime is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import UnavailableError
from ecc.network.comparing import difference
from ecc.network.nesting import bind, map_tensors, tensors_in

__all__ = ["Call", "demand_agreement", "eager_outputs", "first_line"]

_TOLERANCE = 1e-3
_COARSE_TOLERANCE = 3e-2  # half precision, and TF32 on a GPU: each runtime rounds in its own places


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Arguments of a forward.

    Attributes:
        args: Positional ones; may be nested.
        kwargs: Keyword ones; may be nested.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: Any, device: str) -> Call:
        """Example inputs, every tensor on the device.

        Raises:
            InputError: If they are neither a tensor, nor a tuple, list or dict that holds one.
        """
        args, kwargs = bind(inputs)
        return cls(*map_tensors(lambda tensor: tensor.to(device), (args, kwargs)))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which ``replaced`` takes them."""
        return list(tensors_in([self.args, self.kwargs]))

    def replaced(self, tensors: Iterable[Tensor]) -> Call:
        """The same call of other tensors."""
        others = iter(tensors)
        return Call(*map_tensors(lambda _: next(others), (self.args, self.kwargs)))

    def on(self, network: Any) -> Any:
        """What the network, a module or a function, gives."""
        return network(*self.args, **self.kwargs)


def eager_outputs(network: nn.Module, call: Call) -> list[Tensor]:
    """The output tensors of one eager inference, on the CPU; a network that changes its inputs changes copies."""
    with torch.inference_mode():
        return _on_cpu(call.replaced(tensor.clone() for tensor in call.tensors).on(network))


def demand_agreement(runtime: str, network: nn.Module, expected: list[Tensor], found: Any) -> None:
    """Refuse a runtime whose outputs are not those of eager.

    Args:
        runtime: Its name.
        network: Decides on the tolerance, by its dtypes.
        expected: Of ``eager_outputs``.
        found: Outputs of the runtime, nested as it likes.
    Raises:
        UnavailableError: If they differ by more than rounding does.
    """
    limit, gap = _limit(network, expected), difference(expected, _on_cpu(found))
    if not gap <= limit:
        raise UnavailableError(
            f"{runtime} computes something else than eager: the outputs differ by {gap:.2g} of the largest one, and "
            f"{limit:g} is allowed; measure the network with --runtime eager"
        )


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for a sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _on_cpu(outputs: Any) -> list[Tensor]:
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors_in(outputs)]


def _limit(network: nn.Module, expected: list[Tensor]) -> float:
    held = [*network.parameters(), *expected]
    half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in held)
    return _COARSE_TOLERANCE if half or any(tensor.is_cuda for tensor in held) else _TOLERANCE
