"""Packed weights: where artefacts, which do not know what stages make, and codes, which know no folders, are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecc.artefact import PACKED, Artefact, Manifest, StageRecord
from ecc.artefact import inspect as inspect_artefact
from ecc.artefact import read as read_artefact
from ecc.core.errors import InputError
from ecc.network.copying import copy_sharing
from ecc.network.input_masks import BUFFER
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.container import MAGIC, read
from ecc.stages.edits import apply_edits
from ecc.stages.nodes import Form, Node, Numbers, Symbols, leaves, shape_of

__all__ = ["Packing", "code_of", "inspect", "inspect_packed", "is_packed", "masks_in", "tensors_of", "with_code"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """What secondary stages have made of a network's weights.

    Attributes:
        stages: In their order.
        tensors: A row per tensor, as of ``tensors_of``.
        bytes: Of the file.
        dense_bytes: Parameters of the dense network as floats of 32 bits.
    """

    stages: tuple[StageRecord, ...]
    tensors: pd.DataFrame = field(default_factory=pd.DataFrame)
    bytes: int = 0
    dense_bytes: int = 0

    @classmethod
    def of(cls, manifest: Manifest, code: PackedCode) -> Packing | None:
        """Of an artefact; None where no stage was applied."""
        if not manifest.stages:
            return None
        dense = _FLOAT_BYTES * manifest.counts.get("params_dense", 0)
        return cls(manifest.stages, tensors_of(code), code.nbytes, dense)


def code_of(artefact: Artefact) -> PackedCode:
    """The weights of an artefact as a code that stages can go on with; plain ones as numbers.

    Raises:
        InputError: If the file is no longer what it was, or cannot be read.
    """
    if not artefact.packed:
        return packed(artefact.state())
    nodes, aliases = read(artefact.content(PACKED))
    return PackedCode(nodes, aliases, tuple(artefact.manifest.edits))


def masks_in(code: PackedCode) -> dict[str, Tensor]:
    """The input masks among the tensors of a code, by their names."""
    return {name: decode_node(node) for name, node in code.nodes.items() if name.split(".")[-1] == BUFFER}


def with_code(model: nn.Module, code: PackedCode, *, where: str = "the code") -> nn.Module:
    """A copy of a network, in eval mode, with the structure and the weights of a code.

    Args:
        model: With the edits of the code or without.
        where: What to call the code in messages.
    Raises:
        InputError: If the code is of another network; that is seen before anything is decoded.
    """
    fresh = copy_sharing(apply_edits(model, code.edits), {})
    own = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()}
    given = {name: shape_of(node) for name, node in code.nodes.items()}
    given |= {alias: given[name] for alias, name in code.aliases.items()}
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            found, wanted = (f"of shape {each[name]}" if name in each else "absent" for each in (given, own))
            raise InputError(f"the weights of {where} do not fit its network: {name} is {found} and should be {wanted}")
    fresh.load_state_dict(code.decode())
    return fresh.eval()


def tensors_of(code: PackedCode) -> pd.DataFrame:
    """A row per tensor, index ``name``.

    Columns: ``form`` (what it is stored as, from the outside in: ``sparse, codebook``), ``coder`` (of its symbols),
    ``shape``, ``dtype``, ``size`` (elements), ``entries`` (those that are stored), ``dense_bytes`` (without stages),
    ``bytes`` (of the file), ``bits`` (of the file per element).
    """
    stored = code.stored()
    rows = []
    for name, node in code.nodes.items():
        shape = shape_of(node)
        size = int(np.prod(shape, dtype=np.int64))
        rows.append(
            {
                "name": name,
                "form": ", ".join(_forms(node)) or "plain",
                "coder": ", ".join(dict.fromkeys(leaf.coder for _, leaf in leaves(node) if isinstance(leaf, Symbols))),
                "shape": "x".join(map(str, shape)),
                "dtype": str(_dtype(node)).removeprefix("torch."),
                "size": size,
                "entries": stored[name].entries,
                "dense_bytes": size * _dtype(node).itemsize,
                "bytes": stored[name].nbytes,
                "bits": 8 * stored[name].nbytes / size if size else 0.0,
            }
        )
    return pd.DataFrame(rows).set_index("name")


def _forms(node: Node) -> list[str]:
    """The kinds of forms from the outside in, each once."""
    if not isinstance(node, Form):
        return []
    inner = [kind for part in node.parts.values() for kind in _forms(part)]
    return list(dict.fromkeys([node.kind, *inner]))


def _dtype(node: Node) -> torch.dtype:
    if isinstance(node, Numbers):
        return node.values.dtype
    return node.dtype if isinstance(node, Form) else torch.int64


def inspect(path: str | Path) -> dict[str, Any]:
    """What is in an artefact, as a JSON value, packed or not.

    Raises:
        InputError: If it is not a sound artefact.
    """
    value = inspect_artefact(path)
    if PACKED not in value["files"]:
        return value
    return value | _tensors_json(code_of(read_artefact(path)))


def is_packed(path: Path) -> bool:
    """Whether a file begins as packed weights do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def inspect_packed(path: str | Path) -> dict[str, Any]:
    """What is in a file ``weights.ecz``, as a JSON value.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}; choose another file") from error
    code = PackedCode(*read(content))
    return {"path": str(path), "kind": PACKED, "bytes": len(content), **_tensors_json(code)}


def _tensors_json(code: PackedCode) -> dict[str, Any]:
    rows = tensors_of(code).to_dict("index")
    return {"tensors": {str(name): _row_json(row) for name, row in rows.items()}, "tied": dict(code.aliases)}


def _row_json(row: Mapping[Any, Any]) -> dict[str, Any]:
    shape = [int(size) for size in row["shape"].split("x") if size]
    return {str(name): value for name, value in row.items()} | {"shape": shape}
