"""STAGES: every secondary stage by the name it has on the command line; the one list that the api and it read.

Installed packages may add to it: entry points of the group ``ecc.stages``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, cast

from ecc.core.code import Stage
from ecc.core.errors import InputError
from ecc.core.parts import Parts
from ecc.stages.codebook import Codebook
from ecc.stages.deep_compression import DeepCompression
from ecc.stages.deepthin import DeepThin
from ecc.stages.entropy import Entropy, Huffman
from ecc.stages.fixed_point.stage import FixedPoint
from ecc.stages.fold import Fold
from ecc.stages.half import Half
from ecc.stages.hashed import Hashed
from ecc.stages.log_quant import LogQuant
from ecc.stages.multi_hash import MultiHash
from ecc.stages.multilevel import MultilevelProductQuant
from ecc.stages.product_quant import ProductQuant
from ecc.stages.prune import Prune
from ecc.stages.svd import Svd

__all__ = ["STAGES"]


def _as_stage(name: str, found: Any) -> type[Stage]:
    if not (isinstance(found, type) and is_dataclass(found) and callable(getattr(found, "encode", None))):
        raise InputError(f"stage {name!r} must be a frozen dataclass with a method encode, got {found!r:.80}")
    return cast(type[Stage], found)


STAGES: Mapping[str, type[Stage]] = Parts(
    "ecc.stages",
    {
        "fold": Fold,
        "svd": Svd,
        "deepthin": DeepThin,
        "hashed": Hashed,
        "multi-hash": MultiHash,
        "deep-compression": DeepCompression,
        "prune": Prune,
        "codebook": Codebook,
        "multilevel-product-quant": MultilevelProductQuant,
        "product-quant": ProductQuant,
        "log-quant": LogQuant,
        "fixed-point": FixedPoint,
        "half": Half,
        "huffman": Huffman,
        "entropy": Entropy,
    },
    _as_stage,
)
"""Frozen dataclasses whose fields are the stage's options; in the order in which stages make sense."""
