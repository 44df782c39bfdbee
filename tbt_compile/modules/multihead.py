"""`F.multi_head_attention_forward` as the linear layers and products that it is made of.

PyTorch's function hides its projections and products, and in evaluation mode a layer may run all of them as
one fused kernel. This one computes the same from `F.linear`, `matmul` and `scaled_dot_product_attention`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute multi-head attention; arguments and result are those of `F.multi_head_attention_forward`.

    A query that may attend to nothing gets zeros where PyTorch gives NaN.

    Args:
        query: `[L, N, E]`, or `[L, E]` without a batch.
        key, value: `[S, N, E']`.
        embed_dim_to_check: E.
        num_heads: H, a divisor of E.
        in_proj_weight, in_proj_bias: the three input projections, `[3 E, E]` and `[3 E]`.
        bias_k, bias_v: `[1, 1, E]`, appended to keys and values; or None.
        add_zero_attn: whether to append a key and a value of zeros.
        dropout_p: of the probabilities, in training.
        out_proj_weight, out_proj_bias: the output projection.
        training: whether dropout applies.
        key_padding_mask: `[N, S]`, True or -inf for padding; or None.
        need_weights: whether to return the probabilities.
        attn_mask: `[L, S]` or `[N H, L, S]`, True or -inf where attention is not allowed; or None.
        use_separate_proj_weight: whether the next three are used in place of `in_proj_weight`.
        q_proj_weight, k_proj_weight, v_proj_weight: projections of inputs of other widths.
        static_k, static_v: projected keys and values `[N H, S, E / H]` in place of those computed; or None.
        average_attn_weights: whether to average the probabilities over the heads.
        is_causal: a hint that `attn_mask` is causal, which changes nothing.

    Returns:
        `[L, N, E]`, and the probabilities `[N, L, S]` or `[N, H, L, S]`, or None.
    """
    del is_causal
    batched = query.dim() == 3
    q, k, v = _projected(
        (query, key, value),
        (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight,
        in_proj_bias,
    )
    if not batched:
        q, k, v = (x.unsqueeze(1) for x in (q, k, v))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    batch, width = q.shape[1], embed_dim_to_check
    added = 0
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([x, b.expand(1, batch, width)]) for x, b in ((k, bias_k), (v, bias_v)))
        added += 1
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    k, v = (_static(x, static, k) for x, static in ((k, static_k), (v, static_v)))
    if add_zero_attn:
        k, v = (torch.cat([x, x.new_zeros(*x.shape[:2], 1, x.shape[3])], 2) for x in (k, v))
        added += 1
    mask = _mask(attn_mask, key_padding_mask, added, q)
    rate = dropout_p if training else 0.0
    probabilities = None
    if need_weights:
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        probabilities = masked_softmax(scores, mask)
        if rate:
            probabilities = F.dropout(probabilities, rate)
        mixed = torch.matmul(probabilities, v)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, rate)
    output = F.linear(mixed.permute(2, 0, 1, 3).reshape(-1, batch, width), out_proj_weight, out_proj_bias)
    if probabilities is not None and average_attn_weights:
        probabilities = probabilities.mean(1)
    if batched:
        return output, probabilities
    return output.squeeze(1), None if probabilities is None else probabilities.squeeze(0)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax of scores plus a mask, with zeros in rows where nothing is allowed.

    Args:
        scores: `[..., Q, T]`.
        mask: broadcasts to `scores`; boolean with True where attention is allowed, or to be added, with -inf
            where it is not; or None.

    Returns:
        Probabilities `[..., Q, T]`.
    """
    if mask is None:
        return torch.softmax(scores, -1)
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(scores.dtype).min
    added = additive_mask(mask, scores.dtype)
    return torch.where(allowed.any(-1, keepdim=True), torch.softmax(scores + added, -1), 0.0)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores, finite: True becomes 0, False and -inf the least number of the dtype."""
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, lowest).to(dtype)
    return mask.to(dtype).clamp(min=lowest)


def _projected(
    inputs: tuple[Tensor, Tensor, Tensor], weights: Any, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; one linear layer where all three have one input."""
    query, key, value = inputs
    if isinstance(weights, Tensor) and query is key and key is value:
        q, k, v = F.linear(query, weights, bias).chunk(3, -1)
        return q, k, v
    parts = weights.chunk(3) if isinstance(weights, Tensor) else weights
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, parts, biases, strict=True))
    return q, k, v


def _heads(x: Tensor, heads: int) -> Tensor:
    """[T, N, E] -> [N, H, T, D]."""
    tokens, batch, width = x.shape
    return x.reshape(tokens, batch, heads, width // heads).permute(1, 2, 0, 3)


def _static(x: Tensor, static: Tensor | None, like: Tensor) -> Tensor:
    return x if static is None else static.reshape(*like.shape[:2], *static.shape[1:])


def _mask(mask: Tensor | None, padding: Tensor | None, added: int, q: Tensor) -> Tensor | None:
    """Both masks as one additive mask that broadcasts to [N, H, L, S]."""
    parts = []
    if mask is not None:
        shaped = mask if mask.dim() == 2 else mask.reshape(*q.shape[:2], *mask.shape[1:])
        parts.append(_additive(shaped, added, q.dtype))
    if padding is not None:
        parts.append(_additive(padding, added, q.dtype)[:, None, None, :])
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _additive(mask: Tensor, added: int, dtype: torch.dtype) -> Tensor:
    """A mask to add, extended by keys that may always be attended to."""
    values = torch.where(mask, -math.inf, 0.0) if mask.dtype == torch.bool else mask
    return F.pad(values.to(dtype), (0, added)) if added else values.to(dtype)
