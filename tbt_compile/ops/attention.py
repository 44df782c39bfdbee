"""Attention operators on packed keys and values, in the layouts of `tbt_compile.ops.cache`.

With grouped-query attention, keys and values have fewer heads than the query: a divisor of its number of
heads. Adjacent query heads share a key-value head.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.ops.cache import ROWS, TOKEN_WORDS, packed_width, reorder_heads, unpack_keys, unpack_values
from tbt_compile.ops.float_ops import masked_softmax
from tbt_compile.ops.quantize import quantize
from tbt_compile.ops.schema import Heads, Operand, Scale, declare
from tbt_compile.quantizers.ops import QuantTensor, quantized_matmul

PackedKeys = Annotated[Tensor, Operand(ROWS)]
PackedValues = Annotated[Tensor, Operand(f"{TOKEN_WORDS} | {ROWS}")]


@declare
def attention_scores(
    query: Annotated[Tensor, Operand("float32 [B, H, Q, D]")],
    query_scale: Annotated[Tensor, Scale()],
    keys: PackedKeys,
    key_scale: Annotated[Tensor, Scale()],
    query_encoding: str,
    key_encoding: str,
    center: bool,
) -> Tensor:
    """Quantize the query and multiply it by packed keys: QK^T.

    Args:
        query: in full precision.
        query_scale: learned; ignored by 8-bit encodings, which are scaled per token.
        keys: from `pack_keys` or `append_keys`.
        key_scale: learned; ignored by 8-bit encodings, which store a scale per token.
        query_encoding: an `Encoding` value.
        key_encoding: an `Encoding` value.
        center: subtract the mean of each query row before quantizing.

    Returns:
        float32 `[B, H, Q, T]`.
    """
    codes = QuantTensor(*quantize(query, query_scale, query_encoding, center))
    rows = unpack_keys(keys, key_scale, Encoding(key_encoding), query.shape[-1])
    return quantized_matmul(codes, _per_head(rows, query.shape[1]), True)


@attention_scores.fake
def _(call: SimpleNamespace) -> Tensor:
    return call.query.new_empty((*call.query.shape[:-1], call.keys.shape[2]))


@declare
def attention_context(
    weights: Annotated[Tensor, Operand("float32 [B, H, Q, T]")],
    weights_scale: Annotated[Tensor, Scale()],
    values: PackedValues,
    value_scale: Annotated[Tensor, Scale()],
    weights_encoding: str,
    value_encoding: str,
    center: bool,
) -> Tensor:
    """Quantize the attention weights and multiply them by packed values: PV.

    Args:
        weights: in full precision.
        weights_scale: learned; ignored by 8-bit encodings, which are scaled per token.
        values: from `pack_values`, `append_values` or, at 8 bits, `append_keys`.
        value_scale: learned; ignored by 8-bit encodings, which store a scale per token.
        weights_encoding: an `Encoding` value.
        value_encoding: an `Encoding` value.
        center: subtract the mean of each row of the weights before quantizing.

    Returns:
        float32 `[B, H, Q, D]`.
    """
    codes = QuantTensor(*quantize(weights, weights_scale, weights_encoding, center))
    rows = unpack_values(values, value_scale, Encoding(value_encoding), weights.shape[-1])
    return quantized_matmul(codes, _per_head(rows, weights.shape[1]), False)


@attention_context.fake
def _(call: SimpleNamespace) -> Tensor:
    width = packed_width(call.values, Encoding(call.value_encoding))
    return call.weights.new_empty((*call.weights.shape[:-1], width))


@declare
def attention(
    query: Annotated[Tensor, Heads()],
    query_scale: Annotated[Tensor, Scale()],
    keys: PackedKeys,
    key_scale: Annotated[Tensor, Scale()],
    mask: Annotated[Tensor | None, Operand("float32 [B, 1, Q, T]")],
    factor: float,
    weights_scale: Annotated[Tensor, Scale()],
    values: PackedValues,
    value_scale: Annotated[Tensor, Scale()],
    query_encoding: str,
    key_encoding: str,
    center_query: bool,
    weights_encoding: str,
    value_encoding: str,
    center_weights: bool,
    heads_last: bool = False,
) -> Tensor:
    """Fused attention: `attention_scores`, `masked_softmax`, then `attention_context`.

    Args:
        query: as for `attention_scores`.
        query_scale: as for `attention_scores`.
        keys: as for `attention_scores`.
        key_scale: as for `attention_scores`.
        mask: as for `masked_softmax`.
        factor: the `scale` of `masked_softmax`.
        weights_scale: as for `attention_context`.
        values: as for `attention_context`.
        value_scale: as for `attention_context`.
        query_encoding: an `Encoding` value.
        key_encoding: an `Encoding` value.
        center_query: subtract the mean of each query row before quantizing.
        weights_encoding: an `Encoding` value.
        value_encoding: an `Encoding` value.
        center_weights: subtract the mean of each row of the weights before quantizing.
        heads_last: whether query and result are `[B, T, H, D]`.

    Returns:
        float32 `[B, H, Q, D]`, or `[B, Q, H, D]` with `heads_last`.
    """
    query = reorder_heads(query, heads_last)
    scores = attention_scores(query, query_scale, keys, key_scale, query_encoding, key_encoding, center_query)
    weights = masked_softmax(scores, mask, factor)
    context = attention_context(
        weights, weights_scale, values, value_scale, weights_encoding, value_encoding, center_weights
    )
    return reorder_heads(context, heads_last).contiguous()


@attention.fake
def _(call: SimpleNamespace) -> Tensor:
    width = packed_width(call.values, Encoding(call.value_encoding))
    return call.query.new_empty((*call.query.shape[:-1], width))


def _per_head(operand: QuantTensor, heads: int) -> QuantTensor:
    """Repeat each head of keys or values for all query heads that share it."""
    copies = heads // operand.codes.shape[1]
    scale = operand.scale.repeat_interleave(copies, 1) if operand.scale.dim() > 1 else operand.scale  # type: ignore[union-attr]
    return QuantTensor(operand.codes.repeat_interleave(copies, 1), scale)
