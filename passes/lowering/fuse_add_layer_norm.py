"""Fuse the residual sum into the layer normalisation that follows it."""

from __future__ import annotations

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import ATEN, TBT, addends, replace, shape_of, single_user
from tbt_compile.passes.rewrite import RewritePass


def fuse(norm: fx.Node) -> bool:
    """Rewrite `layer_norm(x + residual)` when both have the shape of the sum, and the sum has one user.

    A norm without a weight or bias is left alone: the operator takes both.
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
    """Replaces a sum and its layer normalisation by `tbt::add_layer_norm`.

    Needs: a cleaned-up graph. Leaves: sums with another user, as in models that normalise before a block.
    """

    name = "fuse-add-layer-norm"
    targets = (ATEN.layer_norm.default,)

    def rewrite(self, node: fx.Node) -> bool:
        return fuse(node)
