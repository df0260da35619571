"""How a network is run when it is measured, one runtime a file."""

from __future__ import annotations

from ecc.core.errors import InputError
from ecc.core.meter import Runtime
from ecc.profiler.runtimes.compiled import Compiled
from ecc.profiler.runtimes.cuda_graph import CudaGraph
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.runtimes.onnxruntime import OnnxRuntime
from ecc.profiler.runtimes.openvino import OpenVino

__all__ = ["RUNTIMES", "runtime_named"]

RUNTIMES: tuple[str, ...] = ("eager", "compile", "cudagraph", "onnxruntime", "openvino")
"""Names of the runtimes."""


def runtime_named(name: str, device: str = "cpu", threads: int | None = None) -> Runtime:
    """The runtime of that name on a torch device.

    Args:
        threads: Of a runtime that has threads of its own; the others take PyTorch's. As many as PyTorch has when a
            network is prepared, if None.

    Raises:
        InputError: If there is none of that name.
        UnavailableError: If the device or a library is not here.
    """
    match name:
        case "eager":
            return Eager(device)
        case "compile":
            return Compiled(device)
        case "cudagraph":
            return CudaGraph(device)
        case "onnxruntime":
            return OnnxRuntime(device, threads)
        case "openvino":
            return OpenVino(device, threads)
    raise InputError(f"runtime {name!r} is unknown; choose from {', '.join(RUNTIMES)}")
