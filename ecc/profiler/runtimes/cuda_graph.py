"""CUDA graphs: the eager network's kernels recorded once and replayed, without the cost of launching each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ecc.core.errors import InputError, UnavailableError
from ecc.core.meter import Runnable
from ecc.profiler.devices import current_device
from ecc.profiler.runtimes.calling import Call, demand_agreement, eager_outputs, first_line

__all__ = ["CudaGraph"]

_WARM_RUNS = 3  # libraries choose kernels and allocate workspaces in them, which a recording must not contain


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """Replays of one recorded eager inference.

    Attributes:
        device: Torch device string of a CUDA device.
    """

    device: str = "cuda"

    def __post_init__(self) -> None:
        if current_device(self.device).kind != "cuda":
            raise UnavailableError("runtime cudagraph needs a CUDA device; measure with --device cuda")

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""
        return "cudagraph"

    @property
    def environment(self) -> Mapping[str, str]:
        """The version of CUDA that PyTorch was built for."""
        return {"cuda": str(torch.version.cuda)}

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode, recorded on inputs that stay where they are.

        Raises:
            InputError: If the network cannot be recorded, as when it waits for the device or allocates outside.
            UnavailableError: If the replay computes something else.
        """
        network, call = module.to(self.device).eval(), Call.of(inputs, self.device)
        expected = eager_outputs(network, call)
        still = call.replaced(tensor.clone() for tensor in call.tensors)  # the caller's own may change or go
        graph, outputs = self._recorded(network, still)
        for tensor, original in zip(still.tensors, call.tensors, strict=True):
            tensor.copy_(original)  # a network may work in place
        graph.replay()
        self.synchronise()
        demand_agreement(self.name, network, expected, outputs)
        held = (network, still, outputs)  # memory that the graph reads and writes

        def run(times: int, _: Any = held) -> None:
            for _run in range(times):
                graph.replay()

        return run

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        torch.cuda.synchronize(self.device)

    def _recorded(self, network: nn.Module, call: Call) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self.device), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aside.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_RUNS):
                    call.on(network)
            torch.cuda.current_stream(self.device).wait_stream(aside)
            try:
                # Other threads, which read sensors, may call CUDA meanwhile.
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                    outputs = call.on(network)
            except Exception as error:  # whatever a forward raises that was cut short by the driver
                raise InputError(
                    f"the network cannot be recorded as a CUDA graph ({first_line(error)}); "
                    "measure it with --runtime eager"
                ) from error
        return graph, outputs
