"""export: a network as a file for deployment, which is run and compared with the network before it is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ecc.api.deployment.examples import Example, Sample, input_names_of
from ecc.api.deployment.exported import Exported, Port
from ecc.api.deployment.formats import Format
from ecc.api.deployment.int8 import TOLERANCE, Examples, examples_of, put_on_bytes, samples_of, winners
from ecc.api.deployment.onnx_files import OnnxFiles, open_onnx, opset_of
from ecc.api.deployment.program_files import ProgramFiles
from ecc.api.deployment.programs import BATCH
from ecc.api.deployment.sources import Exportable, source_of
from ecc.api.deployment.state_files import StateFiles, demand_recipe_place
from ecc.api.deployment.targets import demand_place, publish, staged, writing
from ecc.core.errors import EccError, InputError
from ecc.core.problem import Progress
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.profiler.runtimes.calling import Call, eager_outputs, first_line

__all__ = ["ANY", "FORMATS", "export"]

FORMATS = ("onnx", "pt2", "state-dict")
"""As on the command line."""

ANY = "any"
"""The batch of which the size is left open."""

_ENDINGS = MappingProxyType({".onnx": "onnx", ".pt2": "pt2", ".safetensors": "state-dict"})
_HALF = (torch.float16, torch.bfloat16)
_TOLERANCE = 1e-4  # as that of slimming
_COARSE = 3e-2  # of half precision: each runtime rounds in its own places
_TRIES = 3  # batches of inputs that a file is run on
_STAGE = "exporting"
_UNWRITTEN = "; nothing is written"


def export(
    source: Any,
    file: str | Path,
    *,
    format: str | None = None,
    inputs: Any = None,
    model: nn.Module | None = None,
    batch: int | str | None = None,
    opset: int | None = None,
    int8: bool | None = None,
    data: Any = None,
    data_dir: str | Path | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exported:
    """Write a network as a file that other programs run; it is there only once it was run and gave the same outputs.

    Args:
        source: An artefact's folder, what ``load``, ``compress`` or ``stage`` gave, or a module.
        file: What to write; only its like is replaced.
        format: ``onnx``, ``pt2`` or ``state-dict``; by the ending of the file's name (``.onnx``, ``.pt2``,
            ``.safetensors``) if None.
        inputs: Of one inference, where the source does not know them.
        model: The dense network of an artefact that does not name it.
        batch: Examples of an inference; ``"any"`` for any number; any where the network allows it if None.
        opset: Of ONNX; the exporter's own if None.
        int8: Whether an ONNX model is put on bytes; if None, where the last stage of the source was fixed-point.
        data: What sets the ranges of int8: DATA of the command line, what ``load_data`` gives, or batches of inputs;
            what the source was trained on if None.
        data_dir: Folder of the data.
        tolerance: Largest difference of outputs, relative to the largest one; 1e-4 in float32, 0.1 on bytes if None.
        seed: Of the inputs that are tried.
        progress: Told what is being done.

    Raises:
        InputError: If the input makes no sense, or the network cannot be exported so.
        UnavailableError: If a library is missing.
        EccError: If the file computes something else; nothing is then written.
    """
    began = time.monotonic()
    tell = progress or (lambda *_: None)
    format = _format_by_name(Path(file).suffix, format)
    kind = _kind(format, batch, opset, int8, tolerance)
    target = demand_place(file, kind.kind, kind.alike)
    if kind is StateFiles:
        demand_recipe_place(target)
    if kind is OnnxFiles:
        OnnxFiles(opset)  # is refused before anything is loaded
    tell(_STAGE, 0, 2, format)
    given = source_of(source, inputs, model=model)
    if any(tensor.is_meta for tensor in (*given.network.parameters(), *given.network.buffers())):
        raise InputError("the network has no values yet (it is on the meta device); load its weights first")
    network = copy_sharing(given.network, {}).to("cpu").requires_grad_(False).eval()
    example = Example.of(network, given.inputs)
    bytes_wanted = kind is OnnxFiles and (given.fixed_point if int8 is None else int8)
    if bytes_wanted:
        _refuse_other_floats(network)
        examples = examples_of(
            given.data if data is None else data, data_dir, batch if isinstance(batch, int) else None
        )
    with staged(target) as folder:
        path = folder / target.name
        attempt = _Attempts(_format_of(kind, given, opset), network, example, path, seed, _limit(network, tolerance))
        with writing(target):
            found = attempt.first(batch)
        if bytes_wanted:
            tell(_STAGE, 1, 2, "int8")
            with writing(target):
                found = _on_bytes(found, network, path, examples, TOLERANCE if tolerance is None else tolerance)
        opset_made = opset_of(path) if kind is OnnxFiles else None
        files = publish(folder, target)
    tell(_STAGE, 2, 2, "")
    return Exported(
        file=target,
        files=files,
        format=format,
        nbytes=sum(each.stat().st_size for each in files),
        max_abs_diff=found.gap,
        difference=found.difference,
        tolerance=found.tolerance,
        batches=tuple(_length(sample.call) for sample in found.samples),
        batch=found.batch,
        reason=found.reason,
        exporter=found.exporter,
        opset=opset_made,
        inputs=tuple(_port(name, tensor, follows and found.batch is None) for name, tensor, follows in found.inputs),
        int8=bytes_wanted,
        agreement=found.agreement,
        examples=found.examples,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A file that computes what the network does."""

    exporter: str
    names: list[str]
    example: Example
    samples: list[Sample]
    batch: int | None
    reason: str
    gap: float
    difference: float
    tolerance: float
    agreement: float | None = None
    examples: str = ""

    @property
    def inputs(self) -> list[tuple[str, Tensor, bool]]:
        """Name, tensor and whether its first axis is the batch."""
        return list(zip(self.names, self.samples[0].call.tensors, self.example.batched, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Attempts:
    """The ways to write one file, tried until one gives the network's outputs."""

    form: Format
    network: nn.Module
    example: Example
    path: Path
    seed: int
    tolerance: float

    def first(self, batch: int | str | None) -> _Found:
        """The file for batches of any size, or, where there is none and none was asked for, of one size.

        Raises:
            InputError: If the network cannot be written so.
            EccError: If it can, but the file computes something else.
        """
        self._refuse_noise()
        own = self.example.batch
        if own is None and batch is not None:
            raise InputError("the network's first input has no axes and so no batch; leave the batch out")
        if self.form.name == "state-dict":
            return self._tried([None] * _TRIES, None, None, "")
        if own is None or isinstance(batch, int):
            size = batch if isinstance(batch, int) else None
            return self._tried([size] * _TRIES, None, size or 1, "")
        try:
            return self._tried(self.example.batches(), self.example.batched, None, "")
        except EccError as error:
            if batch is not None:
                raise
            reason = str(error).removesuffix(_UNWRITTEN).removesuffix("; try another format")
        return self._tried([own] * _TRIES, None, own, reason)

    def _tried(
        self, batches: Sequence[int | None], batched: list[bool] | None, batch: int | None, reason: str
    ) -> _Found:
        samples = self.example.samples(self.network, batches, self.seed)
        call, failures = samples[0].call, list[Exception]()
        names = input_names_of(self.network, call)
        tensors = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        for writer in self.form.writers(copy_sharing(self.network, tensors), call, batched, names):
            for left in self.path.parent.iterdir():
                left.unlink()
            try:
                writer.write(self.path)
                run = writer.open(self.path)
                gap, relative = _gaps(samples, [run(sample.call) for sample in samples])
            except EccError as error:
                failures.append(error)
            except OSError:  # of the disk; another exporter would meet it too
                raise
            except Exception as error:  # whatever exporters and engines raise
                failures.append(
                    InputError(f"{writer.exporter} cannot export the network ({first_line(error)}); try another format")
                )
            else:
                if relative <= (limit := self.tolerance):
                    return _Found(writer.exporter, names, self.example, samples, batch, reason, gap, relative, limit)
                failures.append(
                    EccError(
                        f"what {writer.exporter} makes computes something else than the network: outputs differ by "
                        f"{gap:.2g}, {relative:.2g} of the largest one, and {limit:g} of it is allowed{_UNWRITTEN}"
                    )
                )
        wrong = [error for error in failures if not isinstance(error, InputError)]
        raise (wrong or failures)[0]

    def _refuse_noise(self) -> None:
        """Refuse a network that draws random numbers, or keeps something from one run to the next."""
        (sample,) = self.example.samples(self.network, [None], self.seed)
        if not difference(sample.outputs, eager_outputs(self.network, sample.call)) <= self.tolerance:
            raise InputError(
                "the network gives other outputs each time that it runs, so no file can be compared with it"
            )


def _format_by_name(suffix: str, format: str | None) -> str:
    """The format that is meant.

    Raises:
        InputError: If neither it nor the ending of the file's name says, or they disagree.
    """
    named = _ENDINGS.get(suffix.lower())
    if format is None and named is None:
        raise InputError(f"the ending {suffix!r} names no format; give one ({', '.join(FORMATS)}) or end in .onnx")
    if format is not None and named not in (None, format):
        raise InputError(f"a file that ends in {suffix} is taken for {named} and not {format}; give another name")
    return format or str(named)


def _kind(
    format: str, batch: int | str | None, opset: int | None, int8: bool | None, tolerance: float | None
) -> type[OnnxFiles] | type[ProgramFiles] | type[StateFiles]:
    """The class of a format, once the options are seen to make sense with it."""
    if format not in FORMATS:
        raise InputError(f"export(format=...) must be one of {', '.join(FORMATS)}, got {format!r}")
    if batch is not None and batch != ANY and (type(batch) is not int or batch < 1):
        raise InputError(f"the batch must be a whole number of at least 1 or {ANY!r}, got {batch!r}")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise InputError(f"the tolerance must be positive, got {tolerance}")
    if format != "onnx" and (opset is not None or int8):
        raise InputError(f"{'int8' if int8 else 'an opset'} is of ONNX, not of {format}; leave it out")
    if format == "state-dict" and batch is not None:
        raise InputError("a state dict fits batches of any size; leave the batch out")
    return {"onnx": OnnxFiles, "pt2": ProgramFiles, "state-dict": StateFiles}[format]


def _format_of(kind: type[Format], given: Exportable, opset: int | None) -> Format:
    about = dict(given.recipe.about or {})
    if kind is OnnxFiles:
        return OnnxFiles(opset, about)
    return ProgramFiles(about) if kind is ProgramFiles else StateFiles(given.recipe, given.dense)


def _limit(network: nn.Module, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    return _COARSE if any(each.dtype in _HALF for each in network.parameters()) else _TOLERANCE


def _refuse_other_floats(network: nn.Module) -> None:
    if any(each.dtype != torch.float32 for each in network.parameters() if each.is_floating_point()):
        raise InputError("int8 starts from float32; convert the network with .float()")


def _on_bytes(found: _Found, network: nn.Module, path: Path, examples: Examples, tolerance: float) -> _Found:
    """The file put on bytes, compared on real inputs.

    Raises:
        InputError: If it cannot be.
        EccError: If the outputs are too far off.
    """
    put_on_bytes(path, found.names, examples)
    run = open_onnx(path, names=found.names)
    for sample in found.samples:  # batches of other sizes still run
        if [each.shape for each in run(sample.call)] != [each.shape for each in sample.outputs]:
            raise EccError("the network on int8 gives outputs of other shapes; nothing is written")
    samples = samples_of(network, examples)
    outputs = [run(sample.call) for sample in samples]
    gap, relative = _gaps(samples, outputs)
    share = winners(samples, outputs)
    count = sum(_length(sample.call) for sample in samples)
    if not relative <= tolerance:
        agreed = "" if share is None else f", with the same winner in {100 * share:.1f} % of {count} examples"
        raise EccError(
            f"on int8 the network is too far from float: outputs differ by {gap:.2g}, {relative:.2g} of the largest "
            f"one{agreed}, and {tolerance:g} of it is allowed; nothing is written; allow more, or export in float"
        )
    return replace(
        found,
        exporter=f"{found.exporter}, onnxruntime.quantization",
        samples=samples,
        gap=gap,
        difference=relative,
        tolerance=tolerance,
        agreement=share,
        examples=f"{count} examples {examples.where}",
    )


def _gaps(samples: Sequence[Sample], found: Sequence[list[Tensor]]) -> tuple[float, float]:
    """Largest difference, absolute and relative to the largest value of the output."""
    pairs = [(sample.outputs, each) for sample, each in zip(samples, found, strict=True)]
    absolute = max(difference(*pair, relative=False) for pair in pairs)
    return absolute, max(difference(*pair) for pair in pairs)


def _length(call: Call) -> int:
    """Examples of a call."""
    first = call.tensors[0]
    return int(first.shape[0]) if first.ndim else 1


def _port(name: str, tensor: Tensor, free: bool) -> Port:
    sizes: list[int | str] = [int(size) for size in tensor.shape]
    return Port(name, str(tensor.dtype).removeprefix("torch."), (BATCH, *sizes[1:]) if free else tuple(sizes))
