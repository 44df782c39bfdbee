"""Refuse a graph in which a quantized operation has found no operator."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import fx

from tbt_compile.errors import LoweringError
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import TBT, is_call, module_path

MOST_NAMES = 4
# What `prepare` adds below a module of the user's.
_QUANTIZER = re.compile(r"\.(\w+_quantizer|tbt_attention.*)$")


def module_names(nodes: list[fx.Node], root: str) -> str:
    """The user's modules that nodes were captured from, each once, as a list for a message."""
    names = sorted({_QUANTIZER.sub("", module_path(node).removeprefix(root)) for node in nodes})
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


@dataclass(frozen=True)
class CheckFused:
    """Raises where a quantized operation would silently fall back to floating point.

    Needs: all fusion passes, and the context for the names in the message. Leaves the graph as it is; raises
    a `LoweringError` that names the modules whose quantized operands are used in a way that has no compiled
    operator.
    """

    name: str = "check-fused"

    def apply(self, context: LoweringContext) -> PassResult:
        left = [
            node for node in context.graph.nodes if is_call(node, TBT.quantize.default, TBT.unpack.default)
        ]
        if left:
            raise LoweringError(
                f"{context.name}: no compiled operator takes the quantized operands of "
                f"{module_names(left, context.root)}. Both operands of a product must be at 1, 2 or 8 bits, "
                "with learned scales below 8, and in attention [batch, heads, tokens, features]; leave these "
                "modules in full precision with the recipe's `exclude`, or run the frozen model in eager mode"
            )
        return PassResult(0)
