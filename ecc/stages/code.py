"""A network's state as trees of what is stored, one per tensor."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ecc.core.code import Code, State, Stored
from ecc.core.errors import InputError
from ecc.core.tying import untied
from ecc.stages.container import section_bytes, to_bytes
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Node, Numbers, Symbols

__all__ = ["REMOVE", "PackedCode", "decode_node", "map_code", "packed", "weight_names"]

REMOVE = (
    "remove the parametrisation first: torch.nn.utils.parametrize.remove_parametrizations(module, 'weight'), or for "
    "the older hooks torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
)
"""What mends a network whose weights stages leave as they are."""


@dataclass(frozen=True, eq=False)
class PackedCode:
    """A state as trees.

    Attributes:
        nodes: By name of a tensor of the state, in its order.
        aliases: Further names of tied tensors → the name that is in ``nodes``.
        edits: Changes of the network's structure that its state needs (see ``ecc.stages.edits``), in order; they are
            kept in the artefact's manifest and not in the file of the code.
        left: Names of tensors that stages leave as they are: a parametrised weight is computed from them, and would be
            another one, or none, if they were pruned or quantised.
    """

    nodes: Mapping[str, Node]
    aliases: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Mapping[str, str | int], ...] = ()
    left: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if lost := [alias for alias, name in self.aliases.items() if name not in self.nodes]:
            raise InputError(
                f"PackedCode(aliases=...) ties {lost[0]!r} to {self.aliases[lost[0]]!r}, which is not there"
            )

    def decode(self) -> dict[str, Tensor]:
        """The state on the CPU, every name of it; tied names share one tensor.

        Raises:
            InputError: If parts of a form do not agree, as in a damaged file.
        """
        tensors = {name: decode_node(node) for name, node in self.nodes.items()}
        return tensors | {alias: tensors[name] for alias, name in self.aliases.items()}

    def to_bytes(self) -> bytes:
        """The file ``weights.ecz``."""
        return self._file

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self._file)

    @cached_property
    def _file(self) -> bytes:
        return to_bytes(self.nodes, self.aliases)

    def stored(self) -> dict[str, Stored]:
        """By name of a tensor, what it is stored in."""
        return dict(self._stored)

    @cached_property
    def _stored(self) -> dict[str, Stored]:
        nbytes = section_bytes(self.nodes, self.aliases)
        return {name: _stored(node, nbytes[name]) for name, node in self.nodes.items()}

    def __repr__(self) -> str:
        coded = sum(isinstance(node, Form) for node in self.nodes.values())
        return f"PackedCode({len(self.nodes)} tensors, {coded} of them coded, {self.nbytes:,} bytes)"


def packed(state: State | Code) -> PackedCode:
    """A code to go on with: of a state, every tensor as its numbers.

    Raises:
        InputError: If a value is not a dense tensor, or a code is not of this package.
    """
    if isinstance(state, PackedCode):
        return state
    if not isinstance(state, Mapping):
        raise InputError(f"a stage encodes a state_dict or what another stage made, not {type(state).__name__}")
    tensors, aliases = untied(state)
    return PackedCode({name: Numbers(tensor) for name, tensor in tensors.items()}, aliases)


def weight_names(code: PackedCode, only: Iterable[str] = ()) -> list[str]:
    """The tensors that stages encode: floating, of two axes or more.

    Biases and the parameters of norms are few and matter much; they stay as they are, as do those in ``code.left``.

    Args:
        only: Names or shell patterns (``features.*.weight``) to which that is limited; all where empty.

    Raises:
        InputError: If a pattern matches no such tensor, or there is none at all.
    """
    weights = [name for name, node in code.nodes.items() if _is_weight(node)]
    if not weights:
        raise InputError("the state has no floating tensor of two axes or more, and so nothing to encode")
    found = [name for name in weights if name not in code.left]
    left = [name for name in weights if name in code.left]
    patterns = list(only)
    barred = [each for each in patterns if fnmatch.filter(left, each) and not fnmatch.filter(found, each)]
    if not found or barred:
        first = fnmatch.filter(left, barred[0])[0] if barred else left[0]
        raise InputError(
            f"{first!r} is what a parametrised weight is computed from, which stages leave as it is, and there is "
            f"nothing else to encode{f' in layers {barred[0]!r}' if barred else ''}; {REMOVE}"
        )
    if idle := [pattern for pattern in patterns if not fnmatch.filter(found, pattern)]:
        raise InputError(f"layers {idle[0]!r} name no weights of the network; it has {', '.join(found[:12])}")
    return [name for name in found if not patterns or any(fnmatch.fnmatchcase(name, each) for each in patterns)]


def _is_weight(node: Node) -> bool:
    if isinstance(node, Form):
        return node.dtype.is_floating_point and len(node.shape) >= 2
    return isinstance(node, Numbers) and node.values.is_floating_point() and node.values.ndim >= 2


def map_code(code: PackedCode, change: Callable[[Node], Node], only: Iterable[str] = ()) -> PackedCode:
    """The code with every tensor replaced by ``change(node)``.

    Args:
        change: Of a tensor of whatever type.
        only: Names or shell patterns of tensors to which that is limited; all where empty.

    Raises:
        InputError: If a pattern matches no tensor.
    """
    patterns = list(only)
    if idle := [pattern for pattern in patterns if not fnmatch.filter(code.nodes, pattern)]:
        raise InputError(f"layers {idle[0]!r} name no tensor of the state; it has {', '.join(list(code.nodes)[:12])}")
    nodes: dict[str, Node] = {}
    for name, node in code.nodes.items():
        meant = not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        nodes[name] = change(node) if meant else node
    return replace(code, nodes=nodes)


def decode_node(node: Node) -> Tensor:
    """The tensor of a tree; symbols as int64 of shape (n,).

    Raises:
        InputError: If parts of a form do not agree.
    """
    if isinstance(node, Numbers):
        return node.values
    if isinstance(node, Symbols):
        return torch.from_numpy(node.values.astype(np.int64))
    kind = KINDS.get(node.kind)
    if kind is None:
        raise InputError(
            f"a form of kind {node.kind!r} is not known to this version of ecc; there are {', '.join(KINDS)}"
        )
    kind.check(node)
    return kind.decode(node, {name: decode_node(part) for name, part in node.parts.items()})


def _stored(node: Node, nbytes: int) -> Stored:
    if isinstance(node, Form):
        entries, bits = KINDS[node.kind].operand(node)
        return Stored(int(np.prod(node.shape, dtype=np.int64)), entries, bits, nbytes)
    if isinstance(node, Symbols):
        return Stored(len(node.values), len(node.values), float(max(node.size - 1, 1).bit_length()), nbytes)
    size = node.values.numel()
    return Stored(size, size, 8.0 * node.values.element_size(), nbytes)
