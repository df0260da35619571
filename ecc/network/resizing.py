"""Resizing: the attributes of PyTorch's own modules that hold sizes, after their tensors got smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ecc.network.attention import is_attention, narrow, projections

__all__ = ["own_tensors", "resize"]


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers of a module itself; those behind its parametrised weights are its own too."""
    yield from (*module.parameters(recurse=False), *module.buffers(recurse=False))
    if is_parametrized(module):
        for part in cast(nn.ModuleDict, module.parametrizations).values():
            yield from (*part.parameters(), *part.buffers())


def resize(module: nn.Module) -> None:
    """Set the size attributes of a module, whose own tensors were sliced, to what the tensors say."""
    with torch.no_grad():  # so that the weight is a tensor that may be copied, as it is before any forward
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | BasePruningMethod):  # they keep the weight as it was at the last forward
                hook(module, None)
            elif isinstance(hook, SpectralNorm):
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
    rule = next((rule for kind, rule in _RULES if isinstance(module, kind)), None)
    if rule is None:
        return
    modes = {part: part.training for part in module.modules()} if is_parametrized(module) else {}
    for part in modes:
        part.training = False  # reading a weight in training may move buffers, as spectral norm does
    rule(module)
    for part, mode in modes.items():
        part.training = mode


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
    """Whole normalisation groups went; of a single one some channels did."""
    size = module.num_channels // module.num_groups
    module.num_channels = len(module.weight)
    module.num_groups = module.num_channels // size if module.num_groups > 1 else 1


def _layer_norm(module: nn.LayerNorm | nn.RMSNorm) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _embedding(module: nn.Embedding | nn.EmbeddingBag) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: nn.RNNBase) -> None:
    rows, module.input_size = cast(Tensor, module.weight_ih_l0).shape
    module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = len(cast(Tensor, module.weight_hr_l0))
    module.flatten_parameters()


def _cell(module: nn.RNNCellBase) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _attention(module: nn.MultiheadAttention) -> None:
    """Sizes that show; the forward takes those that matter from the tensors and from ``num_heads``."""
    if not is_attention(module):
        return
    narrow(module)
    module._qkv_same_embed_dim = False
    weights = projections(module)
    weights *= 3 // len(weights)
    module.embed_dim, module.kdim, module.vdim = (int(weight.shape[1]) for weight in weights)


def _prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.numel()


_RULES: tuple[tuple[Any, Callable[[Any], None]], ...] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (_NormBase, _norm),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.PReLU, _prelu),
    (nn.MultiheadAttention, _attention),
)
