# ruff: noqa: ARG001 (a fake implementation takes every argument of its operator)
"""Torch forms of the compiled operators: what the fusion passes put in the graph.

Each one has the shapes and the meaning of the kernel it is lowered to, and an eager implementation made of
`tbt_compile.ops.quantize`, so that a fused graph can be run and compared before any code is generated.

Attention operands are packed when they enter the cache. Rows of keys are `[B, H, T, R]`; values of learned
encodings are packed along the tokens, `[B, H, ceil(T / 64), planes, D]`; 8-bit operands keep one byte per
code and the token's float32 scale in the last four bytes of the row, `[B, H, T, D + 4]`. Keys and values may
have fewer heads than the query, a divisor: neighbouring query heads then share them. With `heads_last` an
operator takes and gives floats in the order that linear layers have, `[B, T, H, D]`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.codegen.layouts import SCALE_BYTES, words_for
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack_bits, quantize, unpack, unpack_bits
from tbt_compile.quantizers.ops import QuantTensor, quantized_embedding, quantized_linear, quantized_matmul

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}
"""Elementwise functions that a linear layer can apply to its results."""


@torch.library.custom_op("tbt::bit_linear", mutates_args=())
def bit_linear(
    x: Tensor,
    x_scale: Tensor,
    packed: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_encoding: str,
    weight_encoding: str,
    center: bool,
    columns: int,
    function: str = "",
) -> Tensor:
    """Quantize x `[..., K]`, multiply with the packed weight `[N, ...]`, scale and add the bias.

    The result goes through a function of `FUNCTIONS`, if one is named.
    """
    codes = QuantTensor(*quantize(x, x_scale, x_encoding, center))
    y = quantized_linear(codes, QuantTensor(unpack(packed, weight_encoding, columns), weight_scale), bias)
    return FUNCTIONS[function](y) if function else y


@bit_linear.register_fake
def _(x, x_scale, packed, weight_scale, bias, x_encoding, weight_encoding, center, columns, function=""):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


@torch.library.custom_op("tbt::bit_embedding", mutates_args=())
def bit_embedding(
    ids: Tensor, packed: Tensor, weight_scale: Tensor, weight_encoding: str, columns: int
) -> Tensor:
    """Rows `ids` (int64) of a packed weight as real values `[*ids.shape, columns]`."""
    return quantized_embedding(ids, QuantTensor(unpack(packed, weight_encoding, columns), weight_scale))


@bit_embedding.register_fake
def _(ids, packed, weight_scale, weight_encoding, columns):  # type: ignore[no-untyped-def]
    return weight_scale.new_empty((*ids.shape, columns))


@torch.library.custom_op("tbt::pack_keys", mutates_args=())
def pack_keys(keys: Tensor, scale: Tensor, encoding: str, center: bool, heads_last: bool = False) -> Tensor:
    """Quantize keys `[B, H, T, D]` and pack each row: int64 `[B, H, T, planes * words]` or int8 rows."""
    keys = _heads_first(keys, heads_last)
    codes, scales = quantize(keys, scale, encoding, center)
    kind = Encoding(encoding)
    if kind.dynamic:
        return _byte_rows(codes, scales, kind)
    return pack_bits(codes, kind).flatten(-2)


@pack_keys.register_fake
def _(keys, scale, encoding, center, heads_last=False):  # type: ignore[no-untyped-def]
    keys = _heads_first(keys, heads_last)
    kind, width = Encoding(encoding), keys.shape[-1]
    if kind.dynamic:
        return keys.new_empty((*keys.shape[:-1], width + SCALE_BYTES), dtype=torch.int8)
    return keys.new_empty((*keys.shape[:-1], kind.planes * words_for(width)), dtype=torch.int64)


@torch.library.custom_op("tbt::pack_values", mutates_args=())
def pack_values(
    values: Tensor, scale: Tensor, encoding: str, center: bool, heads_last: bool = False
) -> Tensor:
    """Quantize values `[B, H, T, D]` and pack them along the tokens: int64 `[B, H, words, planes, D]`."""
    values = _heads_first(values, heads_last)
    codes, scales = quantize(values, scale, encoding, center)
    kind = Encoding(encoding)
    if kind.dynamic:
        return _byte_rows(codes, scales, kind)
    return pack_bits(codes.transpose(-1, -2), kind).permute(0, 1, 4, 3, 2).contiguous()


@pack_values.register_fake
def _(values, scale, encoding, center, heads_last=False):  # type: ignore[no-untyped-def]
    values = _heads_first(values, heads_last)
    kind = Encoding(encoding)
    batch, heads, length, width = values.shape
    if kind.dynamic:
        return values.new_empty((batch, heads, length, width + SCALE_BYTES), dtype=torch.int8)
    return values.new_empty((batch, heads, words_for(length), kind.planes, width), dtype=torch.int64)


@torch.library.custom_op("tbt::append_keys", mutates_args=())
def append_keys(
    past: Tensor, keys: Tensor, scale: Tensor, encoding: str, center: bool, heads_last: bool = False
) -> Tensor:
    """Packed keys, or 8-bit values, `past` followed by those of `keys`."""
    return torch.cat([past, pack_keys(keys, scale, encoding, center, heads_last)], dim=2)


@append_keys.register_fake
def _(past, keys, scale, encoding, center, heads_last=False):  # type: ignore[no-untyped-def]
    length = past.shape[2] + _heads_first(keys, heads_last).shape[2]
    return past.new_empty((past.shape[0], past.shape[1], length, past.shape[3]))


@torch.library.custom_op("tbt::append_values", mutates_args=())
def append_values(
    past: Tensor,
    past_keys: Tensor,
    values: Tensor,
    scale: Tensor,
    encoding: str,
    center: bool,
    heads_last: bool = False,
) -> Tensor:
    """Packed values of `past` followed by those of `values`; `past_keys` tells how many tokens are past."""
    values = _heads_first(values, heads_last)
    kind = Encoding(encoding)
    codes, _ = quantize(values, scale, encoding, center)
    old = unpack_bits(past.permute(0, 1, 4, 3, 2), kind, past_keys.shape[2])
    both = torch.cat([old, codes.transpose(-1, -2)], dim=-1)
    return pack_bits(both, kind).permute(0, 1, 4, 3, 2).contiguous()


@append_values.register_fake
def _(past, past_keys, values, scale, encoding, center, heads_last=False):  # type: ignore[no-untyped-def]
    length = words_for(past_keys.shape[2] + _heads_first(values, heads_last).shape[2])
    return past.new_empty((past.shape[0], past.shape[1], length, past.shape[3], past.shape[4]))


@torch.library.custom_op("tbt::attention_scores", mutates_args=())
def attention_scores(
    query: Tensor,
    query_scale: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    query_encoding: str,
    key_encoding: str,
    center: bool,
) -> Tensor:
    """QK^T of a real query `[B, H, Q, D]`, quantized here, and packed keys: `[B, H, Q, T]`."""
    codes = QuantTensor(*quantize(query, query_scale, query_encoding, center))
    rows = _key_rows(keys, key_scale, Encoding(key_encoding), query.shape[-1])
    return quantized_matmul(codes, _per_head(rows, query.shape[1]), True)


@attention_scores.register_fake
def _(query, query_scale, keys, key_scale, query_encoding, key_encoding, center):  # type: ignore[no-untyped-def]
    return query.new_empty((*query.shape[:-1], keys.shape[2]))


@torch.library.custom_op("tbt::attention_context", mutates_args=())
def attention_context(
    weights: Tensor,
    weights_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    weights_encoding: str,
    value_encoding: str,
    center: bool,
) -> Tensor:
    """PV of attention weights `[B, H, Q, T]`, quantized here, and packed values: `[B, H, Q, D]`."""
    codes = QuantTensor(*quantize(weights, weights_scale, weights_encoding, center))
    kind = Encoding(value_encoding)
    if kind.dynamic:
        return quantized_matmul(codes, _per_head(_byte_tensor(values, kind), weights.shape[1]), False)
    unpacked = unpack_bits(values.permute(0, 1, 4, 3, 2), kind, weights.shape[-1]).transpose(-1, -2)
    shared = _per_head(QuantTensor(unpacked, value_scale), weights.shape[1])
    return quantized_matmul(codes, shared, False)


@attention_context.register_fake
def _(weights, weights_scale, values, value_scale, weights_encoding, value_encoding, center):  # type: ignore[no-untyped-def]
    width = values.shape[-1] - (SCALE_BYTES if Encoding(value_encoding).dynamic else 0)
    return weights.new_empty((*weights.shape[:-1], width))


@torch.library.custom_op("tbt::masked_softmax", mutates_args=())
def masked_softmax(scores: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax of `scores * scale + mask` over the last dimension; `[B, H, Q, T]` and mask `[B, 1, Q, T]`."""
    scaled = scores * scale
    return torch.softmax(scaled if mask is None else scaled + mask, dim=-1)


