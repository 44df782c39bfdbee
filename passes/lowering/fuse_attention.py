"""Let one kernel make the scores of attention, their softmax and the weighted sums of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import TBT, is_call, only_user, replace


def fuse(context: fx.Node) -> bool:
    """Rewrite `attention_context(masked_softmax(attention_scores(...)), ...)`."""
    softmax: Any = context.args[0]
    if not is_call(softmax, TBT.masked_softmax.default) or only_user(softmax) is not context:
        return False
    scores, mask, factor = softmax.args
    if not is_call(scores, TBT.attention_scores.default) or only_user(scores) is not softmax:
        return False
    query, query_scale, keys, key_scale, *score_kinds = scores.args
    _, weights_scale, values, value_scale, *context_kinds = context.args
    operands = (query, query_scale, keys, key_scale, mask, factor, weights_scale, values, value_scale)
    replace(context, TBT.attention.default, (*operands, *score_kinds, *context_kinds))
    return True


@dataclass(frozen=True)
class FuseAttention:
    """Replaces both products of attention and the softmax between them by `tbt::attention`.

    Needs: fused attention and softmax. Leaves: no scores in memory, except where a model adds something else
    than a mask to them.
    """

    name: str = "fuse-attention"

    def apply(self, context: LoweringContext) -> PassResult:
        found = [node for node in context.graph.nodes if is_call(node, TBT.attention_context.default)]
        fused = sum(fuse(node) for node in found)
        context.graph.eliminate_dead_code()
        return PassResult(fused, f"{len(found) - fused} keep their scores in memory")
