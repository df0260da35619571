"""States: what a run of training was when it was last known to be good, in memory and in its checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint
from ecc.solvers.averaging import Average
from ecc.solvers.checkpoints import pack, unpack
from ecc.solvers.distributed import Ranks

__all__ = ["States", "identity"]

_LOG = logging.getLogger("ecc")


class States:
    """The last good states of one run.

    A state has the entries ``model``, ``average``, ``epoch`` and ``batch``, and all others where there is a checkpoint.

    Args:
        checkpoint: Where the first process keeps them; None for memory only.
        key: Of the run, see ``identity``; a state of another key is not taken.
        every_s: Least time between two saved states.
        stage: Names the run for people.
    """

    def __init__(self, checkpoint: Checkpoint | None, key: str, ranks: Ranks, every_s: float, stage: str) -> None:
        self.kept = checkpoint is not None
        self._checkpoint = checkpoint if ranks.first else None
        self._key, self._ranks, self._every_s, self._stage = key, ranks, every_s, stage
        self._saved_at = time.monotonic()
        self._saved = (-1, 0)
        self._good: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self._checkpoint is not None and time.monotonic() - self._saved_at >= self._every_s

    def load(self) -> dict[str, Any] | None:
        """The saved state of this run, the same in all processes."""
        state = self._checkpoint.load() if self._checkpoint is not None else None
        if state is not None and state.get("key") != self._key:
            _LOG.warning("the checkpoint of %s belongs to other weights or settings; starting anew", self._stage)
            state = None
        if self._ranks.world > 1:
            payload = self._ranks.share_bytes(pack(state) if state is not None else b"")
            state = unpack(payload) if payload else None
        if state is not None:
            self._saved = (state["epoch"], state["batch"])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state in the checkpoint.

        Raises:
            InputError: If the state of an optimiser, a schedule or a hook cannot be kept.
            UnavailableError: If the file cannot be written.
        """
        if self._checkpoint is None:
            return
        try:
            self._checkpoint.save({**state, "key": self._key})
        except TypeError as error:
            raise InputError(
                f"the state of {self._stage} cannot be kept ({error}): that of an optimizer or schedule of your own "
                "must be made of tensors, numbers and strings; train without a checkpoint, or choose another"
            ) from error
        self._saved_at, self._saved = time.monotonic(), (state["epoch"], state["batch"])

    def remember(self, state: Mapping[str, Any]) -> None:
        """Hold a copy of a good state in the memory of the host, where no device can lose it."""
        self._good = _copied(state)

    def put_back(self, model: nn.Module, average: Average | None, *, lost: bool = False) -> str:
        """Give the model the weights that are remembered; returns a clause that says which.

        Args:
            lost: The model's device is; the weights then are on the CPU.
        """
        model.zero_grad(set_to_none=True)
        if lost:
            _replace(model, self._good["model"])
        else:
            model.load_state_dict(self._good["model"])
        if average is not None:
            average.install(self._good["average"]["values"])
        epoch, batch = self._good["epoch"], self._good["batch"]
        when = f"after batch {batch} of epoch {epoch + 1}" if batch else f"before epoch {epoch + 1}"
        return f"the weights from {when} are kept"

    def rescue(self) -> str:
        """Save the state that is remembered, unless a later one is saved; returns a clause that says so."""
        if not self.kept:
            return ""
        if self._saved < (self._good["epoch"], self._good["batch"]):
            self.save(self._good)
        return ", their state is saved, and the same call goes on from there"


def identity(settings: Sequence[Any], networks: Sequence[nn.Module | None]) -> str:
    """Hash of everything that decides a result: settings (JSON values) and start weights."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for network in networks:
        for name, tensor in network.state_dict().items() if network is not None else ():
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _copied(value: Any) -> Any:
    """Tensors as copies on the CPU, containers as new ones."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _replace(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Put other tensors, on another device, into parameters and buffers whose own cannot be reached any more."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in kept:
            tensor.data = kept[name].clone()
