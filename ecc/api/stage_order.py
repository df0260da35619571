"""Orders of stages that cannot work, refused before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecc.core.code import Stage
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, map_code, weight_names
from ecc.stages.nodes import Form, Node, Numbers, Symbols, map_weights

__all__ = ["FROM_NETWORK", "demand_order"]

FROM_NETWORK = ("fold",)
"""Stages that look at the network and not at data."""

_FIRST = ("fold",)  # they change weights that must not be encoded yet
_LEAVE_FLOATS = ("prune", "svd", "deepthin", "hashed", "multi-hash")  # what they encode can be quantised
_OF_WHOLE = (*_LEAVE_FLOATS, "deep-compression", "multilevel-product-quant")  # of tensors that none has encoded yet
_OF_ANY = ("half", "huffman", "entropy")  # they take tensors of every kind
_CODERS = ("huffman", "entropy")  # of these, those that need what others have encoded, and leave floats alone
_BEFORE = "an earlier call"
_NOTHING = np.zeros(0, np.uint8)


def demand_order(stages: Sequence[Stage], code: PackedCode) -> None:
    """Refuse a stage that would find nothing left to encode, or comes too late.

    Args:
        stages: In their order.
        code: That they begin with.
    Raises:
        InputError: If an order cannot work, or ``layers`` of a stage name no weights.
    """
    encoded = {name: _BEFORE for name, node in code.nodes.items() if isinstance(node, Form)}
    quantised = {name: by for name, by in encoded.items() if not _holds_floats(code.nodes[name])}
    finished: dict[str, str] = {}  # by tensor, the coder that it has been given
    for place, stage in enumerate(stages):
        layers = getattr(stage, "layers", ())
        if stage.name in _OF_ANY:
            meant = _tensors_of(code, layers)
            _demand_unfinished(stage.name, meant, finished)
            if stage.name in _CODERS:
                _demand_codes(stage.name, encoded)
                finished |= dict.fromkeys(meant, stage.name)
            else:
                encoded |= {name: stage.name for name in meant if name not in encoded}
            continue
        names = weight_names(code, layers)
        if stage.name in _FIRST:
            _demand_none(stage.name, encoded)
            _demand_once(stage.name, stages[:place])
        else:
            _demand_some(stage.name, names, quantised)
            _demand_unfinished(stage.name, [name for name in names if name not in quantised], finished)
            if stage.name in _OF_WHOLE:
                _demand_whole(stage.name, names, encoded)
            encoded |= {name: stage.name for name in names if name not in encoded}
            if stage.name not in _LEAVE_FLOATS:
                quantised |= {name: stage.name for name in names if name not in quantised}


def _demand_none(stage: str, encoded: Mapping[str, str]) -> None:
    for name, by in encoded.items():
        raise InputError(f"{stage} changes weights, and {by} has encoded {name}; apply {stage} before any other stage")


def _demand_once(stage: str, earlier: Sequence[Stage]) -> None:
    if any(each.name == stage for each in earlier):
        raise InputError(f"{stage} is given twice, and the first leaves nothing for the second; leave one out")


def _demand_unfinished(stage: str, names: Sequence[str], finished: Mapping[str, str]) -> None:
    for name in names:
        if (by := finished.get(name)) is not None:
            mend = "leave one of them out" if stage in _CODERS else f"apply {stage} before {by}"
            raise InputError(f"{by} comes last, and {stage} would change {name} behind it; {mend}")


def _demand_codes(stage: str, encoded: Mapping[str, str]) -> None:
    if not encoded:
        raise InputError(
            f"{stage} finds no codes, because no weights are quantised or pruned yet; apply it behind others"
        )


def _demand_some(stage: str, names: Sequence[str], quantised: Mapping[str, str]) -> None:
    if all(name in quantised for name in names):
        by = " and ".join(dict.fromkeys(quantised[name] for name in names))
        mend = f"apply {stage} before" if stage in _LEAVE_FLOATS else "apply one of them only"
        raise InputError(f"{stage} finds no float weights, because {by} has quantised them; {mend}")


def _demand_whole(stage: str, names: Sequence[str], encoded: Mapping[str, str]) -> None:
    if all(name in encoded for name in names):
        by = " and ".join(dict.fromkeys(encoded[name] for name in names))
        raise InputError(f"{stage} takes weights that are stored as they are, and {by} has encoded them; leave one out")


def _tensors_of(code: PackedCode, layers: Sequence[str]) -> list[str]:
    """The tensors of whatever type that patterns mean; all where there are none."""
    marks = map_code(code, lambda node: Symbols(_NOTHING, 1), layers).nodes
    return [name for name, node in marks.items() if node is not code.nodes[name]]


def _holds_floats(node: Node) -> bool:
    """Whether weights are left that can be quantised."""
    found: list[Numbers] = []

    def note(leaf: Numbers) -> Node:
        found.append(leaf)
        return leaf

    map_weights(node, note)
    return bool(found)
