"""Optimisers: the state that an optimiser has gathered on the dense network, carried over to the slim one.

Training goes on as it would have gone on the masked network: the moments of the weights that stay are kept, those of
the others are dropped.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.widths import Kept, Widths
from ecc.network.cutting import Axes, chosen, plan
from ecc.network.depth import shortened
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors
from ecc.network.ranking import kept_units

__all__ = ["transfer_optimiser"]

_BOUND = ("state", "param_groups")  # attributes of an optimiser that hold parameters


def transfer_optimiser(
    optimiser: torch.optim.Optimizer,
    dense: nn.Module,
    small: nn.Module,
    graph: WidthGraph,
    widths: Widths | Kept,
    *,
    remove: Collection[str] = (),
) -> torch.optim.Optimizer:
    """An optimiser of the same class for the slim network, with the state of the weights that stay.

    Parameter groups, their settings and the state of each parameter are kept: tensors as large as the parameter
    (momentum, the moments of Adam and of its kin) or as large along some of its axes (Adafactor) are sliced, all others
    copied. What works on each weight alone (SGD, Adam and its kin, RMSprop, Adagrad …) then goes on exactly as it would
    on the masked network; what takes sums over a whole tensor (Adafactor, Muon, LARS, LAMB) goes on from the same
    state, but takes them over what is left. Parameters that the optimiser does not hold stay out. Hooks, learning-rate
    schedulers and gradients are not carried over. Where the graph rescales weights, or the g of weight norms
    (``WidthGraph.directions``), their moments are taken as they are.

    Args:
        optimiser: Of the dense network; left as it is.
        dense: The network before ``slim``.
        small: What ``slim`` made of it, trained or not, on any device.
        graph: Width graph of the dense network.
        widths: As they were given to ``slim``; widths mean the largest units of ``dense`` as it is now.
        remove: As it was given to ``slim``.
    Raises:
        InputError: If the optimiser, the slim network or the graph belongs to another network, or if the optimiser
            keeps state that cannot be sliced.
    """
    if isinstance(optimiser, torch.optim.LBFGS) and optimiser.state:
        raise InputError("LBFGS keeps state of all parameters together; make a new optimiser for the slim network")
    short, left = shortened(dense, graph, remove), graph.without(remove, widths)
    pairs = {
        **{id(parameter): _Pair(name, parameter, None, {}) for name, parameter in dense.named_parameters()},
        **_pairs(short, small, left, kept_units(dense, graph, widths)),
    }
    unknown = [p for group in optimiser.param_groups for p in group["params"] if id(p) not in pairs]
    if unknown:
        raise InputError(
            f"the optimiser holds a parameter of shape {tuple(unknown[0].shape)} that is none of the dense network's; "
            "give the optimiser that trained this network"
        )
    fresh = type(optimiser).__new__(type(optimiser))
    fresh.__setstate__(
        {
            **_settings(optimiser, pairs),
            "state": _state(optimiser, pairs),
            "param_groups": [_group(group, pairs) for group in optimiser.param_groups],
        }
    )
    return fresh


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A dense parameter and what became of it; ``small`` is None if its block was removed."""

    name: str
    dense: Tensor
    small: Tensor | None
    axes: Axes


def _pairs(short: nn.Module, small: nn.Module, graph: WidthGraph, kept: Kept) -> dict[int, _Pair]:
    """By id of the parameter; tied ones once.

    Args:
        short: The dense network without the blocks that were removed, with the same tensors.
        graph: Of that.
    """
    tensors = matched_tensors(short, graph)
    planned = plan(graph, kept, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    found = dict(small.named_parameters())
    pairs = {}
    for name, tensor in short.named_parameters():
        axes = planned.axes.get(name, {})
        shape = tuple(len(axes[i]) if i in axes else size for i, size in enumerate(tensor.shape))
        if name not in found or tuple(found[name].shape) != shape:
            state = f"has shape {tuple(found[name].shape)}" if name in found else "is missing"
            raise InputError(
                f"the slim network was not made with these widths: its parameter {name!r} {state}, not {shape}; "
                "give the network, the widths and the removed blocks of one call of slim"
            )
        pairs[id(tensor)] = _Pair(name, tensor, found[name], axes)
    return pairs


def _settings(optimiser: torch.optim.Optimizer, pairs: Mapping[int, _Pair]) -> dict[str, Any]:
    """All attributes but parameters, their state, hooks, and what a scheduler has put around ``step``."""
    memo: dict[int, Any] = {key: pair.small for key, pair in pairs.items() if pair.small is not None}
    return {
        name: copy.deepcopy(value, memo)
        for name, value in vars(optimiser).items()
        if name not in _BOUND and not callable(value) and not name.startswith("_optimizer_")
    }


def _group(group: Mapping[str, Any], pairs: Mapping[int, _Pair]) -> dict[str, Any]:
    """A parameter group of the same settings; one whose parameters are all gone stays, empty."""
    stay = [pairs[id(tensor)].small is not None for tensor in group["params"]]
    made = {name: copy.deepcopy(value) for name, value in group.items() if name not in ("params", "param_names")}
    made["params"] = [pairs[id(tensor)].small for tensor, stays in zip(group["params"], stay, strict=True) if stays]
    if "param_names" in group:
        made["param_names"] = [name for name, stays in zip(group["param_names"], stay, strict=True) if stays]
    return made


def _state(optimiser: torch.optim.Optimizer, pairs: Mapping[int, _Pair]) -> defaultdict[Tensor, Any]:
    made: defaultdict[Tensor, Any] = defaultdict(dict)
    for tensor, entries in optimiser.state.items():
        pair = pairs.get(id(tensor))
        if pair is not None and pair.small is not None:
            made[pair.small] = {key: _carried(optimiser, pair, key, value) for key, value in entries.items()}
    return made


def _carried(optimiser: torch.optim.Optimizer, pair: _Pair, key: str, value: Any) -> Any:
    """One entry of a parameter's state, sliced as the parameter was."""
    if not isinstance(value, Tensor):
        if any(tensor.numel() > 1 for tensor in _nested(value)):
            raise _unsliceable(optimiser, pair, key, "in a list")
        return copy.deepcopy(value)
    small = value.detach().clone()
    if pair.axes and value.numel() > 1:
        alike = value.ndim == pair.dense.ndim
        if not alike or any(a not in (1, b) for a, b in zip(value.shape, pair.dense.shape, strict=True)):
            raise _unsliceable(optimiser, pair, key, f"of shape {tuple(value.shape)}")
        axes = {i: stays for i, stays in pair.axes.items() if value.shape[i] == pair.dense.shape[i]}
        small = chosen(value.detach(), axes)
    # Counters that live on the CPU stay there.
    return small.to(pair.small.device) if pair.small is not None and value.device == pair.dense.device else small


def _nested(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nested(item)


def _unsliceable(optimiser: torch.optim.Optimizer, pair: _Pair, key: str, form: str) -> InputError:
    return InputError(
        f"{type(optimiser).__name__} keeps {key!r} of parameter {pair.name!r} {form}, which cannot be sliced with it; "
        "make a new optimiser for the slim network"
    )
