"""Refuse a graph in which a quantized operation has found no operator."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.errors import LoweringError
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import TBT, is_call, module_path


@dataclass(frozen=True)
class CheckFused:
    """Nothing may fall back to floating point unseen.

    Needs: all fusion passes. Leaves the graph as it is; raises a `LoweringError` that names the modules
    whose quantized operands are used in a way that has no compiled operator.
    """

    name: str = "check-fused"

    def apply(self, context: LoweringContext) -> PassResult:
        left = [
            node
            for node in context.graph.nodes
            if is_call(node, TBT.quantize.default) or is_call(node, TBT.unpack.default)
        ]
        if left:
            names = sorted({module_path(node) for node in left})
            raise LoweringError(
                f"{context.name}: no compiled operator takes the quantized operands of {', '.join(names)}. "
                "Operands must both be at 1, 2 or 8 bits; leave these modules in full precision with the "
                "recipe's `exclude`, or run the frozen model in eager mode"
            )
        return PassResult(0)
