"""Asked outputs: the last layer computes those that a decoder asks for (lazy evaluation; Vanhoucke et al. 2011).

All layers before the last one run as ever. The sums of the asked outputs are what the whole layer gives; a softmax is
one over what was asked, which keeps order and differences of logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import tolerance
from ecc.stages.execution.kernels import kernels, suit

__all__ = ["AskedLinear", "AskedOutputs"]

_MOST_ROWS = 32  # beyond them rows are copied and multiplied as a matrix
_MOST_ASKED = 0.9  # of the outputs; beyond it all are computed …
_MOST_COPIED = 0.25  # … and beyond this one where rows are copied: a row is read, written and read again
_BLOCK = 1 << 18  # elements of the weight that are copied at a time: they are still in cache when they are used


class AskedLinear(nn.Module):
    """A linear layer that computes the outputs that are asked for.

    With numba a compiled loop reads their rows of the weight and no other. Without, and for many inputs, the rows are
    copied first, which pays up to a quarter of the outputs; where more are asked for, or gradients, all are computed.

    Args:
        layer: Whose weight and bias it shares.
    """

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Shape (…, in_features) → (…, n).

        Args:
            x: What the layer reads.
            outputs: Which are asked for, in the order of the result: int64, shape (n,); or a mask, shape
                (out_features,). All of them when None.
        Raises:
            InputError: If there is no such output.
        """
        if outputs is None:
            return F.linear(x, self.weight, self.bias)
        index = self._index(outputs)
        share = len(index) / max(self.out_features, 1)
        trained = (each for each in (x, self.weight, self.bias) if each is not None and each.requires_grad)
        if share > _MOST_ASKED or (torch.is_grad_enabled() and any(True for _ in trained)):
            return F.linear(x, self.weight, self.bias)[..., index]
        rows, weight, compiled = x.detach().reshape(-1, self.in_features), self.weight.detach(), kernels()
        bias = None if self.bias is None else self.bias.detach()
        if compiled is not None and len(rows) <= _MOST_ROWS and suit(rows := rows.contiguous(), weight):
            found = rows.new_empty(len(rows), len(index))
            start = rows.new_empty(0) if bias is None else bias.to(rows.dtype)
            compiled.asked(rows.numpy(), weight.numpy(), start.numpy(), index.numpy(), found.numpy())
        elif share > _MOST_COPIED:
            found = F.linear(rows, weight, bias)[:, index]
        else:
            pieces = torch.split(index, max(_BLOCK // max(self.in_features, 1), 1))
            found = torch.cat([F.linear(rows, weight.index_select(0, piece)) for piece in pieces], -1)
            found = found if bias is None else found + bias[index]
        return found.reshape(*x.shape[:-1], len(index))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _index(self, outputs: Tensor) -> Tensor:
        if outputs.dtype == torch.bool and outputs.shape == (self.out_features,):
            return outputs.nonzero()[:, 0]
        if outputs.dtype != torch.int64 or outputs.ndim != 1:
            raise InputError(
                f"outputs must be int64 of shape (n,) or a mask of shape ({self.out_features},), "
                f"got {outputs.dtype} of shape {tuple(outputs.shape)}"
            )
        if len(outputs):
            least, most = (int(each) for each in torch.aminmax(outputs))
            if least < 0 or most >= self.out_features:
                raise InputError(f"outputs {least} to {most} are asked for of a layer of {self.out_features}")
        return outputs.contiguous()


class AskedOutputs(nn.Module):
    """A network whose last layer, a linear one, computes the outputs that are asked for.

    Args:
        model: Is left as it is; its weights are shared. Its outputs must be those of the layer, not of a softmax.
        inputs: Of one forward, to find the layer and to compare: a tensor or a tuple of what ``forward`` takes.
    Raises:
        InputError: If the outputs are not those of one linear layer.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        shared: dict[int, Tensor] = {id(each): each for each in (*model.parameters(), *model.buffers())}
        copy = copy_sharing(model, shared).eval()
        path, wanted = _last_layer(copy, given)
        layer = copy.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        self.head = AskedLinear(layer)
        self.body: nn.Module = nn.Identity()
        if path:
            copy.set_submodule(path, nn.Identity())
            self.body = copy
        with torch.no_grad():
            gap = difference([wanted], [self(*given)])
        if not gap <= tolerance(model):
            raise InputError(
                f"outputs of {type(model).__name__} are not what its layer {path!r} gives alone ({gap:.1e})"
            )

    def hidden(self, *inputs: Any) -> Tensor:
        """What the last layer reads; ``head(hidden, outputs)`` can be asked several times."""
        found: Tensor = self.body(*inputs)
        return found

    def forward(self, *inputs: Any, outputs: Tensor | None = None) -> Tensor:
        """The outputs that are asked for, as of ``AskedLinear``; all of them when None."""
        found: Tensor = self.head(self.hidden(*inputs), outputs)
        return found


def _last_layer(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[str, Tensor]:
    """The path of the linear layer whose outputs are those of the network, and these."""
    made: dict[str, list[tuple[Tensor, int]]] = {}  # with the version, by which operators in place are seen
    handles = [
        layer.register_forward_hook(
            lambda _, __, found, path=path: made.setdefault(path, []).append((found, found._version))
        )
        for path, layer in model.named_modules()
        if type(layer) is nn.Linear
    ]
    try:
        with torch.no_grad():
            found = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    paths = [path for path, runs in made.items() if len(runs) == 1 and runs[0][0] is found]
    paths = [path for path in paths if made[path][0][1] == found._version]
    if not paths:
        raise InputError(
            f"outputs of {type(model).__name__} are not those of a linear layer that runs once; give the network "
            "without what follows its last layer (the stage fold can drop a softmax: fold.winner_only=true)"
        )
    return paths[0], found
