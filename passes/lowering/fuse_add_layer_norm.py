"""Fuse a residual sum into the layer norm that follows it."""

from __future__ import annotations

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import ATEN, TBT, addends, replace, shape_of, single_user
from tbt_compile.passes.rewrite import RewritePass


def fuse(norm: fx.Node) -> bool:
    """Rewrite `layer_norm(x + residual)` when the sum has one user and broadcasts neither term.

    A norm without weight or bias is not fused: the operator requires both.
    """
    call = operands(norm)
    terms = addends(call.input)
    if terms is None or not single_user(call.input) or len(call.normalized_shape) != 1:
        return False
    if call.weight is None or call.bias is None:
        return False
    shapes = [str(shape_of(term)) for term in terms if isinstance(term, fx.Node)]
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        return False
    x, residual = terms
    affine = {"weight": call.weight, "bias": call.bias}
    replace(norm, TBT.add_layer_norm.default, x=x, residual=residual, **affine, eps=call.eps)
    return True


class FuseAddLayerNorm(RewritePass):
    """Fuses a residual sum and its layer norm into `tbt::add_layer_norm`.

    Needs: a cleaned-up graph. Leaves: sums with several users, as in pre-norm models.
    """

    name = "fuse-add-layer-norm"
    targets = (ATEN.layer_norm.default,)

    def rewrite(self, node: fx.Node) -> bool:
        """`layer_norm(x + residual, weight, bias)` -> `add_layer_norm(x, residual, weight, bias)`."""
        return fuse(node)
