"""Lives: which memory a forward takes, and from which of its operators to which."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ecc.network.nesting import tensors_in

__all__ = ["Life", "find_lives", "is_step", "storages"]


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """A piece of memory that an operator takes, whatever tensors show it.

    Attributes:
        nbytes: Its size.
        node: The operator, or the input of the network.
        tensor: Which of the tensors that the node gives lies in it.
        storage: Tells it from others.
        uses: Steps at which it is made, read or changed, rising: operators are counted from 0 in order of execution;
            −1 for an input, the number of operators for an output of the network.
    """

    nbytes: int
    node: fx.Node
    tensor: int
    storage: int
    uses: tuple[int, ...]


def find_lives(nodes: Sequence[fx.Node], held: int) -> tuple[Life, ...]:
    """The memory that a record takes, in the order in which it is taken; its tensors must be there still.

    Args:
        nodes: All of the record.
        held: So many of them at the start are tensors that the network holds anyway.
    """
    known = {storage for node in nodes[:held] for storage in storages(node)}
    found: dict[int, tuple[int, fx.Node, int]] = {}
    uses: dict[int, list[int]] = {}
    step = 0

    def take(node: fx.Node, now: int) -> None:
        for number, tensor in enumerate(tensors_in(node.meta.get("val"))):
            for storage in _storage(tensor) - known - found.keys():
                found[storage] = (tensor.untyped_storage().nbytes(), node, number)
                uses[storage] = [now]

    def use(node: fx.Node, now: int) -> None:
        for storage in storages(node) & uses.keys():
            if uses[storage][-1] < now:
                uses[storage].append(now)

    for node in nodes[held:]:
        if node.op == "placeholder":
            take(node, -1)
        elif node.op == "get_attr":
            known |= storages(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                use(source, step)
        elif is_step(node):
            for source in node.all_input_nodes:
                use(source, step)
            take(node, step)
            step += 1
    return tuple(Life(*found[storage], storage, tuple(steps)) for storage, steps in uses.items() if found[storage][0])


def is_step(node: fx.Node) -> bool:
    """Whether a node is an operator, not one of the outputs of one."""
    return node.op == "call_function" and node.target is not operator.getitem


def storages(node: fx.Node) -> set[int]:
    """Of the tensors that a node made: views have that of what they look at."""
    return {storage for tensor in tensors_in(node.meta.get("val")) for storage in _storage(tensor)}


def _storage(tensor: Tensor) -> set[int]:
    return {tensor.untyped_storage()._cdata} if tensor.layout is torch.strided else set()
