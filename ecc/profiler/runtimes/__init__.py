"""How a network is run when it is measured, one runtime a file.

Installed packages may add to them: entry points of the group ``ecc.runtimes``, each called with device and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ecc.core.errors import InputError
from ecc.core.meter import Runtime
from ecc.core.parts import Parts
from ecc.profiler.runtimes.compiled import Compiled
from ecc.profiler.runtimes.cuda_graph import CudaGraph
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.runtimes.onnxruntime import OnnxRuntime
from ecc.profiler.runtimes.openvino import OpenVino

__all__ = ["RUNTIMES", "runtime_named"]

Factory = Callable[[str, int | None], Runtime]
"""Makes a runtime of a torch device and a number of threads."""


def _as_factory(name: str, found: Any) -> Factory:
    if not callable(found):
        raise InputError(f"runtime {name!r} must be called with a device and a number of threads, got {found!r:.80}")
    factory: Factory = found
    return factory


_FACTORIES: Mapping[str, Factory] = Parts(
    "ecc.runtimes",
    {
        "eager": lambda device, threads: Eager(device),
        "compile": lambda device, threads: Compiled(device),
        "cudagraph": lambda device, threads: CudaGraph(device),
        "onnxruntime": OnnxRuntime,
        "openvino": OpenVino,
    },
    _as_factory,
)

RUNTIMES: tuple[str, ...] = tuple(_FACTORIES)
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
    if name not in _FACTORIES:
        raise InputError(f"runtime {name!r} is unknown; choose from {', '.join(RUNTIMES)}")
    return _FACTORIES[name](device, threads)
