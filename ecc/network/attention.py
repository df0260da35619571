"""Attention: ``nn.MultiheadAttention`` whose heads are fewer or smaller than its embedding.

PyTorch's forward takes the size of a head from the embedding and insists on three times as many rows of ``in_proj``.
``attend`` computes the same, but takes its sizes from the tensors and its scale from the dense head. Modules keep their
class: ``narrow`` puts ``attend`` in the place of the instance's forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecc.core.layers import Side
from ecc.network.graph import SizeAttribute

__all__ = ["attend", "head_counts", "is_attention", "narrow", "narrow_all", "projections", "unfuse"]

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def is_attention(module: nn.Module) -> bool:
    """Whether the module is an ``nn.MultiheadAttention`` that runs PyTorch's own forward or ``attend``."""
    if not isinstance(module, nn.MultiheadAttention) or type(module).forward is not nn.MultiheadAttention.forward:
        return False
    return "forward" not in vars(module) or _is_narrow(module)


def projections(module: Any) -> list[Tensor]:
    """The weights that make queries, keys and values: one of all rows, or three."""
    if module.in_proj_weight is None:
        return [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    return [module.in_proj_weight]


def narrow(module: nn.MultiheadAttention) -> None:
    """Let a module take its sizes from its tensors; the scale of today's head is kept for good."""
    if not _is_narrow(module):
        vars(module)["forward"] = partial(attend, module, module.head_dim**-0.5)


def narrow_all(model: nn.Module) -> None:
    """``narrow`` every attention module of a network, so that its record shows plain operators."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and is_attention(module):
            narrow(module)


def unfuse(model: nn.Module) -> None:
    """Keep PyTorch's fused encoder layers, which insist on dense heads, away from modules that are narrow."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and _is_narrow(module):
            module._qkv_same_embed_dim = False
        elif isinstance(module, nn.TransformerEncoder):
            parts = (part for part in module.layers.modules() if isinstance(part, nn.MultiheadAttention))
            if any(_is_narrow(part) for part in parts):
                module.use_nested_tensor = False


def head_counts(
    model: nn.Module, candidates: Sequence[tuple[str, int, Side]], sides: Mapping[str, Sequence[Side]]
) -> tuple[SizeAttribute, ...]:
    """The numbers of heads that follow the widths.

    Args:
        candidates: Module path, dense value and side of each axis that a forward cuts out.
        sides: Of each axis of each parameter.
    """
    found: dict[str, SizeAttribute] = {}
    for path, value, side in candidates:
        module = model.get_submodule(path)
        if path in found or not isinstance(module, nn.MultiheadAttention) or value != module.num_heads:
            continue
        rows = [sides[f"{path}.{name}"][0] for name in _PROJECTIONS if f"{path}.{name}" in sides]
        # Heads lie on queries, keys and values alike; the size of a head, which may be the same number, does not.
        if all(side.groups <= set(names) for row in rows for _, names in row.parts):
            found[path] = SizeAttribute(path, "num_heads", value, side)
    return tuple(found.values())


def attend(
    module: nn.MultiheadAttention,
    scale: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The forward of ``nn.MultiheadAttention``, with sizes from the tensors.

    Args:
        module: Its ``num_heads`` counts the heads that are left.
        scale: Of the products of queries and keys.
        query: As for PyTorch's own forward, and so are all that follow.

    Returns:
        The output, and the weights of shape (L, S), (N, L, S) or with heads, or None.

    Raises:
        RuntimeError: If masks do not fit, as PyTorch's own forward does.
    """
    batched = query.dim() == 3
    same, tied = query is key and key is value, key is value
    if not batched:
        query = query.unsqueeze(0)
        key = query if same else key.unsqueeze(0)
        value = key if tied else value.unsqueeze(0)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    first = 0 if module.batch_first or not batched else 1
    heads, size = module.num_heads, query.shape[first]
    q, k, v = _project(module, query, key, value, same, tied)
    if module.bias_k is not None and module.bias_v is not None:
        shape = [1, size, -1] if first else [size, 1, -1]
        k = torch.cat([k, module.bias_k.expand(shape)], 1 - first)
        v = torch.cat([v, module.bias_v.expand(shape)], 1 - first)
    q, k, v = (_cut_in_heads(part, heads, first) for part in (q, k, v))
    extra = k.shape[2] - key.shape[1 - first]
    if module.add_zero_attn:
        k, v, extra = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), extra + 1
    if is_causal and attn_mask is None:
        raise RuntimeError("MultiheadAttention needs attn_mask beside the hint is_causal; give it")
    if is_causal and key_padding_mask is None and not need_weights:
        mask = None
    else:
        mask, is_causal = _mask(attn_mask, key_padding_mask, q, key.shape[1 - first], extra), False
    dropout, weights = module.dropout if module.training else 0.0, None
    if need_weights:
        scores = q * scale @ k.transpose(-2, -1)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        y = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if batched else weights.squeeze(0)
    else:
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=scale)
    y = (y.permute(2, 0, 1, 3) if first else y.transpose(1, 2)).flatten(2)
    y = F.linear(y, module.out_proj.weight, module.out_proj.bias)
    return y if batched else y.squeeze(0), weights


def _is_narrow(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is attend


def _project(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, same: bool, tied: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all heads, side by side along the last axis."""
    weights, bias = projections(module), module.in_proj_bias
    n_value = module.out_proj.weight.shape[1]
    sizes = [len(weight) for weight in weights]
    if len(weights) == 1:
        packed = weights[0]
        n_query = (len(packed) - n_value) // 2
        sizes = [n_query, n_query, n_value]
        # The unsafe form tells the width graph that queries, keys and values need not be of one size.
        if same:
            q, k, v = torch.unsafe_split_with_sizes(F.linear(query, packed, bias), sizes, -1)
            return q, k, v
        if tied:
            weight_q, weight_kv = torch.unsafe_split_with_sizes(packed, [n_query, n_query + n_value])
            biases = [None, None] if bias is None else torch.unsafe_split_with_sizes(bias, [n_query, n_query + n_value])
            q, both = F.linear(query, weight_q, biases[0]), F.linear(key, weight_kv, biases[1])
            k, v = torch.unsafe_split_with_sizes(both, [n_query, n_value], -1)
            return q, k, v
        weights = list(torch.unsafe_split_with_sizes(packed, sizes))
    parts = [None, None, None] if bias is None else torch.unsafe_split_with_sizes(bias, sizes)
    inputs = zip((query, key, value), weights, parts, strict=True)
    q, k, v = (F.linear(tensor, weight, part) for tensor, weight, part in inputs)
    return q, k, v


def _cut_in_heads(part: Tensor, heads: int, first: int) -> Tensor:
    """(N, L, heads × d), or (L, N, heads × d) where ``first`` is 1, → (N, heads, L, d)."""
    cut = part.view(*part.shape[:2], heads, -1)
    return cut.permute(1, 2, 0, 3) if first else cut.transpose(1, 2)


def _mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor, n_keys: int, extra: int
) -> Tensor | None:
    """What is added to the scores: a tensor that broadcasts to (N, heads, L, S), S = n_keys + extra, or None."""
    n, heads, length, _ = query.shape
    mask = None
    if attn_mask is not None:
        per_head = (n * heads, length, n_keys)
        if tuple(attn_mask.shape) not in (per_head, per_head[1:]):
            raise RuntimeError(
                f"attn_mask has shape {tuple(attn_mask.shape)}, but must have {per_head[1:]} or {per_head}"
            )
        mask = _added(attn_mask, query.dtype)
        mask = mask.view(n, heads, length, n_keys) if mask.dim() == 3 else mask
        mask = F.pad(mask, (0, extra)) if extra else mask
    if key_padding_mask is not None:
        if tuple(key_padding_mask.shape) != (n, n_keys):
            raise RuntimeError(
                f"key_padding_mask has shape {tuple(key_padding_mask.shape)}, but must have {(n, n_keys)}"
            )
        padding = _added(key_padding_mask, query.dtype)
        padding = (F.pad(padding, (0, extra)) if extra else padding)[:, None, None]
        mask = padding if mask is None else mask + padding
    return mask


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the scores: minus infinity where a boolean one is true."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
