"""Inline what a forward computes under `torch.no_grad` or with autocast turned off.

`torch.export` puts it into a subgraph. In a graph without gradients and autocast, neither matters.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from tbt_compile.passes.check_autocast import AUTOCAST
from tbt_compile.passes.lazy_code import recompile_later

_GRAD = "wrap_with_set_grad_enabled"


def inline_contexts(program: ExportedProgram) -> None:
    """Replace calls of such subgraphs by their nodes, in place; autocast that is turned on stays."""
    module = program.graph_module
    for node in list(module.graph.nodes):
        inner = _inner(node, module)
        if inner is not None:
            _inline(node, *inner)
    module.graph.eliminate_dead_code()
    for name, _ in list(module.named_children()):
        if not any(node.op == "get_attr" and node.target == name for node in module.graph.nodes):
            delattr(module, name)
    recompile_later(module)


def _inner(node: fx.Node, module: fx.GraphModule) -> tuple[fx.GraphModule, list[Any]] | None:
    """The subgraph that a node calls, and its arguments; None if it is no call that can be inlined."""
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    if name == _GRAD:
        _, subgraph, *arguments = node.args
    elif name == AUTOCAST:
        device, _, enabled, _, subgraph, *arguments = node.args
        if enabled and device == "cpu":
            return None
    else:
        return None
    assert isinstance(subgraph, fx.Node)
    found = module.get_submodule(str(subgraph.target))
    assert isinstance(found, fx.GraphModule)
    return found, arguments


def _inline(node: fx.Node, inner: fx.GraphModule, arguments: list[Any]) -> None:
    inputs = [each for each in inner.graph.nodes if each.op == "placeholder"]
    with node.graph.inserting_before(node):
        results: Any = node.graph.graph_copy(inner.graph, dict(zip(inputs, arguments, strict=True)))
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            node.graph.erase_node(user)
    node.graph.erase_node(node)
