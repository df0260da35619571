"""ONNX: by the exporter on ``torch.export``, and by the one that records TorchScript where that fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecc.api.deployment.formats import Run, Writer
from ecc.api.deployment.programs import BATCH, Way, programs, takes_tensors, undisturbed
from ecc.core.errors import InputError, UnavailableError
from ecc.network.nesting import tensors_in
from ecc.profiler.runtimes.calling import Call
from ecc.profiler.runtimes.exporting import Flat
from ecc.profiler.runtimes.onnxruntime import open_session

__all__ = ["OnnxFiles", "feed_of", "open_onnx", "opset_of"]

_LARGEST_BYTES = 2_000_000_000  # of weights inside the file, which as a protobuf has to stay below 2 GiB
_OLDEST_OPSET = 9
_OLDEST_WRITTEN = 18  # by the newer exporter; its models are converted to older ones, if that succeeds
_DOMAIN = ("", "ai.onnx")
_AROUND = "network."  # what the weights' names begin with in the module that flattens inputs and outputs


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFiles:
    """ONNX models; weights of more than 2 GB lie beside the file, in ``FILE.data``.

    Attributes:
        opset: Version of the operators; the exporter's own if None.
        about: What the model's metadata say of its origin.
    """

    opset: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    name = "onnx"
    kind = "an ONNX model"
    example = "network.onnx"

    def __post_init__(self) -> None:
        newest = _newest_opset()
        if self.opset is not None and not _OLDEST_OPSET <= self.opset <= newest:
            raise InputError(f"opset {self.opset} is none that is known here; give {_OLDEST_OPSET} to {newest}")

    @staticmethod
    def alike(head: bytes) -> bool:
        """Whether a file that begins so is one: the version of its form, then the name of who made it."""
        return head[:1] == b"\x08" and head[2:3] in (b"\x12", b":")

    def writers(
        self, network: nn.Module, call: Call, batched: Sequence[bool] | None, names: Sequence[str]
    ) -> list[Writer]:
        """The newer exporter on each way to trace, then the older one; the other way round for some recurrent networks.

        Raises:
            InputError: If inputs or weights are in bfloat16.
        """
        held = (*call.tensors, *network.parameters(), *network.buffers())
        if any(tensor.dtype == torch.bfloat16 for tensor in held):
            raise InputError("ONNX Runtime has no bfloat16 on a CPU; convert the network with .float()")
        with torch.no_grad():
            given = call.on(network)
        ends = _output_names(given, names)
        order = _Order(
            network, call, tuple(names), tuple(ends), takes_tensors(call, given), sum(each.nbytes for each in held)
        )
        older = self.opset is not None and self.opset < _OLDEST_WRITTEN  # converted or not, however it is traced
        ways = programs(network, call, batched, flat=not order.plain)[: 1 if older else None]
        opened = partial(open_onnx, names=names)
        writers = [Writer("torch.onnx (dynamo)", partial(self._by_graph, order, way), opened) for way in ways]
        if order.large:  # the older exporter would write a file per tensor
            return writers
        long = [bool(batched) and each.ndim > 0 and len(each) == len(call.tensors[0]) for each in tensors_in(given)]
        free = [name for name, follows in zip((*names, *ends), (*(batched or ()), *long), strict=False) if follows]
        script = Writer("torch.onnx (TorchScript)", partial(self._by_script, order, free if batched else []), opened)
        return [*writers, script] if _keeps_recurrence(network) else [script, *writers]

    def _by_graph(self, order: _Order, way: Way, path: Path) -> None:
        traced = way()
        with undisturbed():
            made: Any = torch.onnx.export(traced, dynamo=True, **self._options(order))
            made.save(path, external_data=order.large)
        self._finish(path, "" if order.plain else _AROUND)

    def _by_script(self, order: _Order, free: Sequence[str], path: Path) -> None:
        flat, tensors = Flat(order.network, order.call).eval(), tuple(tensor.clone() for tensor in order.call.tensors)
        axes = {name: {0: BATCH} for name in free}
        with undisturbed():
            torch.onnx.export(flat, tensors, str(path), dynamo=False, dynamic_axes=axes, **self._options(order))
        self._finish(path, _AROUND)

    def _options(self, order: _Order) -> dict[str, Any]:
        return {
            "input_names": list(order.names),
            "output_names": list(order.ends),
            "opset_version": self.opset,
            "verbose": False,
        }

    def _finish(self, path: Path, prefix: str) -> None:
        """Name the batch axis and the weights as they are called, say where the model is from, and check its opset."""
        import onnx

        model = onnx.load(str(path), load_external_data=False)
        found = _opset(model)
        if self.opset is not None and found != self.opset:
            raise InputError(f"the exporter makes opset {found} of this network and not {self.opset}")
        _name_batch(model.graph)
        if prefix:
            _shorten(model.graph, prefix)
        onnx.helper.set_model_props(model, {f"ecc.{name}": text for name, text in self.about.items() if text})
        path.write_bytes(model.SerializeToString())


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """A network to write, with the names of its inputs and outputs.

    Attributes:
        plain: Whether it takes and gives tensors one after another.
        nbytes: Of its weights.
    """

    network: nn.Module
    call: Call
    names: tuple[str, ...]
    ends: tuple[str, ...]
    plain: bool
    nbytes: int

    @property
    def large(self) -> bool:
        """Whether the weights need a file of their own."""
        return self.nbytes > _LARGEST_BYTES


def open_onnx(path: Path, *, names: Sequence[str]) -> Run:
    """What runs an ONNX model; its tensors are named so, in the order of a call's."""
    session = open_session(str(path))

    def run(call: Call) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, feed_of(session, names, call))]

    return run


