"""Remove what the export leaves behind and the compiler has no use for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, is_call

IDENTITIES = {
    ATEN.alias.default,
    ATEN.detach.default,
    ATEN.detach_.default,
    ATEN.lift_fresh_copy.default,
}


# Start, end and step of a slice that takes everything, as the export writes them.
_WHOLE = (0, 2**63 - 1, 1)


def is_identity(node: fx.Node) -> bool:
    """Whether a node returns its first operand: copies, dropout outside training, slices of everything."""
    if is_call(node, ATEN.dropout.default):
        return node.args[2] is False or bool(node.args[1] == 0.0)
    if is_call(node, ATEN.slice.Tensor):
        given = node.args[2:]
        return given + _WHOLE[len(given) :] == _WHOLE
    if is_call(node, ATEN.to.dtype):
        source: Any = node.args[0]
        return bool(source.meta["val"].dtype == node.args[1])
    if is_call(node, ATEN.to.dtype_layout):
        return bool(node.args[0].meta["val"].dtype == node.kwargs["dtype"])  # type: ignore[union-attr]
    return node.op == "call_function" and node.target in IDENTITIES


def drop_empty_operands(cat: fx.Node) -> bool:
    """Take 1-D empty tensors out of a concatenation.

    A dynamic cache starts from one; torch allows the mix of ranks for old times' sake, Relax does not.
    """
    operands = cat.args[0]
    assert isinstance(operands, (list, tuple))
    kept = [operand for operand in operands if not _is_empty_vector(operand)]
    if len(kept) == len(operands):
        return False
    if len(kept) == 1:
        cat.replace_all_uses_with(kept[0])  # type: ignore[arg-type]
        cat.graph.erase_node(cat)
    else:
        cat.args = (kept, *cat.args[1:])
    return True


def _is_empty_vector(node: object) -> bool:
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return value is not None and value.ndim == 1 and value.shape[0] == 0


@dataclass(frozen=True)
class CleanUp:
    """Drops identities, empty concatenation operands, assertions and dead code.

    Needs: an exported program in eval mode. Leaves: an equivalent graph without those nodes.
    """

    name: str = "clean-up"

    def apply(self, context: LoweringContext) -> PassResult:
        changes = 0
        for node in list(context.graph.nodes):
            if is_identity(node):
                node.replace_all_uses_with(node.args[0])
                context.graph.erase_node(node)
                changes += 1
            elif is_call(node, ATEN._assert_tensor_metadata.default):
                context.graph.erase_node(node)
                changes += 1
            elif is_call(node, ATEN.cat.default):
                changes += drop_empty_operands(node)
        context.graph.eliminate_dead_code()
        return PassResult(changes)
