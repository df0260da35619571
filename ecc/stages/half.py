"""The stage ``half``: what is still stored in floats of 32 or 64 bits, in floats of 16."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import PackedCode, map_code, packed
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Node, Numbers, Symbols, leaves

__all__ = ["Half"]

_RELATIVE, _FLOOR = 2.0**-11, 2.0**-20
_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Half:
    """Biases, norms and codebooks in half the bytes; also whole weights that no other stage has encoded.

    Floats are rounded to 11 significant bits. A tensor in which that is not possible for all values, but for those
    below a millionth of its largest one, stays as it is.

    Attributes:
        layers: Names or patterns of the tensors, biases among them; all when empty.
    """

    layers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return "half"

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with floats of 16 bits.

        Raises:
            NothingToDo: If there are no wider floats.
            InputError: If a pattern names nothing.
        """
        code = packed(state)
        found = map_code(code, _halved, self.layers)
        found = replace(
            found, nodes={**found.nodes, **{name: code.nodes[name] for name in code.left & code.nodes.keys()}}
        )
        if all(new is old for new, old in zip(_all_leaves(found), _all_leaves(code), strict=True)):
            raise NothingToDo("stage half finds no floats of 32 or 64 bits in the state that 16 bits can hold")
        return found


def _all_leaves(code: PackedCode) -> list[Numbers | Symbols]:
    return [leaf for node in code.nodes.values() for _, leaf in leaves(node)]


def _halved(node: Node) -> Node:
    """The tree with short floats wherever its kinds allow them."""
    if isinstance(node, Form):
        for name, part in node.parts.items():
            changed = replace(node, parts={**node.parts, name: _halved(part)})
            with suppress(InputError):  # a kind may need what it has in full
                KINDS[node.kind].check(changed)
                node = changed
        return node
    if isinstance(node, Symbols) or node.values.dtype not in _WIDE or not node.values.numel():
        return node
    values = node.values.detach()
    short = values.to(torch.float16)
    if not _is_near(short, values):
        return node
    return Form("half", tuple(values.shape), values.dtype, {}, {"values": Numbers(short)})


def _is_near(short: Tensor, values: Tensor) -> bool:
    size = values.double().abs()
    error = (short.double() - values.double()).abs()
    return bool((error <= _RELATIVE * size + _FLOOR * size.max()).all())
