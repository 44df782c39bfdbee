"""Convert attention over packed keys and values, fused or as its two products."""

from __future__ import annotations

from typing import Any

from tbt_compile.codegen.importer.registry import TBT, Call, converter
from tbt_compile.codegen.kernels.attention import attention
from tbt_compile.codegen.kernels.attention.spec import AttentionSpec
from tbt_compile.codegen.layouts import SCALE_BYTES
from tbt_compile.codegen.tvm_api import Expr
from tbt_compile.encoding import Encoding


@converter(TBT.attention.default)
def convert_attention(call: Call) -> Expr:
    """`tbt::attention(query, keys, values, ...)`: one kernel; query `[B, H, Q, D]` or `[B, Q, H, D]`."""
    op = call.operands
    *lead, width = op.query.ty.shape
    heads = lead[2 if op.heads_last else 1]
    scores = _product_spec(call, heads, op.keys, width, (op.query_encoding, op.key_encoding, op.center_query))
    context = _product_spec(
        call,
        heads,
        op.values,
        _value_width(op.values, op.value_encoding),
        (op.weights_encoding, op.value_encoding, op.center_weights),
    )
    spec = attention.FusedSpec(scores, context, float(op.factor), op.mask is not None, op.heads_last)
    mask = [] if op.mask is None else [op.mask]
    args = [
        op.query,
        op.query_scale,
        op.keys,
        op.key_scale,
        *mask,
        op.weights_scale,
        op.values,
        op.value_scale,
    ]
    return call.kernel(spec, attention.attention, args, [*lead, context.d])


@converter(TBT.attention_scores.default)
def convert_attention_scores(call: Call) -> Expr:
    """`tbt::attention_scores(query, keys, ...)`: query `[B, H, Q, D]`, packed keys -> `[B, H, Q, T]`."""
    op = call.operands
    batch, heads, length, width = op.query.ty.shape
    spec = _product_spec(call, heads, op.keys, width, (op.query_encoding, op.key_encoding, op.center))
    args = [op.query, op.query_scale, op.keys, op.key_scale]
    return call.kernel(spec, attention.qk, args, [batch, heads, length, op.keys.ty.shape[2]])


@converter(TBT.attention_context.default)
def convert_attention_context(call: Call) -> Expr:
    """`tbt::attention_context(weights, values, ...)`: `[B, H, Q, T]`, packed values -> `[B, H, Q, D]`."""
    op = call.operands
    batch, heads, length, _ = op.weights.ty.shape
    width = _value_width(op.values, op.value_encoding)
    spec = _product_spec(call, heads, op.values, width, (op.weights_encoding, op.value_encoding, op.center))
    args = [op.weights, op.weights_scale, op.values, op.value_scale]
    return call.kernel(spec, attention.pv, args, [batch, heads, length, spec.d])


def _product_spec(
    call: Call, heads: Any, packed: Expr, width: Any, kinds: tuple[str, str, bool]
) -> AttentionSpec:
    """The spec of one of the two products.

    Args:
        call: the call being converted.
        heads: heads of the left operand, a multiple of the heads of `packed`.
        packed: keys or values.
        width: features of a head.
        kinds: encoding of the left operand, encoding of `packed`, and whether rows of the left are centred.
    """
    left, right, center = kinds
    groups = int(heads) // int(packed.ty.shape[1])
    return AttentionSpec(int(width), Encoding(left), Encoding(right), center, call.isa, groups)


def _value_width(values: Expr, encoding: str) -> int:
    """Features of packed values: the last dimension without the trailing scale of 8-bit rows."""
    return int(values.ty.shape[-1]) - (SCALE_BYTES if Encoding(encoding).dynamic else 0)
