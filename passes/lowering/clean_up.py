"""Remove export artifacts: identities, empty concatenation operands and metadata assertions."""

from __future__ import annotations

from typing import Any

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
END = 2**63 - 1  # torch.export's end of an unbounded slice


LAYOUTS = (ATEN.contiguous.default, ATEN.clone.default)


def identity_of(node: fx.Node) -> fx.Node | None:
    """What `node` returns unchanged: of an alias, eval-mode dropout, full slice, no-op cast or transpose."""
    if call := match_call(node, ATEN.transpose.int):
        return transposed_back(call)
    if call := match_call(node, ATEN.dropout.default):
        return call.input if call.train is False or call.p == 0.0 else None
    if call := match_call(node, ATEN.slice.Tensor):
        whole = call.start in (None, 0) and call.end in (None, END) and call.step == 1
        return call.self if whole else None
    if call := match_call(node, *CASTS):
        return call.self if call.self.meta["val"].dtype == call.dtype else None
    call = match_call(node, *IDENTITIES)
    return call.self if call else None


def transposed_back(call: Any) -> fx.Node | None:
    """The tensor that a transpose brings back to its order: in between only its layout was changed."""
    first = call.self
    while is_call(first, *LAYOUTS):
        first = operands(first).self
    rank, before = call.self.meta["val"].dim(), match_call(first, ATEN.transpose.int)
    dims = {call.dim0 % rank, call.dim1 % rank}
    return before.self if before and {before.dim0 % rank, before.dim1 % rank} == dims else None


def drop_empty_operands(cat: fx.Node) -> bool:
    """Drop empty 1-D tensors from a concatenation.

    A dynamic cache starts as one. torch accepts the mixed ranks for backward compatibility; Relax does not.
    """
    tensors = operands(cat).tensors
    nonempty = [tensor for tensor in tensors if not _is_empty_vector(tensor)]
    if len(nonempty) == len(tensors) or not nonempty or any(_promotes(cat, tensor) for tensor in nonempty):
        return False
    if len(nonempty) == 1:
        replace_with(cat, *nonempty)
    else:
        set_operand(cat, "tensors", nonempty)
    return True


def _promotes(cat: fx.Node, tensor: fx.Node) -> bool:
    return bool(tensor.meta["val"].dtype != cat.meta["val"].dtype)


def _is_empty_vector(node: fx.Node) -> bool:
    value = node.meta["val"]
    return bool(value.ndim == 1 and value.shape[0] == 0)


class CleanUp(RewritePass):
    """Removes identities, empty concatenation operands, metadata assertions and dead code.

    Needs: an exported program in eval mode. Leaves: an equivalent graph without those nodes.
    """

    name = "clean-up"
    targets = (
        ATEN.dropout.default,
        ATEN.transpose.int,
        ATEN.slice.Tensor,
        *CASTS,
        *IDENTITIES,
        ATEN._assert_tensor_metadata.default,
        ATEN.cat.default,
    )

    def rewrite(self, node: fx.Node) -> bool:
        """`identity(x)` -> `x`; `cat([empty, x, y])` -> `cat([x, y])`; assertions are erased."""
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
        """Check that no identity is left: the patterns of later passes do not look through them."""
        identities = [node.name for node in graph_module.graph.nodes if identity_of(node) is not None]
        assert not identities, f"{self.name} left the identities {', '.join(identities)}"
