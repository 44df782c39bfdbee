"""Remove what the export leaves behind and the compiler has no use for."""

from __future__ import annotations

from torch import fx

from tbt_compile.ops.operands import operands, set_operand
from tbt_compile.passes.lowering.match import ATEN, is_call, match_call, replace_with
from tbt_compile.passes.rewrite import RewritePass

IDENTITIES = (
    ATEN.alias.default,
    ATEN.detach.default,
    ATEN.detach_.default,
    ATEN.lift_fresh_copy.default,
)
CASTS = (ATEN.to.dtype, ATEN.to.dtype_layout)
END = 2**63 - 1  # how the export writes the end of a slice that has none


def identity_of(node: fx.Node) -> fx.Node | None:
    """The operand that a node returns unchanged: copies, dropout in eval mode, slices of everything, ..."""
    if call := match_call(node, ATEN.dropout.default):
        return call.input if call.train is False or call.p == 0.0 else None
    if call := match_call(node, ATEN.slice.Tensor):
        whole = call.start in (None, 0) and call.end in (None, END) and call.step == 1
        return call.self if whole else None
    if call := match_call(node, *CASTS):
        return call.self if call.self.meta["val"].dtype == call.dtype else None
    call = match_call(node, *IDENTITIES)
    return call.self if call else None


def drop_empty_operands(cat: fx.Node) -> bool:
    """Take 1-D empty tensors out of a concatenation.

    A dynamic cache starts from one; torch allows the mix of ranks for old times' sake, Relax does not.
    """
    tensors = operands(cat).tensors
    kept = [tensor for tensor in tensors if not _is_empty_vector(tensor)]
    if len(kept) == len(tensors):
        return False
    if len(kept) == 1:
        replace_with(cat, *kept)
    else:
        set_operand(cat, "tensors", kept)
    return True


def _is_empty_vector(node: fx.Node) -> bool:
    value = node.meta["val"]
    return bool(value.ndim == 1 and value.shape[0] == 0)


class CleanUp(RewritePass):
    """Drops identities, empty concatenation operands, assertions and dead code.

    Needs: an exported program in eval mode. Leaves: an equivalent graph without those nodes.
    """

    name = "clean-up"
    targets = (
        ATEN.dropout.default,
        ATEN.slice.Tensor,
        *CASTS,
        *IDENTITIES,
        ATEN._assert_tensor_metadata.default,
        ATEN.cat.default,
    )

    def rewrite(self, node: fx.Node) -> bool:
        if is_call(node, ATEN.cat.default):
            return drop_empty_operands(node)
        if is_call(node, ATEN._assert_tensor_metadata.default):
            node.graph.erase_node(node)
            return True
        source = identity_of(node)
        if source is not None:
            replace_with(node, source)
        return source is not None

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """No identity is left, so that patterns need not look through any."""
        left = [node.name for node in graph_module.graph.nodes if identity_of(node) is not None]
        assert not left, f"{self.name} left the identities {', '.join(left)}"
