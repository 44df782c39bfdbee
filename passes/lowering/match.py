"""Helpers for pattern matching: predicates and operand access for nodes, and replacement of a match."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)
from tbt_compile.ops.operands import call_operator, operands

ATEN = torch.ops.aten
TBT = torch.ops.tbt

PACKED_OPERAND: dict[Any, str] = {
    TBT.pack_keys.default: "keys",
    TBT.pack_values.default: "values",
    TBT.append_keys.default: "keys",
    TBT.append_values.default: "values",
}
"""The name of the float operand `[B, H, T, D]` that each operator quantizes and packs."""


def is_call(node: Any, *targets: Any) -> bool:
    """Whether `node` is a call of one of the operators `targets`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def match_call(node: Any, *targets: Any) -> SimpleNamespace | None:
    """The operands, by name, of a call of one of the operators `targets`; None for anything else."""
    return operands(node) if is_call(node, *targets) else None


def single_user(node: fx.Node) -> fx.Node | None:
    """The user of a node with exactly one user, into which the node can be fused; None otherwise."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def shape_of(node: fx.Node) -> torch.Size:
    """The shape of a node's value; dynamic dimensions are symbolic."""
    shape: torch.Size = node.meta["val"].shape
    return shape


def factors(node: Any) -> tuple[Any, Any] | None:
    """The operands of an elementwise product, or None."""
    product = match_call(node, ATEN.mul.Tensor)
    return (product.self, product.other) if product else None


def addends(node: Any) -> tuple[Any, Any] | None:
    """The operands of an elementwise sum without a multiplier, or None."""
    total = match_call(node, ATEN.add.Tensor)
    return (total.self, total.other) if total and total.alpha == 1 else None


def quantize_of_codes(node: Any) -> fx.Node | None:
    """The `tbt::quantize` node whose codes are `node`, or None."""
    return _quantize_of(node, 0)


def quantize_of_scale(node: Any) -> fx.Node | None:
    """The `tbt::quantize` node whose scale, transposed or not, is `node`; or None."""
    transpose = match_call(node, ATEN.transpose.int)
    return _quantize_of(transpose.self if transpose else node, 1)


def _quantize_of(node: Any, output: int) -> fx.Node | None:
    if not is_call(node, operator.getitem):
        return None
    source, index = node.args  # getitem is a Python function without a schema
    return source if index == output and is_call(source, TBT.quantize.default) else None


def rescaled(product: fx.Node) -> tuple[fx.Node, Any] | None:
    """Match `product * scales` if the product has one user. Returns that user and the scales, or None."""
    user = single_user(product)
    scaled = factors(user)
    return (user, scaled[1]) if user and scaled and scaled[0] is product else None


def replace(old: fx.Node, target: Any, **named: Any) -> fx.Node:
    """Replace `old` by a call of `target` with the same meta.

    Args:
        old: the last node of the matched pattern. It is erased; the other nodes are left to dead code
            elimination.
        target: an operator overload.
        named: its operands by name.

    Returns:
        The new node.
    """
    graph = old.graph
    with graph.inserting_before(old):
        new = call_operator(graph, target, **named)
    new.meta = dict(old.meta)
    replace_with(old, new)
    return new


def replace_with(old: fx.Node, new: fx.Node) -> None:
    """Replace all uses of `old` by `new` and erase `old`."""
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def module_path(node: fx.Node) -> str:
    """Dotted name of the module that a node was traced from, for messages."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else node.name
