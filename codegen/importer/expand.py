"""Expand one call of a captured graph into the calls that define its operator, in place.

`ExportedProgram.run_decompositions` runs the whole program again to decompose a few calls of it, which takes
as long as several exports. Here only the definition is traced, with what the graph knows of the operands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

_ORIGIN = ("nn_module_stack", "source_fn_stack", "stack_trace", "torch_fn")
"""What the meta of a call says of the module and the line that made it."""


class NotExpandableError(Exception):
    """A definition changes a tensor in place or makes constants: the program has to be run again."""


class SpecializedError(Exception):
    """A definition holds for the sizes of the example only."""


def expand(node: fx.Node, definition: Callable[..., Any], composed: bool = False) -> bool:
    """Replace a call by what `definition` calls.

    Args:
        node: of a captured graph; its operands have values in their meta.
        definition: takes the operands of the call; NotImplemented if the call stays as it is.
        composed: whether calls of composed operators, such as a linear layer, stay whole.

    Returns:
        Whether the call was replaced.

    Raises:
        NotExpandableError: it cannot be replaced within the graph.
        SpecializedError: the definition would hold for the sizes of the example only.
    """
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]
    inputs = [leaves[index] for index in places]
    values = [each.meta["val"] for each in inputs]
    is_defined = True

    def call(*given: Any) -> Any:
        nonlocal is_defined
        filled = list(leaves)
        for index, value in zip(places, given, strict=True):
            filled[index] = value
        args, kwargs = pytree.tree_unflatten(filled, spec)
        found = definition(*args, **kwargs)
        is_defined = found is not NotImplemented
        if not is_defined:
            return ()
        return tuple(found) if isinstance(found, (list, tuple)) else found

    # The dispatcher of Python takes the compositions that keep sizes free.
    mode = _mode_of(values)
    known = _equations(mode)
    with mode, enable_python_dispatcher(), torch.no_grad():
        traced = make_fx(call, pre_dispatch=composed)(*values)
    if _equations(mode) != known:
        raise SpecializedError(
            f"{node.target} is computed in another way for other sizes: its numbers may not be computed from "
            "dynamic sizes"
        )
    if not is_defined:
        return False
    if not all(map(_can_be_copied, traced.graph.nodes)):
        raise NotExpandableError(node.name)
    _inline(node, inputs, traced.graph)
    return True


def _mode_of(values: list[Any]) -> FakeTensorMode:
    mode: FakeTensorMode = next(each.fake_mode for each in values if isinstance(each, Tensor))  # type: ignore[attr-defined]
    return mode


def _equations(mode: FakeTensorMode) -> int:
    """How many sizes, and expressions of sizes, had to have the values of the example."""
    env = mode.shape_env
    if env is None:
        return 0
    fixed = sum(size.is_number for size in env.replacements.values())
    return fixed + sum(isinstance(guard.expr, sympy.Eq) for guard in env.guards)


def _can_be_copied(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op != "get_attr" and not (schema is not None and schema.is_mutable)


def _inline(node: fx.Node, inputs: list[fx.Node], traced: fx.Graph) -> None:
    """Copy a traced graph before a call, and let its results take the place of the call's."""
    traced.eliminate_dead_code()
    copies = dict(zip(traced.find_nodes(op="placeholder"), inputs, strict=True))
    origin = {key: node.meta[key] for key in _ORIGIN if key in node.meta}
    with node.graph.inserting_before(node):
        for each in traced.nodes:
            if each.op == "call_function":
                copies[each] = node.graph.node_copy(each, copies.__getitem__)
                copies[each].meta.update(origin)
    results: Any = fx.map_arg(traced.output_node().args[0], copies.__getitem__)
    if isinstance(results, (list, tuple)):
        for user in list(node.users):
            assert user.target is operator.getitem, user
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            node.graph.erase_node(user)
    else:
        node.replace_all_uses_with(results)
    node.graph.erase_node(node)
