"""Let layer normalisation add the residual that it is the only reader of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, addends, is_call, only_user, replace


def fuse(norm: fx.Node) -> bool:
    """Rewrite `layer_norm(x + residual)` when the sum has the same shape as both and no other reader.

    A norm without a weight or bias is left alone: the operator takes both.
    """
    args: Any = norm.args
    terms, affine = addends(args[0]), args[2:4]
    if not terms or only_user(args[0]) is not norm or len(args[1]) != 1:
        return False
    if len(affine) != 2 or None in affine:
        return False
    shapes = [node.meta["val"].shape for node in terms if isinstance(node, fx.Node)]
    if len(shapes) != 2 or str(shapes[0]) != str(shapes[1]):
        return False
    replace(norm, TBT.add_layer_norm.default, (*terms, *affine, args[4] if len(args) > 4 else 1e-5))
    return True


@dataclass(frozen=True)
class FuseAddLayerNorm:
    """Replaces a sum and the layer normalisation that alone reads it by `tbt::add_layer_norm`.

    Needs: a cleaned-up graph. Leaves: sums that something else reads too, as in models that normalise before
    a block.
    """

    name: str = "fuse-add-layer-norm"

    def apply(self, context: LoweringContext) -> PassResult:
        found = [node for node in context.graph.nodes if is_call(node, ATEN.layer_norm.default)]
        fused = sum(fuse(node) for node in found)
        context.graph.eliminate_dead_code()
        return PassResult(fused)
