"""The stages ``huffman`` and ``entropy``: the coder of every stream of codes, without loss.

They change how codes are stored and not what they decode to, so they come last. Floats stay as they are. Gaps of sparse
tensors are given the size that suits a coder first: without one, longer symbols cost more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import NothingToDo
from ecc.stages.code import PackedCode, map_code, packed
from ecc.stages.coders.registry import CODERS
from ecc.stages.nodes import Node, Numbers, Symbols, leaves, map_leaves
from ecc.stages.sparse_index import regapped

__all__ = ["Entropy", "Huffman", "least_bytes"]


@dataclass(frozen=True, slots=True)
class Huffman:
    """A canonical Huffman code for each stream, as in Deep Compression (ICLR 2016).

    Streams of alphabets beyond 65,536 stay as they are.

    Attributes:
        layers: Names or patterns of the tensors; all when empty.
    """

    layers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return "huffman"

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with Huffman coding of all streams of codes.

        Raises:
            NothingToDo: If the state has no codes.
            InputError: If a pattern names nothing.
        """
        code = packed(state)
        if not any(isinstance(leaf, Symbols) for node in code.nodes.values() for _, leaf in leaves(node)):
            raise NothingToDo("stage huffman finds no codes in the state; prune or quantise it first")
        return map_code(code, lambda node: map_leaves(regapped(node, packed=False), _with_huffman), self.layers)


@dataclass(frozen=True, slots=True)
class Entropy:
    """For each stream the coder that takes the fewest bytes: fields of equal width, Huffman or rANS.

    A state without codes stays as it is: floats have next to nothing that could be saved without loss.

    Attributes:
        layers: Names or patterns of the tensors; all when empty.
    """

    layers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return "entropy"

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The code with the best coder for each stream of codes.

        Raises:
            InputError: If a pattern names nothing.
        """
        return map_code(packed(state), lambda node: map_leaves(regapped(node, packed=False), _shortest), self.layers)


def _with_huffman(_: str, leaf: Numbers | Symbols) -> Node:
    if isinstance(leaf, Symbols) and leaf.size <= CODERS["huffman"].largest_alphabet:
        return replace(leaf, coder="huffman")
    return leaf


def _shortest(_: str, leaf: Numbers | Symbols) -> Node:
    return least_bytes(leaf) if isinstance(leaf, Symbols) else leaf


def least_bytes(leaf: Symbols) -> Symbols:
    """The stream with the coder that makes it shortest."""
    sizes = {
        name: len(coder.encode(leaf.values, leaf.size))
        for name, coder in CODERS.items()
        if leaf.size <= coder.largest_alphabet
    }
    return replace(leaf, coder=min(sizes, key=lambda name: sizes[name]))
