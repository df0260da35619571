"""FileCheckpoint: the state of long work in one file that is replaced atomically.

The file is a safetensors file: its tensors are those of the state, its metadata holds the rest as JSON. Nothing in it
is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ecc.core.errors import InputError, UnavailableError
from ecc.core.files import write_whole

__all__ = ["FileCheckpoint", "pack", "unpack"]

_SCHEMA = "ecc-checkpoint-1"


class FileCheckpoint:
    """Keeps the last state in a file.

    Args:
        path: The file; made at the first save, with its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FileCheckpoint({str(self.path)!r})"

    def load(self) -> dict[str, Any] | None:
        """The last saved state, tensors on the CPU; None when there is no file.

        Raises:
            InputError: If the file is not a checkpoint that ecc wrote.
        """
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return _state(metadata, tensors)
        except (safetensors.SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"checkpoint {self.path} cannot be read ({_first_line(error)}); delete it to start anew"
            ) from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; a crash leaves the old state or the new one, never a mixture.

        Args:
            state: Tensors, numbers, strings, None, nested in dicts, lists and tuples.

        Raises:
            TypeError: If the state holds something else.
            UnavailableError: If the file cannot be written.
        """
        payload = pack(state)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, payload)
        except OSError as error:
            raise UnavailableError(
                f"checkpoint {self.path} cannot be written ({error.strerror or error}); "
                "give a folder that is writable and has room"
            ) from error

    def clear(self) -> None:
        """Forget the saved state."""
        self.path.unlink(missing_ok=True)


def pack(state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint's file.

    Args:
        state: Tensors, numbers, strings, None, nested in dicts, lists and tuples.

    Raises:
        TypeError: If the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(state, tensors))
    return safetensors.torch.save(tensors, {"schema": _SCHEMA, "state": text})


def unpack(payload: bytes) -> dict[str, Any]:
    """The inverse of ``pack``, for bytes of one's own making."""
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    return _state(header["__metadata__"], safetensors.torch.load(payload))


def _state(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if metadata.get("schema") != _SCHEMA:
        raise ValueError("another schema")
    state = _decode(json.loads(metadata["state"]), tensors)
    if not isinstance(state, dict):
        raise ValueError("no mapping")
    return state


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON value; a tensor goes to ``tensors`` and leaves its name. Containers are tagged: keys keep their types."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tensor":
        return tensors[content]
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if tag == "tuple" else dict(items)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
