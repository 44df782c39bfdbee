"""Fuse QK^T, softmax and PV into one attention operator."""

from __future__ import annotations

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import TBT, match_call, replace, single_user
from tbt_compile.passes.rewrite import RewritePass


def fuse(context: fx.Node) -> bool:
    """Rewrite `attention_context(masked_softmax(attention_scores(...)), ...)` if each input has one user."""
    pv = operands(context)
    softmax = match_call(pv.weights, TBT.masked_softmax.default)
    qk = match_call(softmax.scores, TBT.attention_scores.default) if softmax else None
    if softmax is None or qk is None or not single_user(pv.weights) or not single_user(softmax.scores):
        return False
    replace(
        context,
        TBT.attention.default,
        query=qk.query,
        query_scale=qk.query_scale,
        keys=qk.keys,
        key_scale=qk.key_scale,
        mask=softmax.mask,
        factor=softmax.scale,
        weights_scale=pv.weights_scale,
        values=pv.values,
        value_scale=pv.value_scale,
        query_encoding=qk.query_encoding,
        key_encoding=qk.key_encoding,
        center_query=qk.center,
        weights_encoding=pv.weights_encoding,
        value_encoding=pv.value_encoding,
        center_weights=pv.center,
    )
    return True


class FuseAttention(RewritePass):
    """Fuses QK^T, softmax and PV into `tbt::attention`.

    Needs: fused attention products and softmax. Leaves: no score matrix in memory, except where a model adds
    something other than a mask to the scores.
    """

    name = "fuse-attention"
    targets = (TBT.attention_context.default,)
    unmatched = "attentions keep their scores in memory"

    def rewrite(self, node: fx.Node) -> bool:
        """`attention_context(masked_softmax(attention_scores(q, k)), v)` -> `attention(q, k, v)`."""
        return fuse(node)
