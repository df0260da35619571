"""Int8: an exported network put on bytes, its ranges set by data, and compared with the network in float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecc.api.deployment.examples import Sample
from ecc.api.deployment.onnx_files import feed_of
from ecc.api.deployment.targets import DATA
from ecc.api.int8 import agreement, pieces
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.network.nesting import bind
from ecc.profiler.runtimes.calling import Call, eager_outputs
from ecc.profiler.runtimes.onnxruntime import open_session
from ecc.stages.fixed_point.onnx_int8 import Int8, to_int8

__all__ = ["TOLERANCE", "Examples", "examples_of", "put_on_bytes", "samples_of", "winners"]

TOLERANCE = 0.1
"""Largest difference from float, relative to the largest output, that is taken unless another is given."""

_CALIBRATED, _COMPARED = 128, 256  # examples
_BATCH = 32  # where the model takes any


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Real inputs.

    Attributes:
        calibration: They set the ranges of activations.
        comparison: On them bytes are compared with float.
        where: What they are, for people.
    """

    calibration: tuple[Call, ...]
    comparison: tuple[Call, ...]
    where: str


def examples_of(data: Any, data_dir: str | Path | None, batch: int | None) -> Examples:
    """Examples of some data: ranges come from validation, the comparison from test; of mere batches both from them.

    Args:
        data: DATA of the command line, what ``load_data`` gives, or batches of inputs.
        batch: That the model takes; None for any.
    Raises:
        InputError: If there are too few, or no such data.
    """
    if isinstance(data, str) and not data:
        raise InputError("int8 needs data that set the ranges of activations; give --data, or export in float: --float")
    found = load_data(data, data_dir=data_dir) if isinstance(data, str) else data
    size = batch or _BATCH
    if isinstance(found, Data):
        known = tuple(_calls((inputs for inputs, _ in found.validation), size, _CALIBRATED))
        tried = tuple(_calls((inputs for inputs, _ in found.test), size, _COMPARED))
        where = f"of the test part of {found.name}"
    else:
        known = tried = tuple(_calls(found, size, _COMPARED))
        where = "of those that set the ranges"
    if not known or not tried:
        raise InputError(f"int8 needs at least {size} examples that set the ranges of activations; give more data")
    return Examples(known, tried, where)


def _calls(batches: Iterable[Any], size: int, most: int) -> Iterator[Call]:
    """Calls of one size, of together at most so many examples."""
    left = max(most // size, 1)
    for inputs in batches:
        for (args, kwargs), count in pieces(bind(inputs), size):
            if count == size:
                yield Call(args, kwargs)
                left -= 1
                if not left:
                    return


def put_on_bytes(path: Path, names: Sequence[str], examples: Examples) -> None:
    """Replace an ONNX model in float by one on bytes.

    Raises:
        InputError: If it cannot be quantised.
    """
    if path.with_name(f"{path.name}{DATA}").exists():
        raise InputError("networks of more than 2 GB are not put on int8; export in float: --float")
    session = open_session(str(path))
    feeds = [feed_of(session, names, call) for call in examples.calibration]
    path.write_bytes(to_int8(path.read_bytes(), feeds, Int8()))


def samples_of(network: nn.Module, examples: Examples) -> list[Sample]:
    """The comparison's inputs, and what the network in float makes of them."""
    return [Sample(call, eager_outputs(network, call)) for call in examples.comparison]


def winners(samples: Sequence[Sample], found: Sequence[Sequence[torch.Tensor]]) -> float | None:
    """Share of examples of which the first output has the same largest entry; None of outputs that are no scores."""
    first = [torch.cat([outputs[0] for outputs in each]) for each in ([s.outputs for s in samples], found)]
    share = agreement(*first)
    return None if math.isnan(share) else share
