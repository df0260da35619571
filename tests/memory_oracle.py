"""What a network really takes: its forward is run, and every piece of memory that its operators make is watched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Watch", "held_bytes", "peak_bytes", "watch"]


class Watch(TorchDispatchMode):
    """Which storages the operators of a run make, and which operators use them."""

    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self.uses: dict[int, list[int]] = {}
        self.step = 0
        self._held = {tensor.untyped_storage()._cdata for tensor in held}
        self._alive = list(held)  # so that no two storages have one address

    def note(self, values: Any, *, made: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                self._alive.append(tensor)
                storage = tensor.untyped_storage()._cdata
                if made and storage not in self._held | self.bytes.keys():
                    self.bytes[storage], self.uses[storage] = tensor.untyped_storage().nbytes(), []
                if storage in self.bytes:
                    self.uses[storage].append(self.step)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
            self.step += 1
            self.note([args, kwargs], made=False)
            self.note(output, made=True)
        return output

    @property
    def peak(self) -> int:
        """The most that is alive at a time if each storage is free after the last operator that uses it."""
        return max(
            sum(size for storage, size in self.bytes.items() if self.uses[storage][0] <= now <= self.uses[storage][-1])
            for now in range(self.step + 2)
        )

    @property
    def idle(self) -> bool:
        """Whether an operator ran whose result nothing uses."""
        return any(len(set(uses)) == 1 for uses in self.uses.values())


def watch(model: nn.Module, *inputs: Tensor) -> Watch:
    """Run a network as it is when it serves."""
    seen = Watch([*model.parameters(), *model.buffers()])
    seen.note(inputs, made=True)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), seen:
            output = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    seen.step += 1
    seen.note(output, made=False)
    return seen


def peak_bytes(model: nn.Module, *inputs: Tensor) -> int:
    """The activations of a network at their peak."""
    return watch(model, *inputs).peak


def held_bytes(model: nn.Module) -> int:
    """What its state takes, tensors with several names once."""
    state = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
    return sum(state.values())
