"""Fold the head transposes around attention into the attention operators.

A model views the output of a linear layer as `[B, T, H, D]`, transposes it to `[B, H, T, D]` for attention
and transposes the result back. The kernels loop over heads and are as fast on either layout.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import (
    ATEN,
    PACKED_OPERAND,
    TBT,
    is_call,
    match_call,
    replace,
    replace_with,
)
from tbt_compile.passes.rewrite import RewritePass


def untransposed(node: Any) -> fx.Node | None:
    """The operand of a transpose of heads and tokens; None for any other node."""
    transpose = match_call(node, ATEN.transpose.int)
    if transpose is None or sorted(dim % 4 for dim in (transpose.dim0, transpose.dim1)) != [1, 2]:
        return None
    return transpose.self


def read_heads_last(node: fx.Node, operand: str) -> fx.Node | None:
    """Fold the transpose of one operand into the operator that reads it. Returns the new call, or None."""
    named = vars(operands(node))
    source = untransposed(named[operand])
    if source is None or named["heads_last"]:
        return None
    return replace(node, node.target, **named | {operand: source, "heads_last": True})


def keep_heads_last(attention: fx.Node) -> bool:
    """Fold the transposes of query and result if every user of the result transposes it back."""
    users = list(attention.users)
    if not users or not all(untransposed(user) for user in users):
        return False
    folded = read_heads_last(attention, "query")
    if folded is None:
        return False
    folded.meta["val"] = users[0].meta["val"]
    for user in users:
        replace_with(user, folded)
    return True


class FoldHeadTransposes(RewritePass):
    """Folds transposes of heads and tokens into the attention operators.

    Needs: fused attention with packed caches. Leaves: `heads_last` on attention whose query and result were
    transposed, and on packing operators whose operand was.
    """

    name = "fold-head-transposes"
    targets = (TBT.attention.default, *PACKED_OPERAND)

    def rewrite(self, node: fx.Node) -> bool:
        """`transpose(attention(transpose(q)))` -> `attention(q, heads_last=True)`; likewise packing."""
        if is_call(node, TBT.attention.default):
            return keep_heads_last(node)
        return read_heads_last(node, PACKED_OPERAND[node.target]) is not None
