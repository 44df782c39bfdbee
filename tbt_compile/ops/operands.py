"""Access to the operands of a call node by schema name, for ATen and `tbt::` operators alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import fx


def operands(node: fx.Node) -> SimpleNamespace:
    """Return the operands of a call node by their names in the operator's schema, defaults filled in.

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
    """Replace an operand of a call, whether it was passed by position, by keyword or by default.

    Args:
        node: a call of an operator with a schema; changed in place.
        name: the operand's name in the schema.
        value: a node or a constant.

    Raises:
        KeyError: the operator has no operand of that name.
    """
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    if name not in names:
        raise KeyError(f"{node.target} has no operand {name!r}: {', '.join(names)}")
    if names.index(name) < len(node.args):
        node.update_arg(names.index(name), value)
    else:
        node.update_kwarg(name, value)


def _takes_default(argument: Any, named: dict[str, Any]) -> bool:
    if argument.name not in named:
        return True
    value = named[argument.name]
    same = type(value) is type(argument.default_value) and value == argument.default_value
    return argument.has_default_value() and same


def call_operator(graph: fx.Graph, target: Any, **named: Any) -> fx.Node:
    """Insert a call of `target` at the graph's insertion point.

    Operands are passed by position up to the last one that is not its default, as torch.export writes them.

    Args:
        graph: receives the call.
        target: an operator overload.
        named: operands by their names in the schema; those left out take their defaults.

    Returns:
        The new node, without metadata.

    Raises:
        KeyError: the operator has no operand of such a name.
    """
    schema = target._schema.arguments
    unknown = named.keys() - {argument.name for argument in schema}
    if unknown:
        raise KeyError(f"{target} has no operand {', '.join(sorted(unknown))}")
    missing = [a.name for a in schema if not a.has_default_value() and a.name not in named]
    if missing:
        raise KeyError(f"{target} needs the operand {', '.join(missing)}")
    by_position = [argument for argument in schema if not argument.kwarg_only]
    while by_position and _takes_default(by_position[-1], named):
        named.pop(by_position.pop().name, None)
    positional = [named.pop(argument.name, argument.default_value) for argument in by_position]
    return graph.call_function(target, tuple(positional), named)
