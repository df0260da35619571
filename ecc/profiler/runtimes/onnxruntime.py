"""ONNX Runtime: the network exported to ONNX, run by its CPU or CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import UnavailableError
from ecc.core.meter import Runnable
from ecc.profiler.devices import current_device
from ecc.profiler.runtimes.calling import Call
from ecc.profiler.runtimes.exporting import demand_exporters, input_names, sound_engine
from ecc.profiler.runtimes.templates import Templates

__all__ = ["OnnxRuntime", "open_session"]


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime with all of its optimisations; inputs are bound once, so that no copy of them is timed.

    On a GPU each inference waits for the device, as ``InferenceSession.run`` does where it is deployed.

    Attributes:
        device: Torch device string.
        threads: Intra-op threads on a CPU; as many as PyTorch has when a network is prepared, if None.
    """

    device: str = "cpu"
    threads: int | None = None
    _templates: Templates = field(default_factory=Templates, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind = current_device(self.device).kind
        demand_exporters(self.name, "onnx")
        library = _library()
        if kind == "cuda" and "CUDAExecutionProvider" not in library.get_available_providers():
            raise UnavailableError(
                "onnxruntime has no CUDA provider here; pip install onnxruntime-gpu instead of onnxruntime"
            )

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "onnxruntime"

    @property
    def environment(self) -> Mapping[str, str]:
        """The version."""
        return {"onnxruntime": str(_library().__version__)}

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode, exported and compared with eager.

        Raises:
            InputError: If the network cannot be exported or run.
            UnavailableError: If the exported network computes something else.
        """
        network, call = module.to(self.device).eval(), Call.of(inputs, self.device)
        threads = self.threads or torch.get_num_threads()
        return sound_engine(
            self.name, network, call, lambda model: _Session(model, call, self.device, threads), self._templates
        ).run

    def export(self, module: nn.Module, inputs: Any) -> bytes:
        """The network as an ONNX model that computes what eager does; inputs are named as ``input_names`` names them.

        Raises:
            InputError: As ``prepare``.
            UnavailableError: As ``prepare``.
        """
        network, call, exported = module.to(self.device).eval(), Call.of(inputs, self.device), list[bytes]()

        def load(model: bytes) -> _Session:
            exported.append(model)
            return _Session(model, call, self.device, 1)

        sound_engine(self.name, network, call, load)
        return exported[-1]

    def load(self, model: bytes, inputs: Any) -> Runnable:
        """What runs an ONNX model, such as one of ``export`` that was changed, with these inputs bound."""
        threads = self.threads or torch.get_num_threads()
        return _Session(model, Call.of(inputs, self.device), self.device, threads).run

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


def open_session(model: bytes | str, threads: int = 1) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        model: Serialised, or the path of its file, which may name files of weights beside it.

    Raises:
        UnavailableError: If onnxruntime is not installed.
    """
    return _library().InferenceSession(model, _options(threads), providers=_providers("cpu", 0))


class _Session:
    """A session with everything bound."""

    def __init__(self, model: bytes, call: Call, device: str, threads: int) -> None:
        library, place = _library(), torch.device(device)
        index = place.index or 0
        session = library.InferenceSession(model, _options(threads), providers=_providers(place.type, index))
        if place.type == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise UnavailableError("onnxruntime cannot load its CUDA provider; install the CUDA version that it names")
        taken = {value.name for value in session.get_inputs()}
        self._binding = session.io_binding()
        self._values = []
        for name, tensor in zip(input_names(call), call.tensors, strict=True):
            if name in taken:
                array = tensor.detach().cpu().contiguous().numpy()
                value = library.OrtValue.ortvalue_from_numpy(array, place.type, index)
                self._binding.bind_ortvalue_input(name, value)
                self._values.append((array, value))  # the binding only points at them
        for value in session.get_outputs():
            self._binding.bind_output(value.name, place.type, index)
        self._session = session

    def run(self, times: int) -> None:
        run, binding = self._session.run_with_iobinding, self._binding
        for _ in range(times):
            run(binding)

    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(array.copy()) for array in self._binding.copy_outputs_to_cpu()]


def _options(threads: int) -> Any:
    options = _library().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Threads spin on after a run and would take the cores from the network whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _providers(kind: str, index: int) -> list[Any]:
    cuda = [("CUDAExecutionProvider", {"device_id": index})] if kind == "cuda" else []
    return [*cuda, "CPUExecutionProvider"]


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "runtime onnxruntime needs onnxruntime, which is not installed; pip install 'ecc-compress[onnx]'"
        ) from error
    return onnxruntime
