"""Fuse QK^T and PV on quantized operands into operators on packed keys and values."""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.ops.operands import call_operator, operands
from tbt_compile.passes.lowering.match import (
    ATEN,
    PACKED_OPERAND,
    TBT,
    factors,
    match_call,
    quantize_of_codes,
    quantize_of_scale,
    replace,
    rescaled,
    shape_of,
)
from tbt_compile.passes.rewrite import RewritePass


def fuse_scores(matmul: fx.Node) -> bool:
    """Rewrite `(codes(q) @ codes(k).T) * (scale(q) * scale(k))`."""
    product = operands(matmul)
    transpose = match_call(product.other, ATEN.transpose.int)
    query, key = quantize_of_codes(product.self), quantize_of_codes(transpose.self) if transpose else None
    scaled, scale = rescaled(matmul) or (None, None)
    if query is None or key is None or scaled is None or _scaled_by(scale) != (query, key):
        return False
    q, k = operands(query), operands(key)
    replace(
        scaled,
        TBT.attention_scores.default,
        query=q.x,
        query_scale=q.scale,
        keys=_pack(key, TBT.pack_keys.default),
        key_scale=k.scale,
        query_encoding=q.encoding,
        key_encoding=k.encoding,
        center=q.center,
    )
    return True


def fuse_context(matmul: fx.Node) -> bool:
    """Rewrite `(codes(p) @ codes(v)) * (scale(p) * scale(v))`, or `(codes(p) @ value(v)) * scale(p)`.

    The second form is for 8-bit values: their scale varies by token and cannot leave the sum over tokens, so
    `value(v)` is `codes(v) * scale(v)`.
    """
    product = operands(matmul)
    weights, value = quantize_of_codes(product.self), quantize_of_codes(product.other)
    scaled, scale = rescaled(matmul) or (None, None)
    scaled_by = _scaled_by(scale)
    if value is None:
        codes, value_scale = factors(product.other) or (None, None)
        value = quantize_of_codes(codes)
        scaled_by = quantize_of_scale(scale), quantize_of_scale(value_scale)
    if weights is None or value is None or scaled is None or scaled_by != (weights, value):
        return False
    p, v = operands(weights), operands(value)
    replace(
        scaled,
        TBT.attention_context.default,
        weights=p.x,
        weights_scale=p.scale,
        values=_pack(value, TBT.pack_values.default),
        value_scale=v.scale,
        weights_encoding=p.encoding,
        value_encoding=v.encoding,
        center=p.center,
    )
    return True


def _scaled_by(scale: Any) -> tuple[fx.Node | None, fx.Node | None]:
    """The `tbt::quantize` nodes behind the two factors of a product of scales; None for other factors."""
    first, second = factors(scale) or (None, None)
    return quantize_of_scale(first), quantize_of_scale(second)


def _pack(quantize: fx.Node, target: Any) -> fx.Node:
    """Insert a call of `target` that quantizes and packs the operand of `quantize`."""
    call = operands(quantize)
    named = {PACKED_OPERAND[target]: call.x}
    with quantize.graph.inserting_before(quantize):
        packed = call_operator(
            quantize.graph, target, **named, scale=call.scale, encoding=call.encoding, center=call.center
        )
    packed.meta["nn_module_stack"] = quantize.meta.get("nn_module_stack")
    return packed


class FuseAttentionProducts(RewritePass):
    """Fuses QK^T and PV into `tbt::attention_scores` and `tbt::attention_context` on packed operands.

    Needs: a cleaned-up graph of a frozen model. Leaves: no matrix product on codes; keys and values are
    packed where they were quantized.
    """

    name = "fuse-attention-products"
    targets = (ATEN.matmul.default,)
    unmatched = "products stay in floating point"

    def rewrite(self, node: fx.Node) -> bool:
        """`matmul(codes, codes) * scales` -> `attention_scores` or `attention_context`."""
        has_heads = len(shape_of(node)) == 4  # the packed operators take `[B, H, T, D]`
        return has_heads and (fuse_scores(node) or fuse_context(node))
