"""Reject graphs in which a quantized operation is left without an operator that has a kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import fx

from tbt_compile.errors import LoweringError, listed
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import TBT, is_call, module_path

# Submodules that `prepare` adds to the user's modules; messages name the user's modules only.
_QUANTIZER = re.compile(r"(^|\.)(\w+_quantizer|tbt_attention.*)$")


def module_names(nodes: list[fx.Node], root: str) -> str:
    """The user's modules that `nodes` were traced from, without duplicates, as text for a message."""
    paths = {_QUANTIZER.sub("", module_path(node).removeprefix(root)) for node in nodes}
    return listed(sorted(path or "the model itself" for path in paths))


@dataclass(frozen=True)
class CheckFused:
    """Rejects quantized operations that would silently fall back to floating point.

    Needs: the graph after all fusion passes. Leaves: the graph unchanged. Raises a `LoweringError` that names
    the modules whose quantized operands no compiled operator takes.
    """

    name: str = "check-fused"

    def apply(self, context: LoweringContext) -> PassResult:
        unfused = [
            node for node in context.graph.nodes if is_call(node, TBT.quantize.default, TBT.unpack.default)
        ]
        if unfused:
            raise LoweringError(
                f"{context.name}: no compiled operator takes the quantized operands of "
                f"{module_names(unfused, context.root)}. Both operands of a product must have 1, 2 or 8 "
                "bits, with learned scales below 8 bits, and the shape [batch, heads, tokens, features] in "
                "attention; leave these modules in full precision with the recipe's `exclude`, or run the "
                "frozen model in eager mode"
            )
        return PassResult(0)
