"""The container ``weights.ecz``: codes as bytes and bytes as codes."""

from __future__ import annotations

from collections.abc import Mapping

from ecc.stages.nodes import Node

__all__ = ["node_bytes", "read", "to_bytes"]


def to_bytes(nodes: Mapping[str, Node], aliases: Mapping[str, str]) -> bytes:
    """The whole file."""
    raise NotImplementedError


def node_bytes(name: str, node: Node) -> int:
    """What one tensor takes of the file."""
    raise NotImplementedError


def read(content: bytes) -> tuple[dict[str, Node], dict[str, str]]:
    """The nodes and aliases of a file."""
    raise NotImplementedError
