"""MODEL of the command line → module; weight files → module."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.factories import build, call, kind_of, parse_value, reason, suggestion
from ecc.zoo.networks import NETWORKS

__all__ = ["LoadedModel", "load_model", "load_weights"]

_NESTS = ("state_dict", "model_state_dict", "model")  # where training scripts keep the state in a checkpoint
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network and what is known of its input.

    Attributes:
        module: The network, in eval mode.
        name: For people and file names.
        input_shape: One example, no batch axis; None when only the user knows.
        input_dtype: float32, or int64 for token ids.
        vocabulary: Token ids are below this; 0 for other inputs.
        data: Name of the data that the network is for; empty when unknown.
    """

    module: nn.Module
    name: str
    input_shape: tuple[int, ...] | None = None
    input_dtype: torch.dtype = torch.float32
    vocabulary: int = 0
    data: str = ""

    def example(self, batch: int = 1, *, seed: int = 0) -> Tensor:
        """Random inputs of shape (batch, *input_shape): normal values, or token ids.

        Raises:
            InputError: If the input shape is not known.
        """
        if self.input_shape is None:
            raise InputError(f"the input shape of {self.name} is not known; give it, for example --input 1x3x32x32")
        shape = (batch, *self.input_shape)
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary:
            return torch.randint(self.vocabulary, shape, generator=generator, dtype=self.input_dtype)
        return torch.randn(shape, generator=generator, dtype=self.input_dtype)


def load_model(
    spec: str, options: Mapping[str, str] | None = None, *, weights: str | Path | None = None, stored: bool = False
) -> LoadedModel:
    """Make the network that MODEL names; fresh weights come from torch's global generator.

    Args:
        spec: ``zoo:NAME``, ``package.module:factory`` or ``file.py:factory``.
        options: Keyword arguments of the factory as text; read as int, float, bool or text.
        weights: A file for ``load_weights``.
        stored: Whether the spec was read from a file, which may be a stranger's.

    Raises:
        InputError: If there is no such network, it cannot be made, or the weights do not fit; the message says why and
            how to mend it.
    """
    loaded = _make(spec, options, stored)
    if weights is not None:
        load_weights(loaded.module, weights)
    return loaded


def _make(spec: str, options: Mapping[str, str] | None, stored: bool) -> LoadedModel:
    values = {name: parse_value(value) for name, value in (options or {}).items()}
    where, _, name = spec.rpartition(":")
    if where == "zoo":
        return _from_zoo(name, values)
    if not where and name in NETWORKS:
        raise InputError(f"model {spec!r} names no factory; for the zoo's network write zoo:{name}")
    made = build("model", spec, values, stored=stored)
    if not isinstance(made, nn.Module):
        raise InputError(f"model {spec!r}: the factory returned {kind_of(made)}; it must return an nn.Module")
    return LoadedModel(made.eval(), name)


def _from_zoo(name: str, values: Mapping[str, Any]) -> LoadedModel:
    if name not in NETWORKS:
        raise InputError(f"the zoo has no network {name!r}{suggestion(name, list(NETWORKS))}")
    entry = NETWORKS[name]
    module: nn.Module = call("model", f"zoo:{name}", entry.factory, values)
    vocabulary = int(values.get("vocabulary", entry.vocabulary)) if entry.vocabulary else 0
    return LoadedModel(module.eval(), name, entry.shape(values), entry.input_dtype, vocabulary, entry.data)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a file into a module; the module is untouched when they do not fit.

    Args:
        module: Its parameters and buffers are overwritten; dtypes and devices stay the module's.
        path: A ``.safetensors`` file, or a state dict saved by torch (plain, or under ``state_dict``); names may carry
            the prefix of DistributedDataParallel or torch.compile.

    Raises:
        InputError: If the file is missing, corrupt holds NaN or pickled code, or names or shapes do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: there is no such file; give a .safetensors or .pt file")
    state = _unwrap(_read(path), module)
    own = module.state_dict()
    present = {id(tensor) for name, tensor in module.named_parameters(remove_duplicate=False) if name in state}
    tied = {name for name, tensor in module.named_parameters(remove_duplicate=False) if id(tensor) in present}
    # Files from before PyTorch 0.4.1 lack the counter; it matters only to norms without momentum.
    missing = [n for n in own if n not in state and n not in tied and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        told = [_count(missing, "missing"), _count(unexpected, "not in the network")]
        raise InputError(
            f"weights {path} are of another network: {' and '.join(filter(None, told))}; "
            "give the weights of this network, or the options it was built with"
        )
    wrong = [name for name, tensor in state.items() if not _fits(tensor, own[name])]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"weights {path}: {len(wrong)} of {len(state)} tensors do not fit, first {name} with "
            f"{_described(state[name])} where the network has {_described(own[name])}; "
            "build the network with the options of the weights"
        )
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and bool(tensor.isnan().any())]
    if broken:
        raise InputError(
            f"weights {path} hold NaN in {len(broken)} of {len(state)} tensors, first {broken[0]}; train the network "
            "again, or give another file"
        )
    module.load_state_dict(state, strict=False)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    same_kind = tensor.is_floating_point() == own.is_floating_point() and tensor.is_complex() == own.is_complex()
    return tensor.shape == own.shape and same_kind and tensor.layout == torch.strided and not tensor.is_quantized


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _count(names: list[str], fault: str) -> str:
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"{len(names)} tensors {fault} ({shown})" if names else ""


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise InputError(f"weights {path} cannot be read ({reason(error)}); get the file again") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights {path} are corrupt or hold pickled objects, which ecc never loads; "
            "save model.state_dict() alone, best as .safetensors"
        ) from error
    except OSError as error:
        raise InputError(f"weights {path} cannot be read ({reason(error)}); get the file again") from error
    except Exception as error:  # a damaged file makes torch.load raise almost anything, which tells a user nothing
        raise InputError(
            f"weights {path} cannot be read: they are damaged, or neither .safetensors nor what torch.save writes; "
            "get the file again"
        ) from error
    for nest in _NESTS:
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
            break
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights {path} hold no state dict of tensors; save model.state_dict()")
    return {str(name): value for name, value in state.items()}


def _unwrap(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Take the prefixes off that wrappers of modules put before every name."""
    own = module.state_dict()
    while prefix := next((p for p in _WRAPPERS if state and all(n.startswith(p) for n in state)), None):
        if all(name in own for name in state):
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
