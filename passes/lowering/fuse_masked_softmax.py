"""Let the softmax kernel scale and mask the attention scores that it reads anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, addends, factors, is_call, only_user, replace


def fuse(softmax: fx.Node) -> bool:
    """Rewrite `softmax(scores * number + mask)`; the factor and the mask are each optional."""
    source: Any = softmax.args[0]
    mask, scale = None, 1.0
    total = addends(source)
    if total and only_user(source) is softmax and is_mask(total[1]):
        source, mask = total
    product = factors(source)
    if product and isinstance(product[1], (int, float)) and len(source.users) == 1:
        source, scale = product[0], float(product[1])
    if softmax.args[1] not in (-1, 3) or not is_call(source, TBT.attention_scores.default):
        return False
    replace(softmax, TBT.masked_softmax.default, (source, mask, scale))
    return True


def is_mask(node: Any) -> bool:
    """Whether a node is an attention mask `[B, 1, Q, T]`, the same for every head."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value is not None and value.ndim == 4 and value.shape[1] == 1


@dataclass(frozen=True)
class FuseMaskedSoftmax:
    """Replaces the softmax of attention scores by `tbt::masked_softmax`.

    Needs: fused attention. Leaves: no scaling or masking of scores outside the softmax, except where a
    model adds something else than a mask (relative positions).
    """

    name: str = "fuse-masked-softmax"

    def apply(self, context: LoweringContext) -> PassResult:
        found = [node for node in context.graph.nodes if is_call(node, ATEN.softmax.int)]
        fused = sum(fuse(node) for node in found)
        context.graph.eliminate_dead_code()
        return PassResult(fused, f"{len(found) - fused} stay on their own")
