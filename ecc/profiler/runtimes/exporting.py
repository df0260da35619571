"""Exporting: a network as an ONNX model in memory, by whichever of PyTorch's exporters makes one that is right.

The exporter that records TorchScript is tried first. On ResNet-20 it takes 0.1 to 0.2 s and the newer one, by
``torch.export``, 2.5 to 6 s; ONNX Runtime ran both models equally fast (0.477 ms). The newer one does what it cannot.
Networks that differ in widths alone share one export where that can be proven, see ``templates``.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError, UnavailableError
from ecc.network.nesting import tensors_in
from ecc.profiler.runtimes.calling import Call, demand_agreement, eager_outputs, first_line
from ecc.profiler.runtimes.silencing import quiet_output
from ecc.profiler.runtimes.templates import Templates

__all__ = ["Engine", "Flat", "demand_exporters", "input_names", "sound_engine"]


class Engine(Protocol):
    """A model that another library has loaded, its inputs bound."""

    def run(self, times: int) -> None:
        """Do as many inferences."""

    def outputs(self) -> list[Tensor]:
        """Copies of what the last inference gave."""


def demand_exporters(runtime: str, extra: str) -> None:
    """Refuse to go on without the libraries that exporting needs.

    Raises:
        UnavailableError: If one is missing; names the extra to install.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"runtime {runtime} exports by onnx and onnxscript, and {error.name} is not installed; "
            f"pip install 'ecc-compress[{extra}]'"
        ) from error


def sound_engine(
    runtime: str, network: nn.Module, call: Call, load: Callable[[bytes], Engine], templates: Templates | None = None
) -> Engine:
    """Export a network, load it, and make sure that it computes what eager does.

    Args:
        runtime: Its name.
        network: On its device, in evaluation mode.
        call: The inputs, on the same device; tensors are named ``input_names(call)``.
        load: Makes an engine of a serialised ONNX model.
        templates: What is known of networks exported before.
    Raises:
        InputError: If no exporter can take the network or its inputs, or the runtime cannot run what they make.
        UnavailableError: If it runs, but computes something else.
    """
    if any(tensor.dtype == torch.bfloat16 for tensor in call.tensors):  # numpy has no such numbers to bind
        raise InputError(f"{runtime} takes no inputs of bfloat16; give float32 or float16, or use --runtime eager")
    expected = eager_outputs(network, call)
    known = templates or Templates()
    if (model := known.fill(flat := Flat(network, call), call)) is not None:
        try:
            return _agreed(runtime, network, expected, load(model))
        except Exception:  # as below
            known.reject()
    failure: Exception | None = None
    for export in (_by_script, _by_graph):
        try:
            model = export(network, call)
            engine = load(model)
            engine.run(1)
            found = engine.outputs()
        except UnavailableError:
            raise
        except Exception as error:  # whatever exporters and engines raise
            failure = failure or error
            continue
        try:
            demand_agreement(runtime, network, expected, found)
        except UnavailableError as error:
            failure = error
        else:
            if export is _by_script:
                known.learn(flat, call, model)
            return engine
    if isinstance(failure, UnavailableError):
        raise failure
    reason = "" if failure is None else f" ({first_line(failure)})"
    raise InputError(
        f"the network cannot be exported to {runtime}{reason}; measure it with --runtime eager"
    ) from failure


def _agreed(runtime: str, network: nn.Module, expected: list[Tensor], engine: Engine) -> Engine:
    engine.run(1)
    demand_agreement(runtime, network, expected, engine.outputs())
    return engine


def input_names(call: Call) -> list[str]:
    """What the tensors of a call are named in the exported model; those that it ignores may be missing there."""
    return [f"input_{index}" for index in range(len(call.tensors))]


class Flat(nn.Module):
    """A network whose inputs and outputs are tensors one after another, whatever they were nested in."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network = network
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The network's output tensors."""
        return tuple(tensors_in(self._call.replaced(tensors).on(self.network)))


def _by_script(network: nn.Module, call: Call) -> bytes:
    """Tensors go by their own names and are not folded, neither into each other: engines do that as they load."""
    import onnx

    written = io.BytesIO()
    plain: dict[str, Any] = {
        "training": torch.onnx.TrainingMode.PRESERVE,  # which is evaluation; asked for that, norms would be folded
        "do_constant_folding": False,
        "keep_initializers_as_inputs": True,  # or tensors of equal values would become one
    }
    _export(network, call, written, dynamo=False, **plain)
    model = onnx.load_from_string(written.getvalue())
    held = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return bytes(model.SerializeToString())


def _by_graph(network: nn.Module, call: Call) -> bytes:
    program: Any = _export(network, call, dynamo=True)
    return bytes(program.model_proto.SerializeToString())


def _export(network: nn.Module, call: Call, *target: Any, dynamo: bool, **options: Any) -> Any:
    tensors: Sequence[Tensor] = [tensor.clone() for tensor in call.tensors]
    flat = Flat(copy.deepcopy(network), call).eval()  # exporters leave traces in a module
    with warnings.catch_warnings(), torch.no_grad(), quiet_output():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            flat, tuple(tensors), *target, input_names=input_names(call), dynamo=dynamo, verbose=False, **options
        )
