"""Operands of an operator call by name, for ATen and `tbt::` operators alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import fx


def operands(node: fx.Node) -> SimpleNamespace:
    """The operands of a call by the names of the operator's schema, defaults filled in.

    >>> import torch
    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> node = graph.call_function(torch.ops.aten.softmax.int, (x, -1))
    >>> operands(node).dim, operands(node).dtype
    (-1, None)
    """
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    named |= dict(zip((argument.name for argument in schema), node.args, strict=False))
    return SimpleNamespace(**(named | node.kwargs))


def set_operand(node: fx.Node, name: str, value: Any) -> None:
    """Replace one operand of a call, whether it was passed by position, by keyword or not at all."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    if name not in names:
        raise KeyError(f"{node.target} has no operand {name!r}: {', '.join(names)}")
    if names.index(name) < len(node.args):
        node.update_arg(names.index(name), value)
    else:
        node.update_kwarg(name, value)


def call_operator(graph: fx.Graph, target: Any, **named: Any) -> fx.Node:
    """A call of `target` at the graph's insertion point.

    Operands go by position up to the last that is not at its default, so that equal calls print equally.
    """
    schema = target._schema.arguments
    unknown = named.keys() - {argument.name for argument in schema}
    if unknown:
        raise KeyError(f"{target} has no operand {', '.join(sorted(unknown))}")
    positional: list[Any] = []
    by_keyword: dict[str, Any] = {}
    for argument in schema:
        if argument.kwarg_only:
            if argument.name in named:
                by_keyword[argument.name] = named[argument.name]
            continue
        positional.append(named[argument.name] if argument.name in named else argument.default_value)
    while positional:
        last = [argument for argument in schema if not argument.kwarg_only][len(positional) - 1]
        if not last.has_default_value() or positional[-1] != last.default_value:
            break
        positional.pop()
    return graph.call_function(target, tuple(positional), by_keyword)
