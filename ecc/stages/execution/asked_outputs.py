"""Asked outputs: the last layer computes those that a decoder asks for (lazy evaluation; Vanhoucke et al. 2011).

All layers before the last one run as ever. The sums of the asked outputs are what the whole layer gives; a softmax is
one over what was asked, which keeps order and differences of logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.comparing import difference
from ecc.network.copying import copy_sharing
from ecc.network.equality import tolerance
from ecc.network.mixed_precision import mixed_type
from ecc.network.recording import recorded
from ecc.stages.execution.kernels import kernels, suit

__all__ = ["AskedLinear", "AskedOutputs"]

_MOST_ROWS = 32  # beyond them rows are copied and multiplied as a matrix
_MOST_ASKED = 0.9  # of the outputs; beyond it all are computed …
_MOST_COPIED = 0.25  # … and beyond this one where rows are copied: a row is read, written and read again
_BLOCK = 1 << 18  # elements of the weight that are copied at a time: they are still in cache when they are used
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)  # not uint8, which has been a mask


class AskedLinear(nn.Module):
    """A linear layer that computes the outputs that are asked for.

    With numba a compiled loop reads their rows of the weight and no other. Without, and for many inputs, the rows are
    copied first, which pays up to a quarter of the outputs; where more are asked for, or gradients, all are computed.
    Under autocast results are in its type, as the layer's are.

    Args:
        layer: Whose weight and bias it shares.
    Raises:
        InputError: If it is no linear layer.
    """

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear):
            raise InputError(f"AskedLinear(layer=...) must be a linear layer, got {type(layer).__name__}")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, outputs: Tensor | Sequence[int] | None = None) -> Tensor:
        """Shape (…, in_features) → (…, n).

        Args:
            x: What the layer reads.
            outputs: Which are asked for, in the order of the result: whole numbers, shape (n,), as a tensor or a
                sequence; or a mask, bool, shape (out_features,). All of them when None.
        Raises:
            InputError: If there is no such output, or the input has another width.
        """
        weight: Tensor = self.weight  # each looked up once: a call may take no more than a few microseconds
        bias: Tensor | None = self.bias
        axes = x.ndim
        if not axes or (x.shape[-1] != self.in_features and not recorded()):
            raise InputError(f"inputs of this layer have shape (…, {self.in_features}), got {tuple(x.shape)}")
        if outputs is None:
            return F.linear(x, weight, bias)
        index = self._index(outputs, weight)
        count, flat = index.numel(), axes == 2
        trained = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias))
        if trained or count > _MOST_ASKED * self.out_features:
            return F.linear(x, weight, bias)[..., self._within(index)]
        rows, weight = x.detach() if flat else x.detach().reshape(-1, x.shape[-1]), weight.detach()
        bias = None if bias is None else bias.detach()
        batch = rows.shape[0]
        compiled = kernels() if batch <= _MOST_ROWS and mixed_type(x) is None else None
        if compiled is not None and suit(rows := rows.contiguous(), weight):
            matrix = weight.numpy()
            sums = np.empty((batch, count), matrix.dtype)
            start = np.empty(0, matrix.dtype) if bias is None else bias.numpy()
            if not compiled.asked(rows.numpy(), matrix, start, index.numpy(), sums):
                self._within(index)
                raise InputError(
                    f"a weight of shape {tuple(weight.shape)} and its bias are not those of a layer of "
                    f"{self.in_features} inputs and {self.out_features} outputs"
                )
            found = torch.from_numpy(sums)
        elif self._within(index).numel() > _MOST_COPIED * self.out_features:
            found = F.linear(rows, weight, bias)[:, index]
        else:
            pieces = torch.split(index, max(_BLOCK // max(self.in_features, 1), 1))
            found = torch.cat(
                [
                    F.linear(rows, weight.index_select(0, piece), None if bias is None else bias[piece])
                    for piece in pieces
                ],
                -1,
            )
        return found if flat else found.reshape(*x.shape[:-1], count)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _index(self, outputs: Tensor | Sequence[int], weight: Tensor) -> Tensor:
        """The numbers of the outputs, int64, where the weight is; whether there are such is to be seen."""
        index = outputs if isinstance(outputs, Tensor) else _tensor(outputs)
        index = index.to(weight.device)
        if index.dtype == torch.bool and index.shape == (self.out_features,):
            return index.nonzero()[:, 0]
        if index.dtype not in _WHOLE or index.ndim != 1:
            raise InputError(
                f"outputs must be whole numbers of shape (n,) or a mask of shape ({self.out_features},), "
                f"got {index.dtype} of shape {tuple(index.shape)}"
            )
        return index.long().contiguous()

    def _within(self, index: Tensor) -> Tensor:
        """The index, if there are such outputs."""
        if len(index) and not recorded():
            least, most = (int(each) for each in torch.aminmax(index))
            if least < 0 or most >= self.out_features:
                raise InputError(f"outputs {least} to {most} are asked for of a layer of {self.out_features}")
        return index


class AskedOutputs(nn.Module):
    """A network whose last layer, a linear one, computes the outputs that are asked for.

    The network may read the layer's weight and bias.

    Args:
        model: Is left as it is; its weights are shared. Its outputs must be those of the layer, not of a softmax.
        inputs: Of one forward, to find the layer and to compare: a tensor or a tuple of what ``forward`` takes.
    Raises:
        InputError: If the network does not run with the inputs, or the outputs are not those of one linear layer.
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
            copy.set_submodule(path, _Through(self.head))
            self.body = copy
        try:
            with torch.no_grad():
                gap = difference([wanted], [self(*given)])
        except Exception as error:  # whatever a user's forward may raise
            raise InputError(
                f"{type(model).__name__} does not run without its layer {path!r} ({error}); let its forward end with "
                "that layer and only call it"
            ) from error
        if not gap <= tolerance(model):
            raise InputError(
                f"outputs of {type(model).__name__} are not what its layer {path!r} gives alone ({gap:.1e}); let its "
                "forward end with that layer"
            )

    def hidden(self, *inputs: Any) -> Tensor:
        """What the last layer reads; ``head(hidden, outputs)`` can be asked several times."""
        found: Tensor = self.body(*inputs)
        return found

    def forward(self, *inputs: Any, outputs: Tensor | Sequence[int] | None = None) -> Tensor:
        """The outputs that are asked for, as of ``AskedLinear``; all of them when None."""
        found: Tensor = self.head(self.hidden(*inputs), outputs)
        return found


class _Through(nn.Module):
    """Stands for the last layer: gives on what that reads, and has its sizes and tensors for who looks at these."""

    def __init__(self, layer: AskedLinear) -> None:
        super().__init__()
        self._layer = (layer,)  # no module of this one: the tensors belong to the head
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Tensor:
        """The layer's."""
        return self._layer[0].weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's."""
        return self._layer[0].bias

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x


def _tensor(outputs: Sequence[int]) -> Tensor:
    """Numbers as a tensor; none of them are whole ones."""
    try:
        return torch.as_tensor(outputs if len(outputs) else (), dtype=None if len(outputs) else torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"outputs must be whole numbers or a mask, got {outputs!r}") from error


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
    except Exception as error:  # whatever a user's forward may raise
        raise InputError(
            f"AskedOutputs(inputs=...) must be what {type(model).__name__} takes; it fails with them ({error})"
        ) from error
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
