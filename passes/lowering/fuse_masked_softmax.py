"""Fuse the scaling and masking of attention scores into their softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import (
    ATEN,
    TBT,
    addends,
    factors,
    is_call,
    replace,
    shape_of,
    single_user,
)
from tbt_compile.passes.rewrite import RewritePass


def fuse(softmax: fx.Node) -> bool:
    """Rewrite `softmax(scores * number + mask)`; the factor and the mask are each optional."""
    call = operands(softmax)
    scores, mask, scale = call.self, None, 1.0
    total = addends(scores)
    if total and single_user(scores) and is_mask(total[1], scores):
        scores, mask = total
    product = factors(scores)
    if product and isinstance(product[1], (int, float)) and single_user(scores):
        scores, scale = product[0], float(product[1])
    if call.dim not in (-1, 3) or not is_call(scores, TBT.attention_scores.default):
        return False
    replace(softmax, TBT.masked_softmax.default, scores=scores, mask=mask, scale=scale)
    return True


def is_mask(node: Any, scores: fx.Node) -> bool:
    """Whether a node is an additive mask of scores `[B, H, Q, T]` that the softmax kernel reads.

    That is float32 `[B, 1, Q, T]` or `[B, 1, 1, T]`, broadcast over heads and queries only. A mask that is
    broadcast over the batch, such as a causal buffer `[1, 1, Q, T]`, stays a sum of its own.
    """
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if value is None or value.ndim != 4 or value.shape[1] != 1 or value.dtype is not torch.float32:
        return False
    batch, _, _, tokens = shape_of(scores)
    return _may_be_equal(value.shape[0], batch) and _may_be_equal(value.shape[3], tokens)


def _may_be_equal(size: Any, other: Any) -> bool:
    """Whether two sizes are the same number or both symbolic: one size can be spelled in two ways."""
    if isinstance(size, int) and isinstance(other, int):
        return size == other
    return isinstance(size, int) == isinstance(other, int)


class FuseMaskedSoftmax(RewritePass):
    """Fuses scale, mask and softmax of attention scores into `tbt::masked_softmax`.

    Needs: fused attention products. Leaves: no scale or mask outside the softmax, except where a model adds
    something other than a mask to the scores (relative positions).
    """

    name = "fuse-masked-softmax"
    targets = (ATEN.softmax.int,)
    unmatched = "softmaxes stay unfused"

    def rewrite(self, node: fx.Node) -> bool:
        """`softmax(scores * scale + mask)` -> `masked_softmax(scores, mask, scale)`."""
        return fuse(node)