@masked_softmax.register_fake
def _(scores, mask, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(scores)


@torch.library.custom_op("tbt::attention", mutates_args=())
def attention(
    query: Tensor,
    query_scale: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    mask: Tensor | None,
    factor: float,
    weights_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    query_encoding: str,
    key_encoding: str,
    center_query: bool,
    weights_encoding: str,
    value_encoding: str,
    center_weights: bool,
    heads_last: bool = False,
) -> Tensor:
    """`attention_scores`, `masked_softmax` and `attention_context`, one after the other: `[B, H, Q, D]`."""
    query = _heads_first(query, heads_last)
    scores = attention_scores(query, query_scale, keys, key_scale, query_encoding, key_encoding, center_query)
    weights = masked_softmax(scores, mask, factor)
    context = attention_context(
        weights, weights_scale, values, value_scale, weights_encoding, value_encoding, center_weights
    )
    return _heads_first(context, heads_last).contiguous()


@attention.register_fake
def _(query, query_scale, keys, key_scale, mask, factor, weights_scale, values, value_scale, *kinds):  # type: ignore[no-untyped-def]
    width = values.shape[-1] - (SCALE_BYTES if Encoding(kinds[4]).dynamic else 0)
    return query.new_empty((*query.shape[:-1], width))


@torch.library.custom_op("tbt::add_layer_norm", mutates_args=())
def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation of `x + residual` `[..., D]` over the last dimension."""
    return torch.nn.functional.layer_norm(x + residual, (x.shape[-1],), weight, bias, eps)


@add_layer_norm.register_fake
def _(x, residual, weight, bias, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _heads_first(x: Tensor, heads_last: bool) -> Tensor:
    """`[B, T, H, D]` as `[B, H, T, D]`, or the other way round; as it is without `heads_last`."""
    return x.transpose(1, 2) if heads_last else x


def _per_head(operand: QuantTensor, heads: int) -> QuantTensor:
    """Each head as often as there are query heads that share it."""
    copies = heads // operand.codes.shape[1]
    scale = operand.scale.repeat_interleave(copies, 1) if operand.scale.dim() > 1 else operand.scale  # type: ignore[union-attr]
    return QuantTensor(operand.codes.repeat_interleave(copies, 1), scale)


def _byte_rows(codes: Tensor, scales: Tensor, encoding: Encoding) -> Tensor:
    stored = codes.to(torch.int8 if encoding.signed else torch.uint8).view(torch.int8)
    return torch.cat([stored, scales.contiguous().view(torch.int8)], dim=-1)


def _byte_tensor(rows: Tensor, encoding: Encoding) -> QuantTensor:
    width = rows.shape[-1] - SCALE_BYTES
    scales = rows[..., width:].contiguous().view(torch.float32)
    codes = rows[..., :width].contiguous().view(torch.int8 if encoding.signed else torch.uint8)
    return QuantTensor(codes.float(), scales)


def _key_rows(keys: Tensor, scale: Tensor, encoding: Encoding, width: int) -> QuantTensor:
    if encoding.dynamic:
        return _byte_tensor(keys, encoding)
    words = keys.unflatten(-1, (encoding.planes, -1))
    return QuantTensor(unpack_bits(words, encoding, width), scale)
