"""Sparsity: single weights that went and inputs that are masked, layer by layer, before and after."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecc.artefact import Artefact
from ecc.core.errors import InputError
from ecc.core.weights import Masks
from ecc.network.input_masks import apply_masks, stored_masks

__all__ = ["LAYERS", "Sparsity", "compared", "layers_in", "nonzeros_of", "with_stored_masks"]

LAYERS = "layers.csv"
"""File of an artefact with the table of ``Sparsity.layers``."""

_DENSE = "dense_"
_MOST_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Sparsity:
    """What is zero in a network.

    Attributes:
        method: That made it so.
        masks: Of inputs, 0 or 1, by layer; empty where the method masks none.
        layers: A row per layer, index ``name``: ``size`` and ``nonzeros`` (weights), and where there is a budget on
            energy what it is spent on, ``mac``, ``weights``, ``inputs``, ``outputs`` and ``total``; each with the dense
            network's value in a column of the same name that begins with ``dense_``.
        unit: Of the energies; empty where there are none.
    """

    method: str
    masks: Masks = field(default_factory=dict)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """The rows of the layers, and the share of the inputs that each mask keeps."""
        rows = self.layers.reset_index().to_dict("records")
        kept = {name: float((mask != 0).double().mean()) for name, mask in self.masks.items()}
        return {"layers": rows, "layers_unit": self.unit, "inputs_kept": kept}


def compared(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Two tables of a ``WeightCost`` as one: each column of numbers beside the dense network's.

    Layers that went with a block have zeros in the latter.
    """
    numbers = [name for name in before.columns if pd.api.types.is_numeric_dtype(before[name])]
    dense = before[numbers]
    left = after.reindex(columns=numbers).reindex(dense.index).fillna(0).astype(dense.dtypes.to_dict())
    return pd.concat([dense.add_prefix(_DENSE), left], axis=1)


def nonzeros_of(model: nn.Module) -> int:
    """Parameters that are not zero; those that are shared once."""
    return sum(int(torch.count_nonzero(parameter.detach())) for parameter in model.parameters())


def with_stored_masks(
    model: nn.Module, state: Mapping[str, Tensor], names: Sequence[str], *, inputs: Any = None, where: str = "the state"
) -> nn.Module:
    """The network with the masks that a state holds for these layers; the network itself where there are none.

    Args:
        inputs: Of one forward, to see that the masks fit; None where that is known.
        where: What to call the state in messages.
    Raises:
        InputError: If a mask is missing, holds something else than 0 and 1, or does not fit its layer.
    """
    if not names:
        return model
    found = stored_masks(state)
    for name in names:
        if name not in found:
            raise InputError(f"{where} has no mask of the inputs of {name!r:.80}; it was changed or damaged")
        if not bool(((found[name] == 0) | (found[name] == 1)).all()):
            raise InputError(f"{where}: the mask of the inputs of {name!r:.80} is not of 0 and 1; do not trust it")
    try:
        return apply_masks(model, {name: found[name] for name in names}, inputs=inputs)
    except InputError as error:
        raise InputError(f"{where} does not fit its network: {error}") from error


def layers_in(artefact: Artefact) -> pd.DataFrame | None:
    """The table of ``Sparsity.layers`` that an artefact holds; None where no weights were pruned.

    Raises:
        InputError: If the file is no such table.
    """
    if LAYERS not in artefact.files:
        return None
    where = f"{LAYERS} of artefact {artefact.path}"
    if artefact.files[LAYERS].bytes > _MOST_BYTES:
        raise InputError(f"{where} is larger than a table of layers can be; write the artefact again")
    try:
        table = pd.read_csv(io.BytesIO(artefact.content(LAYERS)), index_col="name")
    except (ValueError, IndexError) as error:  # parser and decoding errors, a missing index
        raise InputError(f"{where} is no table of layers ({error}); it was changed or damaged") from error
    numbers = table.select_dtypes("number")
    sound = len(numbers.columns) == len(table.columns) and {"nonzeros", f"{_DENSE}nonzeros"} <= set(table.columns)
    if not sound or not bool(np.isfinite(numbers.to_numpy(dtype=float)).all()):
        raise InputError(f"{where} is no table of layers; it was changed or damaged")
    return table
