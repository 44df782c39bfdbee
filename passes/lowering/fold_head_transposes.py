"""Let the attention operators read and write heads where linear layers have them.

A model views the output of a linear layer as `[B, T, H, D]` and transposes it to `[B, H, T, D]` for
attention, and back. The kernels go head by head and can do so in either order; so nothing has to be moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, is_call

# The operand with heads of each operator that packs.
_PACKS = {
    TBT.pack_keys.default: 0,
    TBT.pack_values.default: 0,
    TBT.append_keys.default: 1,
    TBT.append_values.default: 2,
}


def moves_heads(node: Any) -> bool:
    """Whether `node` swaps the dimensions of heads and tokens."""
    return is_call(node, ATEN.transpose.int) and sorted(d % 4 for d in node.args[1:]) == [1, 2]


def read_heads_last(node: fx.Node, place: int) -> bool:
    """Give an operator that packs what its operand was before it was transposed."""
    operand: Any = node.args[place]
    if not moves_heads(operand):
        return False
    node.update_arg(place, operand.args[0])
    node.args = (*node.args, True)
    return True


def keep_heads_last(attention: fx.Node) -> bool:
    """The same for attention, if its output is transposed back wherever it is read."""
    users = list(attention.users)
    if not users or not all(moves_heads(node) for node in (attention.args[0], *users)):
        return False
    read_heads_last(attention, 0)
    attention.meta = {**attention.meta, "val": users[0].meta["val"]}
    for user in users:
        user.replace_all_uses_with(attention)
        attention.graph.erase_node(user)
    return True


@dataclass(frozen=True)
class FoldHeadTransposes:
    """Takes transpositions out from around the attention operators.

    Needs: fused attention with packed caches. Leaves: those operators with `heads_last` where they were
    transposed to and from.
    """

    name: str = "fold-head-transposes"

    def apply(self, context: LoweringContext) -> PassResult:
        changes = 0
        for node in list(context.graph.nodes):
            if is_call(node, TBT.attention.default):
                changes += keep_heads_last(node)
            elif node.target in _PACKS:
                changes += read_heads_last(node, _PACKS[node.target])
        context.graph.eliminate_dead_code()
        return PassResult(changes)
