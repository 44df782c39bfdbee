"""Fold the `repeat_kv` of grouped-query attention: pack, or read, each shared key and value head once.

The model repeats each head of keys and values for the query heads that share it. Quantization commutes with
the repeat, and the attention operators take packed keys and values with fewer heads than the query. In full
precision the queries that share a head become rows of one product with it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.ops.operands import call_operator, operands, set_operand
from tbt_compile.passes.lowering.match import ATEN, PACKED_OPERAND, TBT, match_call, replace, shape_of
from tbt_compile.passes.rewrite import RewritePass

BATCH, HEADS, TOKENS = 0, 1, 2  # dimensions of keys and values `[B, H, T, D]`


def unrepeated(node: Any) -> fx.Node | None:
    """The source `[B, H, T, D]` of a head repeat `node` `[B, H * n, T, D]`; None for any other node.

    The pattern is `x.unsqueeze(2).expand(B, H, n, T, D).reshape(B, H * n, T, D)`.
    """
    reshape = match_call(node, ATEN.reshape.default, ATEN.view.default)
    expand = match_call(reshape.self, ATEN.expand.default) if reshape else None
    unsqueeze = match_call(expand.self, ATEN.unsqueeze.default) if expand else None
    if reshape is None or unsqueeze is None or unsqueeze.dim != HEADS + 1:
        return None
    source: fx.Node = unsqueeze.self
    heads, copies = (int(size) for size in shape_of(reshape.self)[HEADS : HEADS + 2])
    before, after = shape_of(source), shape_of(node)
    if len(after) != 4 or after[HEADS] != heads * copies or after[TOKENS] != before[TOKENS]:
        return None
    if str(after[BATCH]) != str(before[BATCH]):
        return None
    return source


def fold_product(product: fx.Node) -> bool:
    """Rewrite `x @ repeat_kv(v)` or `x @ repeat_kv(k).T`; x `[B, H * n, Q, L]` becomes `[B, H, n * Q, L]`."""
    op = operands(product)
    transposed = match_call(op.other, ATEN.transpose.int)
    if transposed and sorted((transposed.dim0 % 4, transposed.dim1 % 4)) != [TOKENS, TOKENS + 1]:
        return False
    source = unrepeated(transposed.self if transposed else op.other)
    if source is None or len(shape_of(op.self)) != 4:
        return False
    graph, heads = product.graph, int(shape_of(source)[HEADS])
    with graph.inserting_before(product):
        batch, last = (_size(op.self, dim) for dim in (BATCH, TOKENS + 1))
        rows = _call(graph, ATEN.reshape.default, self=op.self, shape=[batch, heads, -1, last])
        other = source
        if transposed:
            other = _call(graph, ATEN.transpose.int, self=source, dim0=TOKENS, dim1=TOKENS + 1)
        folded = _call(graph, ATEN.matmul.default, self=rows, other=other)
        shape = [batch, int(shape_of(op.self)[HEADS]), _size(op.self, TOKENS), _size(other, TOKENS + 1)]
    replace(product, ATEN.reshape.default, self=folded, shape=shape)
    return True


def _size(node: fx.Node, dim: int) -> int | fx.Node:
    """The size of a dimension, as an operand of a call."""
    size = shape_of(node)[dim]
    if isinstance(size, int):
        return size
    called = call_operator(node.graph, ATEN.sym_size.int, self=node, dim=dim)
    called.meta["val"] = size
    return called


def _call(graph: fx.Graph, target: Any, **named: Any) -> fx.Node:
    """Insert a call, with the value that it has for fake operands."""
    node = call_operator(graph, target, **named)
    given = fx.map_arg((node.args, node.kwargs), lambda operand: operand.meta["val"])
    node.meta["val"] = target(*given[0], **given[1])
    return node


class FoldRepeatKV(RewritePass):
    """Removes head repeats before the packing of keys and values, and before products of floats.

    Needs: fused attention products in a cleaned-up graph. Leaves: keys and values with the head count of the
    model's cache.
    """

    name = "fold-repeat-kv"
    targets = (TBT.pack_keys.default, TBT.pack_values.default, ATEN.matmul.default)

    def rewrite(self, node: fx.Node) -> bool:
        """`pack_keys(repeat_kv(k))` -> `pack_keys(k)`; the same for values, and for products with them."""
        if node.target is ATEN.matmul.default:
            return fold_product(node)
        operand = PACKED_OPERAND[node.target]
        source = unrepeated(vars(operands(node))[operand])
        if source is not None:
            set_operand(node, operand, source)
        return source is not None
