"""Edits: changes of a network's structure that a packed state needs, as plain records of a manifest.

A record is ``{"edit": kind, "path": path of a module}``, of kind ``identity`` (the module becomes one that passes its
input on) or ``bias`` (a layer without a bias gets one). Manifests are not to be trusted: a record may name modules of
the network and do these two things to them, and nothing else. Edits that were made already change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ecc.core.errors import InputError
from ecc.network.copying import copied, copy_sharing

__all__ = ["EDITS", "Edit", "apply_edits", "bias_edit", "identity_edit"]

Edit = Mapping[str, str | int]
"""One record."""

_MOST = 100_000  # in a manifest


def identity_edit(path: str) -> Edit:
    """The record by which the module at ``path`` passes its input on."""
    return {"edit": "identity", "path": path}


def bias_edit(path: str) -> Edit:
    """The record by which the layer at ``path`` has a bias."""
    return {"edit": "bias", "path": path}


def apply_edits(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the network with tensors of its own and the edits made, in order.

    Raises:
        InputError: If a record is not one of EDITS, or names a module that is not there or not of its kind.
    """
    if len(edits) > _MOST:
        raise InputError(f"there are {len(edits)} edits of the network's structure, and at most {_MOST} are read")
    copy = copy_sharing(model, {id(t): copied(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())})
    modules = dict(copy.named_modules(remove_duplicate=False))
    for change in [_change(record, modules) for record in edits]:
        change()
    return copy


def _change(record: Edit, modules: Mapping[str, nn.Module]) -> Callable[[], None]:
    """What a record does; nothing is done yet."""
    if not isinstance(record, Mapping) or set(record) != {"edit", "path"}:
        raise InputError("an edit of the network's structure has the entries edit and path, and no others")
    kind, path = record["edit"], record["path"]
    edit = EDITS.get(kind) if isinstance(kind, str) else None
    if edit is None:
        raise InputError(f"{kind!r} is no edit of a network's structure; there are {', '.join(EDITS)}")
    if not isinstance(path, str) or not path or path not in modules:
        raise InputError(f"the edit {kind} names the module {path!r}, which the network does not have")
    return edit(path, modules)


def _to_identity(path: str, modules: Mapping[str, nn.Module]) -> Callable[[], None]:
    parent, _, name = path.rpartition(".")

    def change() -> None:
        modules[parent].register_module(name, nn.Identity().train(modules[path].training))

    return change


def _with_bias(path: str, modules: Mapping[str, nn.Module]) -> Callable[[], None]:
    layer = modules[path]
    if not isinstance(layer, nn.Linear | _ConvNd):
        raise InputError(f"the edit bias is of linear and convolutional layers, and {path!r} is {type(layer).__name__}")
    size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    def change() -> None:
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(size, dtype=layer.weight.dtype, device=layer.weight.device))

    return change


EDITS: Mapping[str, Callable[[str, Mapping[str, nn.Module]], Callable[[], None]]] = MappingProxyType(
    {"identity": _to_identity, "bias": _with_bias}
)
"""By kind, what prepares the change."""
