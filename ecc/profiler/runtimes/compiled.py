"""Compiled: the network through ``torch.compile`` in its default mode."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ecc.core.errors import InputError, UnavailableError
from ecc.core.meter import Runnable
from ecc.profiler.devices import current_device
from ecc.profiler.runtimes.calling import Call, demand_agreement, eager_outputs, first_line

__all__ = ["Compiled"]

_MOST_ENTRIES = 1 << 20  # PyTorch turns to eager, silently, after eight networks of one class


@dataclass(frozen=True, slots=True)
class Compiled:
    """``torch.compile`` under inference mode, for the shapes of the inputs.

    Networks take turns, so none may disturb what was compiled for another: ``torch._dynamo.reset`` would, and so would
    the limit on how often one forward is compiled. Each network is therefore compiled behind a function with a code
    object of its own, which holds what was compiled and goes with the network.

    On a CPU each new width means new C++ kernels: 4 to 7 s of PyTorch's own time for one ResNet-20, and the C++
    compiler's besides. What was compiled before is found on disk.

    Attributes:
        device: Torch device string.
    """

    device: str = "cpu"

    def __post_init__(self) -> None:
        if current_device(self.device).kind == "cpu":
            _demand_compiler()
        else:
            _demand_triton()

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "compile"

    @property
    def environment(self) -> Mapping[str, str]:
        """The mode."""
        return {"compile_mode": "default"}

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode, compiled for as many threads as PyTorch has now.

        Raises:
            InputError: If PyTorch cannot compile the network.
            UnavailableError: If the compiled network computes something else.
        """
        network, call = module.to(self.device).eval(), Call.of(inputs, self.device)
        expected = eager_outputs(network, call)
        function, found = _compiled(network, call)
        demand_agreement(self.name, network, expected, found)
        args, kwargs = call.args, call.kwargs

        def run(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    function(*args, **kwargs)

        return run

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


def _own_function(network: nn.Module) -> Callable[..., Any]:
    """A call of the network with a fresh code object, to which the compiler attaches what it makes."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return network(*args, **kwargs)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)


def _compiled(network: nn.Module, call: Call) -> tuple[Callable[..., Any], Any]:
    """The compiled network, and its outputs for copies of the inputs."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    copies = call.replaced(tensor.clone() for tensor in call.tensors)  # ordinary tensors, or it would compile again
    limits = config.patch(cache_size_limit=_MOST_ENTRIES, accumulated_cache_size_limit=_MOST_ENTRIES)
    try:
        with torch.inference_mode(), warnings.catch_warnings(), limits:
            warnings.simplefilter("ignore")
            function = torch.compile(_own_function(network), dynamic=False)
            outputs = copies.on(function)
    except Exception as error:  # whatever tracer, compiler and C++ compiler raise
        raise InputError(
            f"torch.compile cannot compile the network ({first_line(error)}); measure it with --runtime eager"
        ) from error
    if counters["stats"]["unique_graphs"] == before:
        raise InputError("torch.compile finds nothing to compile in the network; measure it with --runtime eager")
    return function, outputs


def _demand_compiler() -> None:
    from torch._inductor import config

    names = config.cpp.cxx if isinstance(config.cpp.cxx, tuple | list) else [config.cpp.cxx]
    if not any(name and shutil.which(str(name)) for name in names):
        raise UnavailableError(
            "runtime compile needs a C++ compiler on a CPU and none is found; install g++ or name one in CXX"
        )


def _demand_triton() -> None:
    from torch.utils._triton import has_triton

    if not has_triton():
        raise UnavailableError(
            "runtime compile needs Triton on a GPU, and a GPU of compute capability 7.0 or more; pip install triton"
        )
