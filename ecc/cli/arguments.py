"""What users type, as values: models, shapes, KEY=VALUE pairs, data and devices."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.zoo.loading import LoadedModel, load_model, load_weights

__all__ = [
    "add_choice",
    "add_data",
    "add_input",
    "add_model",
    "example_inputs",
    "pairs",
    "parse_shape",
    "the_data",
    "the_model",
]

_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
}


def add_model(parser: argparse.ArgumentParser, *, required: bool = True, what: str = "MODEL", of: str = "") -> None:
    """MODEL, the KEY=VALUE pairs that follow it, and its weights.

    Args:
        what: How it is shown where something else may be in its place.
        of: What else, for the help.
    """
    parser.add_argument(
        "model",
        metavar=what,
        nargs=None if required else "?",
        help=f"{of}zoo:NAME, or your function that returns the network, file.py:factory or package.module:factory",
    )
    parser.add_argument("options", metavar="KEY=VALUE", nargs="*", default=[], help="keyword arguments of the factory")
    parser.add_argument("--weights", metavar="FILE", help="trained weights, .safetensors or .pt")


def add_input(parser: argparse.ArgumentParser) -> None:
    """The shapes of one batch, one option for each tensor that the network takes."""
    parser.add_argument(
        "--input",
        metavar="SHAPE",
        action="append",
        help="one batch, for example 1x3x32x32 or 1x32:int64; networks of the zoo know theirs. Repeat it where the "
        "network takes several tensors, or name them: --input image=1x3x32x32 --input ids=1x10:int64",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Which layers may be pruned."""
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="layers that may be pruned: a glob of paths (layer1.*) or a class (type:Conv2d); repeatable",
    )
    parser.add_argument(
        "--exclude", metavar="PATTERN", action="append", default=[], help="layers that stay dense; as for --include"
    )


def add_data(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """DATA and where its folder is."""
    parser.add_argument(
        "--data",
        metavar="DATA",
        required=required,
        help="digits, mnist, cifar10 …, or your function that returns loaders for training, validation and test, "
        "file.py:factory or package.module:factory",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets; default: $ECC_DATA")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="of training (default 128)")


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping.

    Raises:
        InputError: If one has no ``=``.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise InputError(f"model option {text!r} is not KEY=VALUE; write for example num_classes=10")
        found[key] = value
    return found


def parse_shape(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    """``1x3x32x32`` or ``1x32:int64`` as (shape with its batch axis, dtype).

    Raises:
        InputError: If it is not a shape.
    """
    sizes, _, kind = text.partition(":")
    if "," in text:
        raise InputError(
            f"input shape {text!r} has a comma; join sizes by x, and give each further tensor by an --input of its "
            "own, for example --input 1x3x32x32 --input 1x10:int64"
        )
    try:
        shape = tuple(int(size) for size in sizes.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(
            f"input shape {text!r} is not sizes joined by x; write for example 1x3x32x32, or give inputs of another "
            "kind in Python: ecc.trace and ecc.profile"
        )
    if kind and kind not in _DTYPES:
        raise InputError(f"input dtype {kind!r} is unknown; choose from {', '.join(_DTYPES)}")
    return shape, _DTYPES[kind or "float32"]


def the_model(arguments: argparse.Namespace) -> LoadedModel:
    """The model that the arguments name, with its weights; fresh ones follow ``--seed``."""
    torch.manual_seed(arguments.seed)
    loaded = load_model(arguments.model, pairs(arguments.options))
    if arguments.weights is not None:
        load_weights(loaded.module, arguments.weights)
    return loaded


def the_data(arguments: argparse.Namespace, name: str) -> Data:
    """The data of that name, from the folder that the arguments give."""
    folder = arguments.data_dir or os.environ.get("ECC_DATA")
    return load_data(name, data_dir=folder, batch_size=arguments.batch_size, seed=arguments.seed)


def example_inputs(loaded: LoadedModel, texts: Sequence[str] | None, *, batch: int | None = None, seed: int = 0) -> Any:
    """Random inputs of the shapes that the user gives, or of the zoo's when the user gives none.

    Args:
        texts: One is a tensor, several are a tuple of positional arguments, and ``name=SHAPE`` are keyword arguments.
        batch: Takes the place of axis 0 of the first tensor, and of those that are as long along theirs.

    Raises:
        InputError: If neither gives a shape, only some are named, or they do not fit in memory.
    """
    given = [_named_shape(text) for text in texts or ()]
    names = [name for name, _, _ in given]
    if "" in names and any(names):
        raise InputError(
            "name each --input, for example --input image=1x3x32x32 --input ids=1x10:int64, or none of them"
        )
    if any(names) and len(set(names)) < len(names):
        raise InputError(f"--input {max(names, key=names.count)} is given more than once; give each its own name")
    try:
        if not given:
            return loaded.example(batch or 1, seed=seed)
        old, generator = given[0][1][0], torch.Generator().manual_seed(seed)
        tensors = []
        for _, shape, dtype in given:
            sizes = (batch, *shape[1:]) if batch is not None and shape[0] == old else shape
            tensors.append(_random(sizes, dtype, loaded.vocabulary, generator))
    except (RuntimeError, TypeError) as error:  # the latter for sizes beyond 64 bits
        raise InputError("the inputs do not fit in memory; give a smaller --input or --batch") from error
    if any(names):
        return dict(zip(names, tensors, strict=True))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _named_shape(text: str) -> tuple[str, tuple[int, ...], torch.dtype]:
    """``SHAPE`` or ``name=SHAPE`` as name, shape and dtype; the name is empty where there is none."""
    name, separator, shape = text.rpartition("=")
    if separator and not name.isidentifier():
        raise InputError(f"input {text!r} is not NAME=SHAPE; write for example image=1x3x32x32")
    return (name, *parse_shape(shape))


def _random(shape: tuple[int, ...], dtype: torch.dtype, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Normal values, or whole numbers that any vocabulary has."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, vocabulary or 2, shape, generator=generator, dtype=dtype)
