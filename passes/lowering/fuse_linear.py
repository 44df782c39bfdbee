"""Fuse quantize, unpack, matrix product, scales and bias of a linear layer into one operator."""

from __future__ import annotations

from torch import fx

from tbt_compile.encoding import Encoding
from tbt_compile.ops.operands import call_operator, operands
from tbt_compile.passes.lowering.match import (
    ATEN,
    TBT,
    addends,
    factors,
    match_call,
    quantize_of_codes,
    quantize_of_scale,
    replace,
    rescaled,
    shape_of,
    single_user,
)
from tbt_compile.passes.rewrite import RewritePass, RewriteResult


def fuse(linear: fx.Node) -> bool:
    """Rewrite `linear(codes(x), unpack(w)) * (scale(x) * scale(w).T) [+ bias]`."""
    product = operands(linear)
    quantize, unpack = quantize_of_codes(product.input), match_call(product.weight, TBT.unpack.default)
    scaled, scale = rescaled(linear) or (None, None)
    x_scale, transposed = factors(scale) or (None, None)
    weight_scale = match_call(transposed, ATEN.transpose.int)
    if quantize is None or unpack is None or scaled is None or weight_scale is None:
        return False
    if quantize_of_scale(x_scale) is not quantize:
        return False
    bias, last = _bias(scaled, shape_of(product.weight)[0])
    x = operands(quantize)
    replace(
        last,
        TBT.bit_linear.default,
        x=x.x,
        x_scale=x.scale,
        packed=unpack.packed,
        weight_scale=weight_scale.self,
        bias=bias,
        x_encoding=x.encoding,
        weight_encoding=unpack.encoding,
        center=x.center,
        columns=unpack.columns,
        floor=x.floor,
    )
    return True


def fuse_float(linear: fx.Node) -> bool:
    """Rewrite `linear(x, unpack(w) * scale(w) [, bias])`, where x is not quantized."""
    product = operands(linear)
    unpacked, scale = factors(product.weight) or (None, None)
    unpack = match_call(unpacked, TBT.unpack.default)
    if unpack is None:
        return False
    replace(
        linear,
        TBT.bit_linear.default,
        x=product.input,
        x_scale=None,
        packed=unpack.packed,
        weight_scale=scale,
        bias=product.bias,
        x_encoding=Encoding.FLOAT.value,
        weight_encoding=unpack.encoding,
        center=False,
        columns=unpack.columns,
    )
    return True


def fuse_bias(whole: fx.Node) -> bool:
    """Rewrite `bit_linear(x, w) + bias`."""
    given = vars(operands(whole))
    bias, last = _bias(whole, shape_of(whole)[-1]) if given["bias"] is None else (None, whole)
    if bias is not None:
        replace(last, TBT.bit_linear.default, **given | {"bias": bias})
    return bias is not None


def _bias(scaled: fx.Node, outputs: int) -> tuple[fx.Node | None, fx.Node]:
    """Match `scaled + bias` if `scaled` has one user. Returns the bias `[outputs]` or None, and the root.

    A bias `[1, outputs]`, as on BART's logits, is reshaped.
    """
    total = single_user(scaled)
    first, bias = addends(total) or (None, None)
    if total is None or first is not scaled or not isinstance(bias, fx.Node) or bias.op != "placeholder":
        return None, scaled
    if shape_of(bias) == (outputs,):
        return bias, total
    if shape_of(bias) != (1, outputs):
        return None, scaled
    with total.graph.inserting_before(total):
        flat = call_operator(total.graph, ATEN.reshape.default, self=bias, shape=[outputs])
    flat.meta["val"] = bias.meta["val"].reshape(outputs)
    return flat, total


class FuseLinear(RewritePass):
    """Fuses quantized linear layers into `tbt::bit_linear`.

    Those that were captured whole take the bias that is added to their result.

    Needs: a cleaned-up graph of a frozen model. Leaves: no `aten::linear` on codes.
    """

    name = "fuse-linear"
    targets = (ATEN.linear.default, TBT.bit_linear.default)
    unmatched = "linear layers stay in floating point"

    def rewrite(self, node: fx.Node) -> bool:
        """`linear(codes(x), unpack(w)) * scales [+ bias]` -> `bit_linear(x, w, bias)`."""
        if node.target is TBT.bit_linear.default:
            return fuse_bias(node)
        return fuse(node) or fuse_float(node)

    def call(self, graph_module: fx.GraphModule) -> RewriteResult:
        """Rewrite every candidate; layers that were captured whole are not among those that stay."""
        result = super().call(graph_module)
        left = len(graph_module.graph.find_nodes(op="call_function", target=ATEN.linear.default))
        return RewriteResult(graph_module, result.modified, result.changes, f"{left} {self.unmatched}")
