"""Turn both attention products into operators on packed keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import (
    ATEN,
    TBT,
    factors,
    is_call,
    is_scale_of,
    only_user,
    quantize_of,
    replace,
)


def fuse_scores(matmul: fx.Node) -> bool:
    """Rewrite `(codes(q) @ codes(k).T) * (scale(q) * scale(k))`."""
    query, transposed = quantize_of(matmul.args[0], 0), matmul.args[1]
    if query is None or not _has_heads(matmul) or not is_call(transposed, ATEN.transpose.int):
        return False
    key = quantize_of(transposed.args[0], 0)  # type: ignore[union-attr]
    scaled = only_user(matmul)
    scales = factors(scaled) and factors(scaled.args[1])  # type: ignore[union-attr]
    if key is None or not scales or not is_scale_of(scales[0], query) or not is_scale_of(scales[1], key):
        return False
    assert scaled is not None
    packed = _packed(key, TBT.pack_keys.default)
    operands = (query.args[0], query.args[1], packed, key.args[1], query.args[2], key.args[2], query.args[3])
    replace(scaled, TBT.attention_scores.default, operands)
    return True


def fuse_context(matmul: fx.Node) -> bool:
    """Rewrite `(codes(p) @ codes(v)) * (scale(p) * scale(v))`, or `(codes(p) @ value(v)) * scale(p)`."""
    weights = quantize_of(matmul.args[0], 0)
    scaled = only_user(matmul)
    if weights is None or not _has_heads(matmul) or scaled is None or factors(scaled) is None:
        return False
    value = quantize_of(matmul.args[1], 0)
    if value is not None:  # one scale for all values
        scales = factors(scaled.args[1])
        matched = scales is not None and is_scale_of(scales[0], weights) and is_scale_of(scales[1], value)
    else:  # one scale per token, along the sum
        codes, scale = factors(matmul.args[1]) or (None, None)
        value = quantize_of(codes, 0)
        matched = value is not None and is_scale_of(scale, value) and is_scale_of(scaled.args[1], weights)
    if value is None or not matched:
        return False
    packed = _packed(value, TBT.pack_values.default)
    operands = (weights.args[0], weights.args[1], packed, value.args[1], weights.args[2], value.args[2])
    replace(scaled, TBT.attention_context.default, (*operands, weights.args[3]))
    return True


def _has_heads(matmul: fx.Node) -> bool:
    """Whether a product is of operands `[B, H, ...]`, which is what the packed operators take."""
    return bool(matmul.meta["val"].ndim == 4)


def _packed(quantize: fx.Node, pack: object) -> fx.Node:
    graph = quantize.graph
    with graph.inserting_before(quantize):
        packed = graph.call_function(pack, quantize.args)  # type: ignore[arg-type]
    packed.meta["nn_module_stack"] = quantize.meta.get("nn_module_stack")
    return packed


@dataclass(frozen=True)
class FuseAttentionProducts:
    """Replaces QK^T and PV by `tbt::attention_scores` and `tbt::attention_context` on packed operands.

    Needs: a cleaned-up graph of a frozen model. Leaves: no matrix product on codes; keys and values are
    quantized and packed right where they were quantized before.
    """

    name: str = "fuse-attention-products"

    def apply(self, context: LoweringContext) -> PassResult:
        products = [node for node in context.graph.nodes if is_call(node, ATEN.matmul.default)]
        fused = sum(fuse_scores(node) or fuse_context(node) for node in products)
        context.graph.eliminate_dead_code()
        return PassResult(fused, f"{len(products) - fused} products stay in floating point")
