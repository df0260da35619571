"""Resizing: the attributes of PyTorch's own modules that hold sizes, after their tensors got smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

__all__ = ["resize"]


def resize(module: nn.Module) -> None:
    """Set the size attributes of a module, whose own tensors were sliced, to what the tensors say."""
    for kind, rule in _RULES:
        if isinstance(module, kind):
            rule(module)
            return


def _convolution(module: _ConvNd) -> None:
    """Whole groups went where a group has one input or one output channel; else the number of groups stayed."""
    rows, columns = module.weight.shape[:2]
    per_in, per_out = module.in_channels // module.groups, module.out_channels // module.groups
    if module.groups > 1 and (per_in == 1 or per_out == 1):
        module.groups = rows // (per_in if module.transposed else per_out)
    if module.transposed:
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        module.in_channels, module.out_channels = columns * module.groups, rows


def _linear(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


def _norm(module: _NormBase) -> None:
    tensor: Tensor | None = module.weight if module.weight is not None else module.running_mean
    if tensor is not None:
        module.num_features = len(tensor)


def _group_norm(module: nn.GroupNorm) -> None:
    size = module.num_channels // module.num_groups
    module.num_channels = len(module.weight)
    module.num_groups = module.num_channels // size


def _embedding(module: nn.Embedding | nn.EmbeddingBag) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: nn.RNNBase) -> None:
    tensors = dict(module.named_parameters(recurse=False))
    rows, module.input_size = tensors["weight_ih_l0"].shape
    module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = len(tensors["weight_hr_l0"])
    module.flatten_parameters()


def _cell(module: nn.RNNCellBase) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.numel()


_RULES: tuple[tuple[Any, Callable[[Any], None]], ...] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (_NormBase, _norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.PReLU, _prelu),
)
