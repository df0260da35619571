"""Second moments of what layers read, E[x xᵀ], found on training data: which errors in a weight matter.

Of linear layers, convolutions (as patches) and recurrent layers (of the matrices whose inputs can be seen: those of the
first layer, and the recurrent ones of the last).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ecc.core.code import Workshop
from ecc.stages.calibration import Calibration
from ecc.stages.code import PackedCode

__all__ = ["input_moments"]

_DAMPING = 0.01  # of the mean square, added to every input's: directions that the data do not show matter a little
_MOST_ROWS = 8192  # of one batch and one layer


def input_moments(code: PackedCode, workshop: Workshop, *, examples: int = 256) -> dict[str, Tensor]:
    """By name of a weight in the code, E[x xᵀ] of its inputs, shape (n, n), float64, positive definite.

    Weights whose inputs cannot be seen are not there.

    Args:
        code: Of the workshop's network.
        workshop: With training data.
        examples: At least so many are looked at, where there are as many.

    Raises:
        InputError: If the data yield no batch, or the code is not of the network.
    """
    calibration = Calibration.of(code, workshop, examples=examples)
    if calibration.network is None:
        return {}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, rows: Tensor) -> None:
        name = code.aliases.get(name, name)
        if name not in code.nodes or not len(rows):
            return
        x = rows[:: -(-len(rows) // _MOST_ROWS)].detach().cpu().double()
        sums[name] = sums.get(name, 0) + x.T @ x
        counts[name] = counts.get(name, 0) + len(x)

    handles = [
        module.register_forward_hook(_noting(path, add), with_kwargs=True)
        for path, module in calibration.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.RNNBase)
    ]
    try:
        with torch.no_grad():
            for inputs, _ in calibration.batches:
                calibration.network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _damped(total / counts[name]) for name, total in sums.items() if bool(total.isfinite().all())}


def _noting(path: str, add: Callable[[str, Tensor], None]) -> Callable[..., None]:
    prefix = f"{path}." if path else ""

    def note(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], outputs: Any) -> None:
        read = inputs[0] if inputs else named.get("input")
        for name, rows in _read_rows(module, read, outputs):
            add(prefix + name, rows)

    return note


def _read_rows(module: nn.Module, read: Any, outputs: Any) -> Iterator[tuple[str, Tensor]]:
    """By name of a weight, what it reads, shape (rows, n)."""
    if isinstance(module, nn.RNNBase):
        yield from _recurrent_rows(module, _whole(read), _whole(outputs[0]))
    elif isinstance(read, Tensor) and isinstance(module, nn.Linear):
        yield "weight", read.reshape(-1, module.in_features)
    elif isinstance(read, Tensor) and isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1:
        yield "weight", _patches(module, read)


def _recurrent_rows(module: nn.RNNBase, read: Tensor, written: Tensor) -> Iterator[tuple[str, Tensor]]:
    width = module.proj_size or module.hidden_size
    for direction, suffix in enumerate(("", "_reverse")[: 1 + module.bidirectional]):
        yield f"weight_ih_l0{suffix}", read.reshape(-1, read.shape[-1])
        part = written[..., direction * width : (direction + 1) * width]
        yield f"weight_hh_l{module.num_layers - 1}{suffix}", part.reshape(-1, width)


def _whole(sequence: Tensor | PackedSequence) -> Tensor:
    return sequence.data if isinstance(sequence, PackedSequence) else sequence


def _patches(module: nn.Conv1d | nn.Conv2d, images: Tensor) -> Tensor:
    """What the kernel lies on, shape (patches, in·kh·kw); without the border where it is not padded with zeros."""
    flat = isinstance(module, nn.Conv1d)
    known = not isinstance(module.padding, str) and module.padding_mode == "zeros"
    sides = tuple(module.padding) if known and not isinstance(module.padding, str) else (0,) * len(module.kernel_size)
    lead, zero = ((1,), (0,)) if flat else ((), ())
    if images.ndim == 2 + (not flat):  # one example without a batch axis
        images = images[None]
    found = F.unfold(
        images[:, :, None] if flat else images,
        lead + tuple(module.kernel_size),
        lead + tuple(module.dilation),
        zero + sides,
        lead + tuple(module.stride),
    )
    return found.mT.reshape(-1, found.shape[1])


def _damped(moment: Tensor) -> Tensor:
    mean = float(moment.diagonal().mean())
    return moment + (_DAMPING * mean or 1.0) * torch.eye(len(moment), dtype=moment.dtype)
