"""Refuse graphs that are no functions of their inputs: a compiled model keeps no state and draws no numbers.

What a forward computes from values on the way, sizes and assertions, is refused too: kernels have neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from tbt_compile.errors import LoweringError
from tbt_compile.ops.operands import operands
from tbt_compile.passes.lazy_code import recompile_later
from tbt_compile.passes.prepare.aten import base_of, described_owner, is_random
from tbt_compile.passes.strided_views import is_flat

_ATEN = torch.ops.aten


def check_function(program: ExportedProgram, root: str) -> None:
    """Check that a program is a function of its inputs, and of constants.

    Buffers that every call overwrites before it reads them are dropped first.

    Args:
        program: fresh from the export; its graph is changed in place.
        root: prefix of the module names that the user's model lacks.

    Raises:
        LoweringError: a call draws random numbers, changes a tensor of the model or an argument, or depends
            on values in a way that no kernel can.
    """
    _drop_overwrites(program)
    state = _state(program, root)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        reason = no_function(node, state)
        if reason:
            raise LoweringError(f"{described_owner(node, root)} {reason}")


def reasons_against(graph: fx.Graph) -> dict[fx.Node, str]:
    """Why a graph is no function of its inputs, by call, in the words of `check_function`.

    Args:
        graph: a captured graph, whose tensors of the model are attributes.

    Returns:
        The reasons in order. What a module does to one tensor is said once; so is that values decide.
    """
    state: dict[fx.Node, str | None] = dict.fromkeys(graph.find_nodes(op="placeholder"))
    kept = [node for node in graph.find_nodes(op="get_attr") if _overwriting(node) is None]
    state |= {node: str(node.target) for node in kept}
    found: dict[str, tuple[fx.Node, str]] = {}
    for node in graph.nodes:
        reason = no_function(node, state) if node.op == "call_function" else ""
        if reason:
            sentence = f"{described_owner(node)} {reason}"
            said = "values" if _by_values(node) else sentence.replace(str(node.target), "")
            found.setdefault(said, (node, sentence))
    return dict(found.values())


def no_function(node: fx.Node, state: Mapping[fx.Node, str | None]) -> str:
    """Why a call makes a graph no function of its inputs; "" if it does not.

    Args:
        node: the call.
        state: the tensors that outlive a call, with the model's names; arguments have None.

    Returns:
        What the module that makes the call does, "draws random numbers".
    """
    return _random(node) or _changes(node, state) or _by_values(node) or _by_strides(node)


def _random(node: fx.Node) -> str:
    """The refusal of a call that draws random numbers; dropout that is off does not."""
    if not is_random(node):
        return ""
    return (
        f"draws random numbers ({node.target}), which a compiled model cannot draw alike: pass them as an "
        "argument, or draw them in training only"
    )


def _changes(node: fx.Node, state: Mapping[fx.Node, str | None]) -> str:
    """The refusal of a call that changes a tensor which outlives it."""
    for name in _changed(node):
        tensor = base_of(getattr(operands(node), name))
        if not isinstance(tensor, fx.Node) or tensor not in state:
            continue
        stored = state[tensor]
        if stored is None:
            return (
                f"changes an argument in place ({node.target} on {tensor.name!r}), and a compiled model "
                "leaves its arguments as they are: change a copy"
            )
        return (
            f"changes {stored!r} in every call ({node.target}), and a compiled model keeps no state: return "
            "the new value, or change it in training only"
        )
    return ""


def _changed(node: fx.Node) -> Iterator[str]:
    """The names of the operands that a call changes."""
    schema = getattr(node.target, "_schema", None)
    for argument in schema.arguments if schema is not None else ():
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield argument.name
    if node.target is _ATEN.batch_norm.default and operands(node).training:
        yield "running_mean"
    if node.target is _ATEN.instance_norm.default and operands(node).use_input_stats:
        yield "running_mean"


def _by_values(node: fx.Node) -> str:
    """The refusal of a call whose result has a size, or is a number, that values decide."""
    if node.target in _READS:
        return (
            f"reads the value of a tensor as a Python number ({node.target}): compute with the tensor instead"
        )
    if node.target in _CHECKS:
        return (
            f"checks the values of a tensor ({node.target}), which a compiled model cannot: check them "
            "before the call"
        )
    values = pytree.tree_leaves(node.meta.get("val"))
    if any(isinstance(value, torch.Tensor) and free_unbacked_symbols(value.shape) for value in values):
        return (
            f"makes a tensor whose size depends on values ({node.target}): use a mask, torch.where or a "
            "fixed number of elements"
        )
    return ""


def _by_strides(node: fx.Node) -> str:
    """The refusal of a view into memory that holds more than its tensor, or that in no known order."""
    if node.target is not _ATEN.as_strided.default or is_flat(node.args[0].meta["val"]):  # type: ignore[union-attr]
        return ""
    return (
        "views a tensor by strides (aten.as_strided.default) that does not fill one piece of memory from the "
        "start: make it contiguous before"
    )


_READS = frozenset({_ATEN.item.default, _ATEN._local_scalar_dense.default})
_CHECKS = frozenset({_ATEN._assert_async.default, _ATEN._assert_async.msg, _ATEN._assert_scalar.default})


def _state(program: ExportedProgram, root: str) -> dict[fx.Node, str | None]:
    """The placeholders, all of tensors that outlive a call, with the model's names; arguments have None."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    stored |= signature.inputs_to_lifted_tensor_constants
    placeholders = program.graph.find_nodes(op="placeholder")
    names = {node: stored.get(node.name) for node in placeholders}
    return {node: None if name is None else name.removeprefix(root) for node, name in names.items()}


def _drop_overwrites(program: ExportedProgram) -> None:
    """Read what is copied into a buffer instead of the buffer, if a call copies before it reads."""
    for node in list(program.graph.find_nodes(op="placeholder")):
        if node.name not in program.graph_signature.inputs_to_buffers or not node.users:
            continue
        first = _overwriting(node)
        if first is None:
            continue
        source = first.args[1]
        assert isinstance(source, fx.Node)
        first.replace_all_uses_with(source)
        program.graph.erase_node(first)
        node.replace_all_uses_with(source)
    recompile_later(program.graph_module)


def _overwriting(node: fx.Node) -> fx.Node | None:
    """The call that overwrites a whole buffer before anything reads it."""
    users = (
        iter(node.users) if len(node.users) < 2 else (user for user in node.graph.nodes if user in node.users)
    )
    first = next(users, None)
    if first is None or first.target is not _ATEN.copy_.default or first.args[0] is not node:
        return None
    source, value = first.args[1], node.meta["val"]
    if not isinstance(source, fx.Node):
        return None
    given = source.meta["val"]
    return first if given.shape == value.shape and given.dtype == value.dtype else None
