"""Torch-Pruning on one network of torchvision, as its README tells, judged by zero-then-remove.

python experiments/pruning_peer.py resnet50            one JSON object on stdout
python experiments/pruning_peer.py resnet50 --time 5   seconds of that many samples of random widths

Every value of the network is made different from every other, so that a value of the pruned network tells which row and
column of the dense one it is. What is left of each tensor is thus read off the tensors themselves.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

Positions = Mapping[str, list[np.ndarray]]


def pruner(model: nn.Module, inputs: Tensor, importance: Any) -> Any:
    """A pruner with the settings of the README: half of the channels, classifier left alone, heads for attention."""
    import torch_pruning as tp

    ignored = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == 1000]
    heads = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    options = {"num_heads": heads, "prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}
    return tp.pruner.MetaPruner(
        model, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=ignored, **(options if heads else {})
    )


def prune(model: nn.Module, inputs: Tensor) -> None:
    import torch_pruning as tp

    pruner(model, inputs, tp.importance.GroupMagnitudeImportance()).step()
    if hasattr(model, "hidden_dim"):  # as Torch-Pruning's own test of vit_b_16 does
        model.hidden_dim = model.conv_proj.out_channels


def make_distinct(model: nn.Module) -> None:
    """Biases, norms and statistics off zero and one, and no two values equal."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors(model).items():
        noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        one = tensor.ndim <= 1 and not name.endswith(("bias", "running_mean"))
        tensor.data = tensor.data * (0.5 + noise) + (0.0 if one else 0.01 * (noise - 0.5))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    every = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in every.items() if tensor.is_floating_point()}


def left_of(dense: nn.Module, small: nn.Module) -> Positions:
    """For each tensor that got smaller the dense positions that are left along its axes.

    Raises:
        LookupError: If a tensor is no product of rows and columns of the dense one.
    """
    found, now = {}, tensors(small)
    for name, tensor in tensors(dense).items():
        if name not in now:
            raise LookupError(f"{name} is gone")
        if now[name].shape == tensor.shape:
            continue
        values, whole = now[name].detach().numpy(), tensor.detach().numpy()
        axes = [np.flatnonzero(np.isin(fibre(whole, axis, corner(whole, values)), fibre(values, axis)))
                for axis in range(values.ndim)]  # fmt: skip
        if not np.array_equal(whole[np.ix_(*axes)], values):
            raise LookupError(f"{name} is not cut along its axes")
        found[name] = axes
    return found


def corner(whole: np.ndarray, values: np.ndarray) -> tuple[int, ...]:
    """Where the first of the values lies in the whole."""
    places = np.flatnonzero(whole.reshape(-1) == values.flat[0])
    if len(places) != 1:
        raise LookupError("a value is new")
    return tuple(int(i) for i in np.unravel_index(places[0], whole.shape))


def fibre(array: np.ndarray, axis: int, place: tuple[int, ...] | None = None) -> np.ndarray:
    """The values along one axis through a place, the first one if none is given."""
    index: list[Any] = list(place or (0,) * array.ndim)
    index[axis] = slice(None)
    return array[tuple(index)]


def masked(dense: nn.Module, left: Positions) -> nn.Module:
    """A copy that is zero outside the positions."""
    copied = copy.deepcopy(dense)
    for name, axes in left.items():
        tensor = tensors(copied)[name].data
        for axis, kept in enumerate(axes):
            tensor.index_fill_(axis, torch.from_numpy(np.setdiff1d(np.arange(tensor.shape[axis]), kept)), 0)
    return copied


@contextmanager
def narrow_layer_norm(model: nn.Module, left: Positions) -> Iterator[None]:
    """Layer norms take their statistics over the channels that are left only."""
    plain = F.layer_norm
    kept = {id(tensor): left[name][0] for name, tensor in tensors(model).items() if name in left and tensor.ndim == 1}

    def narrow(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        if id(weight) not in kept:
            return plain(x, shape, weight, bias, eps)
        at = torch.from_numpy(kept[id(weight)])
        y = torch.zeros_like(x)
        y[..., at] = plain(x[..., at], [len(at)], weight[at], None if bias is None else bias[at], eps)
        return y

    F.layer_norm = narrow
    try:
        yield
    finally:
        F.layer_norm = plain


def judged(name: str) -> dict[str, Any]:
    """What became of one network: exact, wrong or crash, with the error and what was cut."""
    from vision_networks import VISION, enliven

    model, inputs = VISION[name].build()
    dense, inputs = model.double(), inputs.double()
    enliven(dense, inputs.shape)
    make_distinct(dense)
    small = copy.deepcopy(dense)
    try:
        prune(small, inputs)
        with torch.no_grad():
            found = small(inputs)
    except Exception as error:
        return {"outcome": "crash", "detail": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    try:
        left = left_of(dense, small)
    except LookupError as error:
        return {"outcome": "wrong", "detail": str(error)}
    hidden = masked(dense, left)
    with torch.no_grad():
        error, effect = relative(hidden(inputs), found), relative(dense(inputs), found)
        with narrow_layer_norm(hidden, left):
            narrow = relative(hidden(inputs), found)
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (small, dense)]
    outcome = "exact" if error <= 1e-5 else "exact but for layer norms" if narrow <= 1e-5 else "wrong"
    return {
        "outcome": outcome,
        "effect": effect,
        "error": error,
        "error_narrow": narrow,
        "parameters_left": count[0] / count[1],
    }


def relative(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    return float((expected - found).abs().max() / expected.abs().max())


def seconds(name: str, repeats: int) -> list[float]:
    """Processor time of one network of random widths each: copy, groups, pruning."""
    import torch_pruning as tp
    from vision_networks import VISION

    model, inputs = VISION[name].build()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        pruner(copy.deepcopy(model), inputs, tp.importance.RandomImportance()).step()
        found.append(time.process_time() - start)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--time", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = {"seconds": seconds(arguments.name, arguments.time)} if arguments.time else judged(arguments.name)
    print(json.dumps(result))