def opset_of(path: Path) -> int:
    """Version of the operators of a model."""
    import onnx

    return _opset(onnx.load(str(path), load_external_data=False))


def _opset(model: Any) -> int:
    return int(next(each.version for each in model.opset_import if each.domain in _DOMAIN))


def feed_of(session: Any, names: Sequence[str], call: Call) -> dict[str, Any]:
    """Arrays for a session of ONNX Runtime, whose model may ignore some of the inputs."""
    taken = {value.name for value in session.get_inputs()}
    given = zip(names, call.tensors, strict=True)
    return {name: tensor.detach().contiguous().numpy() for name, tensor in given if name in taken}


def _keeps_recurrence(network: nn.Module) -> bool:
    """Whether the newer exporter makes one operator of each recurrent layer; some versions write out every time step.

    For torch 2.6 that is so of all kinds: 64 steps of an LSTM keep it busy for more than six minutes.
    """
    for mode in {layer.mode for layer in network.modules() if isinstance(layer, nn.RNNBase)}:
        kind = mode.partition("_")[0]
        tiny: nn.Module = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(kind, nn.RNN)(1, 1).eval()
        try:
            with undisturbed():
                program = torch.export.export(tiny, (torch.zeros(2, 1, 1),), strict=False)
                made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        except Exception:  # whatever exporters raise
            return False
        if kind not in {node.op_type for node in made.model_proto.graph.node}:
            return False
    return True


def _output_names(given: Any, taken: Sequence[str]) -> list[str]:
    """A name for each output: its own where outputs have names, else ``output``, numbered if there are several."""
    count = sum(1 for _ in tensors_in(given))
    pairs: list[tuple[Any, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif is_dataclass(given) and not isinstance(given, type):
        pairs = [(each.name, getattr(given, each.name)) for each in fields(given)]
    elif hasattr(given, "_fields"):
        pairs = list(zip(given._fields, given, strict=True))
    names = [str(name) for name, value in pairs if isinstance(value, Tensor)]
    sound = len(names) == count and all(name.isidentifier() for name in names)
    if not sound:
        names = ["output"] if count == 1 else [f"output_{number}" for number in range(count)]
    return [f"{name}_out" if name in taken else name for name in names]


def _name_batch(graph: Any) -> None:
    """The symbol that the exporter has found for the first axis of the first input of any length is the batch."""
    shapes = [each.type.tensor_type.shape.dim for each in graph.input]
    symbol = next((dims[0].dim_param for dims in shapes if len(dims) and dims[0].dim_param), "")
    if not symbol or symbol == BATCH:
        return
    word = re.compile(rf"\b{re.escape(symbol)}\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = word.sub(BATCH, dim.dim_param)


def _shorten(graph: Any, prefix: str) -> None:
    """Weights by the names of the network itself, not of the module around it."""
    if any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        return  # bodies of loops and branches may name weights too
    held = {each.name for each in graph.initializer}
    known = held | {each.name for each in (*graph.input, *graph.output)} | {out for n in graph.node for out in n.output}
    shorter = {name: name.removeprefix(prefix) for name in held if name.startswith(prefix)}
    new = {old: short for old, short in shorter.items() if short not in known}
    for each in (*graph.initializer, *graph.value_info):
        each.name = new.get(each.name, each.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = new.get(name, name)


def _newest_opset() -> int:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"export to ONNX needs onnx, onnxscript and onnxruntime, and {error.name} is not installed; "
            "pip install 'ecc-compress[onnx]'"
        ) from error
    return int(onnx.defs.onnx_opset_version())
