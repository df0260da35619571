"""Int8 execution: a network on the processor's byte instructions, its agreement with float, and its real speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.comparing import difference
from ecc.network.nesting import bind, map_tensors, tensors_in
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.pairing import Estimate, Ready, alternate, estimate, ready
from ecc.profiler.runtimes.onnxruntime import OnnxRuntime, open_session
from ecc.stages.fixed_point.onnx_int8 import Feed, Int8, to_int8

__all__ = ["Int8Network", "agreement", "int8_session", "pieces"]

_PAIRS, _BLOCKS, _BURST = 5, 12, 5
_WARM_S, _WARM_RUNS = 0.2, 10


class Int8Network(nn.Module):
    """A network on bytes, run by ONNX Runtime on the CPU: called as the network is, with batches of any size.

    Attributes:
        float_onnx: The ONNX model in float32.
        int8_onnx: The one on bytes.
        agreement: Share of the calibration examples of which both find the same largest output.
        difference: Largest difference of the outputs on them, relative to the largest one.
        session: Of ONNX Runtime.
    """

    def __init__(self, inputs: Any, float_onnx: bytes, int8_onnx: bytes, threads: int) -> None:
        super().__init__()
        self.float_onnx, self.int8_onnx = float_onnx, int8_onnx
        self.agreement, self.difference = math.nan, math.nan
        self._inputs, self._batch, self._threads = inputs, _batch(inputs), threads
        self.session = open_session(int8_onnx, threads)

    @property
    def nbytes(self) -> int:
        """Size of the model on bytes."""
        return len(self.int8_onnx)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One tensor, or a tuple of them where the network has several outputs."""
        outputs = _outputs(self.session, (args, kwargs), self._batch)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def speed(self, *, pairs: int = _PAIRS, blocks: int = _BLOCKS, seed: int = 0) -> Estimate:
        """Seconds per inference on bytes against those in float32, both by ONNX Runtime, measured in turn.

        Args:
            pairs: Per block.
            blocks: The more, the narrower the interval.
            seed: Of who goes first.
        """
        runtime, rng, meter = OnnxRuntime("cpu", self._threads), np.random.default_rng(seed), CpuLatency()
        own, reference = (self._ready(runtime, model) for model in (self.int8_onnx, self.float_onnx))
        return estimate([alternate(own, reference, meter, pairs, rng, burst=_BURST) for _ in range(blocks)])

    def _ready(self, runtime: OnnxRuntime, model: bytes) -> Ready:
        return ready(_Loaded(runtime, model), self, self._inputs, seconds=_WARM_S, runs=_WARM_RUNS)


class _Loaded:
    """A runtime that runs one exported model, whatever the network."""

    def __init__(self, runtime: OnnxRuntime, model: bytes) -> None:
        self.name, self.device, self.environment = runtime.name, runtime.device, runtime.environment
        self._runtime, self._model = runtime, model

    def prepare(self, module: nn.Module, inputs: Any) -> Any:
        """What runs the model."""
        return self._runtime.load(self._model, inputs)

    def synchronise(self) -> None:
        """The CPU is never behind."""


def int8_session(
    model: nn.Module, inputs: Any, calibration: Iterable[Any], *, settings: Int8 | None = None, threads: int = 1
) -> Int8Network:
    """A network on bytes.

    Args:
        model: In float32; is left untouched.
        inputs: Of one inference, whose batch is run and timed: a tensor, or a tuple or dict of the forward's arguments.
        calibration: Batches of inputs that set the ranges of activations and tell the agreement; each is cut into
            batches of the size of ``inputs`` along the first axis, and a rest is passed over.
        settings: How; ``Int8()`` if None.
        threads: Of one inference.

    Raises:
        InputError: If the network cannot be exported or quantised, or there is too little calibration data.
        UnavailableError: If onnx, onnxscript or onnxruntime is not installed.
    """
    if any(tensor.dtype != torch.float32 for tensor in model.parameters() if tensor.is_floating_point()):
        raise InputError("int8 execution starts from float32; convert the network with .float()")
    size = _batch(inputs)
    cut = [piece for batch in calibration for piece, count in pieces(bind(batch), size) if count == size]
    if not cut:
        raise InputError(f"int8 needs calibration data: at least one batch of {size} examples")
    exported = OnnxRuntime("cpu", threads).export(model.eval(), inputs)
    original = open_session(exported, threads)
    feeds = [_feed(original, piece) for piece in cut]
    made = Int8Network(inputs, exported, to_int8(exported, feeds, settings or Int8()), threads)
    expected, found = _all(original, feeds), _all(made.session, feeds)
    made.agreement, made.difference = agreement(expected[0], found[0]), difference(expected, found)
    return made


def _batch(inputs: Any) -> int:
    """Examples of one inference."""
    tensor = next(tensors_in(list(bind(inputs))))
    return int(tensor.shape[0]) if tensor.ndim else 1


def pieces(call: tuple[Any, Any], size: int) -> Iterator[tuple[tuple[Any, Any], int]]:
    """A call's examples in batches of one size, with how many of each count: the last is filled up by repetition.

    Args:
        call: Positional and keyword arguments; tensors have as many examples along the first axis.
    """
    whole = _batch_of(call)
    for start in range(0, whole, size):
        places = torch.arange(start, start + size).clamp_max(whole - 1)
        yield _taken(call, places), min(size, whole - start)


def _taken(call: tuple[Any, Any], places: Tensor) -> Any:
    """The examples at some places of every tensor of a call."""

    def take(tensor: Tensor) -> Tensor:
        return tensor[places] if tensor.ndim else tensor

    return map_tensors(take, call)


def _batch_of(call: tuple[Any, Any]) -> int:
    return int(next(tensors_in(list(call))).shape[0])


def _outputs(session: Any, call: tuple[Any, Any], size: int) -> list[Tensor]:
    """Of a call with a batch of any size."""
    made = [
        [torch.from_numpy(array[:count] if array.ndim else array) for array in session.run(None, _feed(session, piece))]
        for piece, count in pieces(call, size)
    ]
    return [torch.cat(parts) if parts[0].ndim else parts[0] for parts in zip(*made, strict=True)]


def _all(session: Any, feeds: Sequence[Feed]) -> list[Tensor]:
    """The outputs of all inferences, one behind the other."""
    return [torch.from_numpy(np.concatenate(each)) for each in zip(*(session.run(None, f) for f in feeds), strict=True)]


def _feed(session: Any, call: tuple[Any, Any]) -> Feed:
    """Arrays for a session, which may ignore some of the inputs."""
    taken = {value.name for value in session.get_inputs()}
    named = {f"input_{number}": tensor for number, tensor in enumerate(tensors_in(list(call)))}
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in named.items() if name in taken}


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of examples with the same winner; of outputs that are no scores, nothing."""
    if one.ndim < 2 or one.shape[1] < 2:
        return math.nan
    return float((one.argmax(1) == other.argmax(1)).double().mean())
