"""Let layer normalisation add the residual that it is the only reader of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, is_call, only_user, replace


def fuse(norm: fx.Node) -> bool:
    """Rewrite `layer_norm(x + residual)` when the sum has the same shape as both and no other reader."""
    total = norm.args[0]
    if not is_call(total, ATEN.add.Tensor) or only_user(total) is not norm:  # type: ignore[arg-type]
        return False
    x, residual = total.args[:2]  # type: ignore[union-attr]
    shapes = [node.meta["val"].shape for node in (x, residual) if isinstance(node, fx.Node)]
    if len(shapes) != 2 or len(norm.args[1]) != 1 or str(shapes[0]) != str(shapes[1]):  # type: ignore[arg-type]
        return False
    weight, bias = norm.args[2:4]
    eps = norm.args[4] if len(norm.args) > 4 else 1e-5
    replace(norm, TBT.add_layer_norm.default, (x, residual, weight, bias, eps))
    return True


@dataclass(frozen=True)
class FuseNorm:
    """Replaces a sum and the layer normalisation that alone reads it by `tbt::add_layer_norm`.

    Needs: a cleaned-up graph. Models that normalise before a block keep their sums: others read them too.
    """

    name: str = "fuse-norm"

    def apply(self, context: LoweringContext) -> PassResult:
        found = [node for node in context.graph.nodes if is_call(node, ATEN.layer_norm.default)]
        fused = sum(fuse(node) for node in found)
        context.graph.eliminate_dead_code()
        return PassResult(fused)
