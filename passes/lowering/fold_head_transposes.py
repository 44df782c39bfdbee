"""Let the attention operators read and write heads where linear layers have them.

A model views the output of a linear layer as `[B, T, H, D]` and transposes it to `[B, H, T, D]` for
attention, and back. The kernels go head by head and are as fast in either order, so both transposes fold
into them.
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
    """What `node` was before its heads and tokens were swapped, if they were."""
    transpose = match_call(node, ATEN.transpose.int)
    if transpose is None or sorted(dim % 4 for dim in (transpose.dim0, transpose.dim1)) != [1, 2]:
        return None
    return transpose.self


def read_heads_last(node: fx.Node, operand: str) -> fx.Node | None:
    """Fold the transpose of one operand into the operator that reads it; returns the new call."""
    named = vars(operands(node))
    source = untransposed(named[operand])
    if source is None:
        return None
    return replace(node, node.target, **named | {operand: source, "heads_last": True})


def keep_heads_last(attention: fx.Node) -> bool:
    """Fold the transposes of the query and of the result, if every user transposes it back."""
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

    Needs: fused attention with packed caches. Leaves: those operators with `heads_last` where both sides
    were transposed.
    """

    name = "fold-head-transposes"
    targets = (TBT.attention.default, *PACKED_OPERAND)

    def rewrite(self, node: fx.Node) -> bool:
        if is_call(node, TBT.attention.default):
            return keep_heads_last(node)
        return read_heads_last(node, PACKED_OPERAND[node.target]) is not None
