"""The user's own data: what a factory returns, checked and completed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ecc.core.errors import EccError, InputError
from ecc.core.factories import build, kind_of, reason
from ecc.core.problem import Batches
from ecc.data.values import Data, accuracy, mean_squared_error, rank_correlation

__all__ = ["load_custom"]

_PARTS = ("train", "validation", "test")
_OPTIONAL = ("name", "kind", "classes", "loss", "score", "vocabulary")


def load_custom(spec: str, *, data_dir: Path | None, batch_size: int, seed: int) -> Data:
    """Call the user's factory and complete what it returns.

    The factory returns a ``Data``, a tuple of train, validation and test loaders, or a mapping with these and any of
    ``name``, ``kind``, ``classes``, ``loss``, ``score`` and ``vocabulary``. It gets ``data_dir``, ``batch_size`` and
    ``seed`` if it names them. What is missing follows from the validation batches: float targets are a regression,
    whole ones a classification with as many classes as the largest target says.

    Raises:
        InputError: If the factory fails or returns anything else.
    """
    offer = {"data_dir": data_dir, "batch_size": batch_size, "seed": seed}
    made = build("data", spec, offer=offer)
    if isinstance(made, Data):
        return made
    if isinstance(made, Mapping):
        given = dict(made)
    elif isinstance(made, tuple | list) and len(made) == len(_PARTS):
        given = dict(zip(_PARTS, made, strict=True))
    else:
        size = f" of {len(made)}" if isinstance(made, tuple | list) else ""
        raise InputError(
            f"data {spec!r}: the factory returned {kind_of(made)}{size}; "
            "it must return the train, validation and test loaders, as a tuple or a mapping"
        )
    return _complete(spec, given)


def _complete(spec: str, given: dict[str, Any]) -> Data:
    lacking = [name for name in _PARTS if name not in given]
    if lacking:
        raise InputError(f"data {spec!r}: the factory returned no {lacking[0]!r} loader; return {', '.join(_PARTS)}")
    unknown = [name for name in given if name not in (*_PARTS, *_OPTIONAL)]
    if unknown:
        raise InputError(
            f"data {spec!r}: the factory returned the unknown {unknown[0]!r}; "
            f"beside the loaders it may return {', '.join(_OPTIONAL)}"
        )
    with torch.random.fork_rng(devices=[]):  # a look at the loaders must not change what training draws
        first = {name: next(_checked(spec, name, given[name])) for name in _PARTS}
        inputs, targets = first["validation"]
        kind = given.get("kind", "regression" if targets.is_floating_point() else "classification")
        if kind not in ("classification", "regression"):
            raise InputError(f"data {spec!r}: kind {kind!r} is unknown; it is classification or regression")
        whole = kind == "classification"
        if "kind" not in given and "loss" not in given and _is_one_hot(targets):
            raise InputError(
                f"data {spec!r}: targets of shape {tuple(targets.shape)} are one-hot; return class indices "
                "(targets.argmax(1)), or say kind='regression' if these are numbers to be met"
            )
        classes = given.get("classes") or (_classes(spec, given["validation"]) if whole else 1)
    example = inputs if isinstance(inputs, Tensor) else inputs[0]
    return Data(
        str(given.get("name", spec.rpartition(":")[2])),
        kind,
        int(classes),
        tuple(example.shape[1:]),
        train=given["train"],
        validation=given["validation"],
        test=given["test"],
        loss=given.get("loss", F.cross_entropy if whole else mean_squared_error),
        score=given.get("score", accuracy if whole else rank_correlation),
        vocabulary=int(given.get("vocabulary", 0)),
    )


def _is_one_hot(targets: Tensor) -> bool:
    """Whether every row of two numbers or more is 0 but for one 1."""
    if targets.ndim != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())


def _classes(spec: str, loader: Batches) -> int:
    labels = [targets for _, targets in _checked(spec, "validation", loader)]
    lowest, highest = (int(f(torch.stack([f(part) for part in labels]))) for f in (torch.min, torch.max))
    if lowest < 0:
        raise InputError(f"data {spec!r}: a validation target is {lowest}; classes are counted from 0")
    return highest + 1


def _checked(spec: str, name: str, loader: Any) -> Iterator[tuple[Any, Tensor]]:
    """The loader's batches; raises at the first that is none, or if there is no batch at all."""
    told = f"data {spec!r}: the {name} loader"
    count = 0
    try:
        iterator = iter(loader)
        if iterator is loader:
            raise InputError(f"{told} can be read only once; return a DataLoader or a list of batches")
        for batch in iterator:
            yield _batch(told, batch)
            count += 1
    except EccError:
        raise
    except Exception as error:
        raise InputError(f"{told} failed with {reason(error)}; mend it") from error
    if not count:
        raise InputError(f"{told} yields no batch; give it at least one")


def _batch(told: str, batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise InputError(
            f"{told} yields a {type(batch).__name__} that is not (inputs, targets) with a tensor of targets"
        )
    inputs, targets = batch
    tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs) if isinstance(inputs, tuple | list) else []
    if not tensors or not all(isinstance(part, Tensor) for part in tensors):
        raise InputError(f"{told} yields inputs that are neither a tensor nor a tuple of tensors")
    if not targets.ndim or not len(targets) or any(part.shape[:1] != targets.shape[:1] for part in tensors):
        raise InputError(f"{told} yields {len(tensors)} inputs and targets that do not have equally many examples")
    return inputs, targets
