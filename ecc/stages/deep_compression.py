"""The stage ``deep-compression``: prune, share values, code, in one (Han, Mao and Dally, ICLR 2016)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import PackedCode, packed
from ecc.stages.codebook import Codebook
from ecc.stages.entropy import Entropy, Huffman
from ecc.stages.prune import Prune

__all__ = ["DeepCompression"]

_LOG = logging.getLogger("ecc")
_CODERS: Mapping[str, type[Huffman | Entropy]] = {"huffman": Huffman, "entropy": Entropy}


@dataclass(frozen=True, slots=True)
class DeepCompression:
    """``prune``, then ``codebook``, then ``huffman`` or ``entropy``, with the options of each.

    Attributes:
        density: As all to ``gap_bits``, of ``prune``.
        quality: In place of a density.
        rule: How many weights of each tensor.
        least: Share of each tensor that is kept in any case.
        epochs: Of training while weights go.
        lr: Of this training.
        l2: Of this training.
        ramp: Share of it over which weights go.
        regrow: Whether weights may come back.
        dropout: Whether dropout falls with the density.
        gap_bits: Of the packed index; the coder's choice when None.
        bits: As ``init``, ``steps``, ``centroids`` and ``reassign``, of ``codebook``.
        init: Where centroids begin.
        steps: Of k-means, at most.
        centroids: ``float32`` or ``float16``.
        tune_epochs: The epochs of ``codebook``.
        tune_lr: The learning rate of ``codebook``.
        reassign: How often values go to the nearest of the tuned centroids.
        coder: ``huffman``, as published, or ``entropy``: for each stream the coder that takes the fewest bytes.
        layers: Names or patterns of the tensors; all weights when empty.
    """

    density: float | None = 0.1
    quality: float | None = None
    rule: str = "lamp"
    least: float = 0.005
    epochs: int = 10
    lr: float = 1e-3
    l2: float = 0.0
    ramp: float = 0.5
    regrow: bool = False
    dropout: bool = False
    gap_bits: int | None = None
    bits: int = 5
    init: str = "linear"
    steps: int = 100
    centroids: str = "float32"
    tune_epochs: int = 2
    tune_lr: float = 1e-4
    reassign: int = 0
    coder: str = "huffman"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.coder not in _CODERS:
            raise InputError(f"DeepCompression(coder=...) must be {' or '.join(_CODERS)}, got {self.coder!r}")
        _ = self.parts  # refuse what they refuse

    @property
    def name(self) -> str:
        """As on the command line."""
        return "deep-compression"

    @property
    def parts(self) -> tuple[Prune, Codebook, Huffman | Entropy]:
        """The stages."""
        prune = Prune(
            self.density,
            self.quality,
            self.rule,
            self.least,
            self.epochs,
            self.lr,
            self.l2,
            self.ramp,
            self.regrow,
            self.dropout,
            self.gap_bits,
            self.layers,
        )
        codebook = Codebook(
            self.bits,
            self.init,
            self.steps,
            self.centroids,
            self.tune_epochs,
            self.tune_lr,
            self.reassign,
            self.layers,
        )
        return prune, codebook, _CODERS[self.coder](self.layers)

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """What the stages make of the state, one after the other; those that find nothing to do are left out.

        Raises:
            InputError: If there are no weights that are stored as they are, or one is not finite.
        """
        prune, codebook, coder = self.parts
        code = prune.encode(state, workshop)
        for stage in (codebook, coder):
            try:
                code = packed(stage.encode(code, workshop))
            except NothingToDo as nothing:
                _LOG.info("deep-compression goes on without %s: %s", stage.name, nothing)
        return code
