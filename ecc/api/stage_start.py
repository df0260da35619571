"""Start: what secondary stages begin with, a network as it is or the one of an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import safetensors.torch
from torch import nn

from ecc.api.describing import Source, manifest_of_network
from ecc.api.keeping import CUT, Loaded
from ecc.api.packing import code_of
from ecc.api.weight_verdicts import weight_verdicts
from ecc.artefact import PACKED, Manifest
from ecc.core.errors import EccError
from ecc.core.verdict import BudgetCheck
from ecc.network.copying import copy_sharing
from ecc.network.manifest import SlimManifest
from ecc.network.parametrised import parametrised_tensors
from ecc.network.tracing import trace
from ecc.stages.code import PackedCode, packed
from ecc.stages.nodes import Numbers

__all__ = ["Start", "start_of_artefact", "start_of_network"]

_REWRITTEN = ("weights.safetensors", PACKED, "history.csv", "report.html")
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Start:
    """What stages begin with.

    Attributes:
        model: The network with its weights, in eval mode; not to be changed.
        code: Its state; where stages have packed it before, as they have.
        nbytes: Size of the file that holds the weights.
        inputs: What to run it with where no data are given; empty where that is not known.
        manifest: What an artefact says of it; None where none can be written.
        reason: Why none can.
        files: Of the artefact, those that are kept.
        history: Of its training.
        loaded: The artefact; None for a network that is of none.
    """

    model: nn.Module
    code: PackedCode
    nbytes: int
    inputs: tuple[Any, ...] = ()
    manifest: Manifest | None = None
    reason: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    loaded: Loaded | None = None

    @property
    def dense_bytes(self) -> int:
        """Parameters of the dense network as floats of 32 bits."""
        if self.manifest is not None and "params_dense" in self.manifest.counts:
            return _FLOAT_BYTES * self.manifest.counts["params_dense"]
        return _FLOAT_BYTES * sum(parameter.numel() for parameter in self.model.parameters())

    def budgets(self, model: nn.Module, code: PackedCode) -> tuple[BudgetCheck, ...]:
        """The budgets of the artefact, those on single weights judged by the weights of ``model`` as they are, or as
        ``code`` stores them; measured ones stay what they were.
        """
        if self.loaded is None or self.manifest is None:
            return ()
        kept = self.loaded
        renewed = weight_verdicts(kept.dense, model, kept.graph, kept.inputs, self.manifest, kept.costs(), code)
        return tuple(renewed.get(check.metric, check) for check in self.manifest.budgets)


def start_of_artefact(loaded: Loaded) -> Start:
    """What stages of an artefact begin with.

    Raises:
        InputError: If a file is no longer what it was.
    """
    artefact = loaded.artefact
    kept = [name for name in artefact.files if name not in _REWRITTEN and not name.endswith(".png")]
    return Start(
        loaded.model,
        _leaving(code_of(artefact), loaded.model),
        artefact.weights.bytes,
        _tuple_of(loaded.inputs),
        artefact.manifest,
        files={name: artefact.content(name) for name in kept},
        history=artefact.history(),
        loaded=loaded,
    )


def start_of_network(model: nn.Module, inputs: Any = None, *, source: Source | None = None, seed: int = 0) -> Start:
    """What stages of a network begin with that is of no artefact.

    Args:
        model: Left as it is.
        inputs: To trace it with, so that an artefact can be written; None where there are none.
        source: Where it came from.
        seed: Of what is done with it.
    Raises:
        InputError: If the state holds something else than dense tensors, or the network cannot be copied.
    """
    own = copy_sharing(model, {}).eval()
    code = _leaving(packed(own.state_dict()), own)
    tensors = {name: node.values for name, node in code.nodes.items() if isinstance(node, Numbers)}  # all of them
    nbytes = len(safetensors.torch.save(tensors))
    if inputs is None:
        reason = "nothing is known of its inputs; give data, or example_inputs"
        return Start(own, code, nbytes, reason=reason)
    try:
        graph = trace(own, inputs)
        manifest = manifest_of_network(model, graph, inputs, source, seed=seed)
        files = {CUT: SlimManifest.of(own, graph, {}).to_bytes()}
    except EccError as error:
        return Start(own, code, nbytes, _tuple_of(inputs), reason=str(error))
    return Start(own, code, nbytes, _tuple_of(inputs), manifest, files=files)


def _leaving(code: PackedCode, model: nn.Module) -> PackedCode:
    """The code with the tensors named that stages leave as they are; of tied ones, by the name that it stores."""
    return replace(code, left=frozenset(code.aliases.get(name, name) for name in parametrised_tensors(model)))


def _tuple_of(inputs: Any) -> tuple[Any, ...]:
    """Inputs as the arguments of the network; keyword ones are no such and left out."""
    if isinstance(inputs, tuple | list):
        return tuple(inputs)
    return () if inputs is None or isinstance(inputs, Mapping) else (inputs,)
