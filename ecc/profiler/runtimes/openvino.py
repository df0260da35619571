"""OpenVINO: the network exported to ONNX, compiled for the CPU with the hint for low latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import UnavailableError
from ecc.core.meter import Runnable
from ecc.profiler.devices import current_device
from ecc.profiler.host import signal_stack_kept
from ecc.profiler.runtimes.calling import Call
from ecc.profiler.runtimes.exporting import demand_exporters, input_names, sound_engine
from ecc.profiler.runtimes.templates import Templates

__all__ = ["OpenVino"]


@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO on the CPU, one stream.

    It computes float32 networks in float32; left alone it takes bfloat16 where a core has it, which is another network
    (the outputs of ResNet-20 moved by 0.4 to 0.8 %).

    Attributes:
        device: Torch device string of a CPU.
        threads: Threads of an inference; as many as PyTorch has when a network is prepared, if None.
    """

    device: str = "cpu"
    threads: int | None = None
    _templates: Templates = field(default_factory=Templates, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if current_device(self.device).kind != "cpu":
            raise UnavailableError("runtime openvino measures CPUs only; measure with --device cpu")
        demand_exporters(self.name, "openvino")
        _library()

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "openvino"

    @property
    def environment(self) -> Mapping[str, str]:
        """The version."""
        return {"openvino": str(_library().__version__)}

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network in evaluation mode, exported and compared with eager.

        Raises:
            InputError: If the network cannot be exported or run.
            UnavailableError: If the exported network computes something else.
        """
        network, call = module.to(self.device).eval(), Call.of(inputs, self.device)
        threads = self.threads or torch.get_num_threads()
        floats = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
        settings = _settings(threads, exact=floats <= {torch.float32, torch.float64})
        with signal_stack_kept():
            return sound_engine(
                self.name, network, call, lambda model: _Request(model, call, settings), self._templates
            ).run

    def synchronise(self) -> None:
        """Nothing to wait for: an inference has ended when it returns."""


class _Request:
    """An inference request with its inputs bound."""

    def __init__(self, model: bytes, call: Call, settings: Mapping[str, Any]) -> None:
        library = _library()
        core = library.Core()
        compiled = core.compile_model(core.read_model(model), "CPU", dict(settings))
        self._request = compiled.create_infer_request()
        self._arrays = []
        taken = {name for port in compiled.inputs for name in port.get_names()}
        for name, tensor in zip(input_names(call), call.tensors, strict=True):
            if name in taken:
                array = tensor.detach().contiguous().numpy()
                self._request.set_tensor(name, library.Tensor(array, shared_memory=True))
                self._arrays.append(array)
        self._ports = list(compiled.outputs)

    def run(self, times: int) -> None:
        infer = self._request.infer
        for _ in range(times):
            infer()

    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(self._request.get_tensor(port).data.copy()) for port in self._ports]


def _settings(threads: int, *, exact: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the profiler chooses the cores
    }
    return settings | {"INFERENCE_PRECISION_HINT": "f32"} if exact else settings


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UnavailableError(
            "runtime openvino needs openvino, which is not installed; pip install 'ecc-compress[openvino]'"
        ) from error
    return openvino
