"""Fold quantize, packed weight, product, scales and bias of a linear layer into one operator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import (
    ATEN,
    TBT,
    addends,
    factors,
    is_call,
    is_scale_of,
    only_user,
    quantize_of,
    replace,
)


def fuse(linear: fx.Node) -> bool:
    """Rewrite `linear(codes(x), unpack(w)) * (scale(x) * scale(w).T) [+ bias]` around one linear node."""
    quantize, unpack = quantize_of(linear.args[0], 0), linear.args[1]
    if quantize is None or not is_call(unpack, TBT.unpack.default):
        return False
    scaled = only_user(linear)
    scales = factors(scaled.args[1]) if scaled and factors(scaled) else None
    if not scaled or not scales or not is_scale_of(scales[0], quantize):
        return False
    if not is_call(scales[1], ATEN.transpose.int):
        return False
    weight_scale = scales[1].args[0]
    bias, last = _bias(scaled, unpack.meta["val"].shape[0])  # type: ignore[union-attr]
    x, x_scale, x_encoding, center = quantize.args
    packed, weight_encoding, columns = unpack.args  # type: ignore[union-attr]
    operands = (x, x_scale, packed, weight_scale, bias, x_encoding, weight_encoding, center, columns)
    replace(last, TBT.bit_linear.default, operands)
    return True


def _bias(scaled: fx.Node, outputs: int) -> tuple[fx.Node | None, fx.Node]:
    """The bias `[outputs]` added to the scaled product, if nothing else reads that; and the last node.

    BART's logits have one of shape `[1, outputs]`.
    """
    total = only_user(scaled)
    first, bias = addends(total) or (None, None)
    if total is None or first is not scaled or not isinstance(bias, fx.Node) or bias.op != "placeholder":
        return None, scaled
    value = bias.meta["val"]
    if value.shape == (outputs,):
        return bias, total
    if value.shape != (1, outputs):
        return None, scaled
    with total.graph.inserting_before(total):
        flat = total.graph.call_function(ATEN.reshape.default, (bias, [outputs]))
    flat.meta["val"] = value.reshape(outputs)
    return flat, total


@dataclass(frozen=True)
class FuseLinear:
    """Replaces every quantized linear layer by `tbt::bit_linear`.

    Needs: a cleaned-up graph of a frozen model. Leaves: no `aten::linear` on codes.
    """

    name: str = "fuse-linear"

    def apply(self, context: LoweringContext) -> PassResult:
        linears = [node for node in context.graph.nodes if is_call(node, ATEN.linear.default)]
        fused = sum(fuse(node) for node in linears)
        context.graph.eliminate_dead_code()
        return PassResult(fused, f"{len(linears) - fused} linear layers stay in floating point")
