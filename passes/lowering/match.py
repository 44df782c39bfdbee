"""Small questions about nodes that the fusion passes share."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)

ATEN = torch.ops.aten
TBT = torch.ops.tbt


def is_call(node: Any, target: Any) -> bool:
    """Whether `node` is a call of the operator `target`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def quantize_of(node: Any, output: int) -> fx.Node | None:
    """The `tbt::quantize` node of which `node` is output 0 (codes) or 1 (scale); else None."""
    if (
        is_call(node, operator.getitem)
        and node.args[1] == output
        and is_call(node.args[0], TBT.quantize.default)
    ):
        return node.args[0]
    return None


def factors(node: Any) -> tuple[Any, Any] | None:
    """The operands of an elementwise product, or None."""
    return (node.args[0], node.args[1]) if is_call(node, ATEN.mul.Tensor) else None


def addends(node: Any) -> tuple[Any, Any] | None:
    """The operands of a plain elementwise sum, or None."""
    return (node.args[0], node.args[1]) if is_call(node, ATEN.add.Tensor) and not node.kwargs else None


def is_scale_of(node: Any, quantize: fx.Node) -> bool:
    """Whether `node` is the scale that `quantize` returns, transposed or not."""
    if is_call(node, ATEN.transpose.int):
        node = node.args[0]
    return quantize_of(node, 1) is quantize


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one; None when there are more, or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def replace(old: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Put a call of `target` in the place of `old`, with its shape and the module it comes from."""
    graph = old.graph
    with graph.inserting_before(old):
        new = graph.call_function(target, args)
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
    return new


def module_path(node: fx.Node) -> str:
    """Dotted name of the module that a node was captured from, for messages."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else node.name
