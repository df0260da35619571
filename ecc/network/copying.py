"""Copying: modules as deep copies that share or replace some of their tensors.

The result is that of ``copy.deepcopy``, several times faster for ordinary modules: most of what a module holds is empty
hooks and plain numbers. Three things go beyond it: weak references to parts of the network lead to the copies of
those parts, tensors that other tensors made (old-style weight norm keeps such) are copied by value, and a parametrised
module has a class of its own, so that parametrisations can be removed from one copy and stay in the other.
"""

from __future__ import annotations

import copy
import copyreg
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ecc.core.errors import InputError

__all__ = ["copied", "copy_sharing", "refuse_wrappers"]

_ATOMIC = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType}
    | {torch.dtype, torch.device, torch.Size, torch.memory_format}
)

_WRAPPERS = {  # classes of torch around a network: what it is then, and what to give instead
    "OptimizedModule": ("compiled by torch.compile", "the module inside, its attribute _orig_mod"),
    "DataParallel": ("wrapped in DataParallel", "the network inside, its attribute module"),
    "DistributedDataParallel": ("wrapped in DistributedDataParallel", "the network inside, its attribute module"),
    "FullyShardedDataParallel": ("cut in shards by FSDP", "the network with whole parameters"),
    "ScriptModule": ("a TorchScript program", "the Python module that it was made from"),
}


def copy_sharing(module: nn.Module, replacements: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy in which the tensors with these ids are replaced, so that large ones are never copied.

    Gradients of the replaced tensors are those of the replacements.

    Raises:
        InputError: If the module holds something that cannot be copied, or hides the network in a wrapper.
    """
    refuse_wrappers(module)
    copier = _Copier(module, replacements)
    try:
        duplicate: nn.Module = copier.copy(module)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{type(module).__name__} cannot be copied ({error}); remove what cannot from it") from error
    for part in duplicate.modules():
        if "parametrizations" in part._modules and is_parametrized(part):
            _separate(part)
    return duplicate


def _separate(module: nn.Module) -> None:
    """Give a parametrised module a class like its own: PyTorch makes one per module, with a property per weight."""
    kind = type(module)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, own)


def copied(tensor: Tensor, data: Tensor) -> Tensor:
    """Data as the kind of tensor that it replaces, with the attributes that the user gave that one."""
    if isinstance(tensor, nn.Parameter):
        data = nn.Parameter(data, requires_grad=tensor.requires_grad)
        if type(tensor) is not nn.Parameter:
            data = data.as_subclass(type(tensor))
    elif tensor.is_leaf and tensor.requires_grad:
        data = data.requires_grad_()
    if attributes := vars(tensor):
        vars(data).update(attributes)
    return data


class _Copier:
    """One deep copy; what it leaves to ``copy.deepcopy`` shares the memo."""

    def __init__(self, module: nn.Module, replacements: Mapping[int, Tensor]) -> None:
        self._memo: dict[int, Any] = dict(replacements)
        self._plain: dict[type, bool] = {}
        self._members: set[int] = set()
        for part in module.modules():
            self._members.add(id(part))
            if not self._is_plain(type(part)):
                self._detach(part)
        self._members.update(map(id, module.parameters()), map(id, module.buffers()))

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMIC:
            return value
        key = id(value)
        if key in self._memo:
            return self._memo[key]
        if kind is OrderedDict and not value:  # hooks that nobody registered: the usual case
            self._memo[key] = value = OrderedDict()
            return value
        if isinstance(value, nn.Module) and self._is_plain(kind):
            return self._module(value)
        if kind is dict or (kind is OrderedDict and not vars(value)):
            return self._mapping(value)
        if kind is tuple and all(type(item) in _ATOMIC for item in value):
            return value
        if kind is set and not value:
            return self._noted(value, set())
        if kind is list:
            made: list[Any] = []
            self._memo[id(value)] = made
            made.extend(map(self.copy, value))
            return made
        if isinstance(value, Tensor) and not value.is_leaf:
            return self._noted(value, value.detach().clone())
        if kind is weakref.ref and id(value()) in self._members:
            return self._noted(value, weakref.ref(self.copy(value()), value.__callback__))
        return copy.deepcopy(value, self._memo)

    def _noted(self, value: Any, made: Any) -> Any:
        self._memo[id(value)] = made
        return made

    def _module(self, module: nn.Module) -> nn.Module:
        """As ``copy.deepcopy`` rebuilds objects: the class's ``__new__``, then the copied state."""
        kind = type(module)
        made = self._noted(module, kind.__new__(kind))
        state = {}
        for name, value in vars(module).items():
            state[name] = value if type(value) in _ATOMIC else self.copy(value)
        state.pop("_compiled_call_impl", None)  # what Module.compile made is of the old module, as for deepcopy
        made.__setstate__(state)
        return made  # type: ignore[no-any-return]

    def _mapping(self, value: dict[Any, Any]) -> Any:
        made = self._noted(value, type(value)())
        for key, item in value.items():
            made[key if type(key) in _ATOMIC else self.copy(key)] = item if type(item) in _ATOMIC else self.copy(item)
        return made

    def _is_plain(self, kind: type[nn.Module]) -> bool:
        """Whether a class leaves it to nn.Module how its instances are copied."""
        if kind not in self._plain:
            usual = (
                kind.__getstate__ is nn.Module.__getstate__
                and kind.__reduce_ex__ is object.__reduce_ex__
                and kind.__reduce__ is object.__reduce__
            )
            own = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
            names = {name for base in kind.__mro__ for name in vars(base)}
            self._plain[kind] = usual and names.isdisjoint(own) and kind not in copyreg.dispatch_table
        return self._plain[kind]

    def _detach(self, module: nn.Module) -> None:
        """Note copies of tensors that others made; ``copy.deepcopy`` would refuse them."""
        for held in vars(module).values():
            for value in held if isinstance(held, list) else [held]:  # recurrent layers list their weights once more
                if isinstance(value, Tensor) and not value.is_leaf and id(value) not in self._memo:
                    self._noted(value, value.detach().clone())


def refuse_wrappers(module: nn.Module) -> None:
    """Refuse a network, or one with parts, that is wrapped or compiled so that its modules cannot be cut.

    Raises:
        InputError: If so; the message says what to give instead.
    """
    kinds: dict[type, str] = {}
    for path, part in module.named_modules():
        kinds.setdefault(type(part), path)
    for kind, path in kinds.items():
        for base in kind.__mro__:
            if base.__name__ in _WRAPPERS and base.__module__.startswith("torch."):
                state, instead = _WRAPPERS[base.__name__]
                subject = f"the part {path!r} of the network" if path else "the network"
                raise InputError(f"{subject} is {state}; give {instead}")
