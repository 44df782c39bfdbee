"""Classes of ATen operators in the exported graph, their operands, and the modules that own nodes."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from tbt_compile.ops.operands import operands

aten = torch.ops.aten

SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})
MATMUL = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
LINEAR = frozenset({aten.linear.default, aten.addmm.default})
EMBEDDING = frozenset({aten.embedding.default})

# Operators that pass through values of their first argument; order, shape and dtype may change.
VIEW = frozenset(
    {
        operator.getitem,
        aten._to_copy.default,
        aten.alias.default,
        aten.chunk.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.expand.default,
        aten.flatten.using_ints,
        aten.index.Tensor,
        aten.index_select.default,
        aten.narrow.default,
        aten.permute.default,
        aten.repeat.default,
        aten.repeat_interleave.self_int,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.t.default,
        aten.to.device,
        aten.to.dtype,
        aten.to.dtype_layout,
        aten.transpose.int,
        aten.type_as.default,
        aten.unbind.int,
        aten.unflatten.int,
        aten.unfold.default,
        aten.unsqueeze.default,
        aten.view.default,
        aten.view_as.default,
    }
)

# Operators that keep a non-negative tensor non-negative although they change its values.
DROPOUT = frozenset({aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default})

# Operators allowed between QK^T and softmax or between softmax and PV: scale, mask, view, dropout.
BETWEEN_PRODUCTS = (
    VIEW
    | DROPOUT
    | {
        aten.add.Tensor,
        aten.add_.Tensor,
        aten.clamp.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.div_.Tensor,
        aten.masked_fill.Scalar,
        aten.masked_fill.Tensor,
        aten.masked_fill_.Scalar,
        aten.maximum.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.mul_.Tensor,
        aten.nan_to_num.default,
        aten.sub.Tensor,
        aten.tanh.default,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.where.self,
    }
)


def linear_operands(node: fx.Node) -> tuple[Any, Any, Any]:
    """Input, weight and bias of a call in `LINEAR`; the weight of addmm is transposed, `[K, N]`."""
    call = operands(node)
    if node.target is aten.linear.default:
        return call.input, call.weight, call.bias
    return call.mat1, call.mat2, call.self


def product_operands(node: fx.Node) -> tuple[Any, Any]:
    """The left and right operand of a call in `MATMUL`."""
    call = operands(node)
    return call.self, call.other if node.target is aten.matmul.default else call.mat2


def viewed(node: fx.Node) -> Any:
    """The operand whose values a call in `VIEW` or `DROPOUT` passes through."""
    # By position: `getitem` has no schema, and the other operators call it self or input.
    return node.args[0]


def owner(node: fx.Node) -> str:
    """Dotted name of the innermost module whose `forward` created the node; "" for the model itself."""
    stack = _module_stack(node)
    return stack[-1][0] if stack else ""


def owner_class(node: fx.Node) -> str:
    """Class name (without its module path) of the module that `owner` names."""
    stack = _module_stack(node)
    kind = stack[-1][1] if stack else ""
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def _module_stack(node: fx.Node) -> list[tuple[str, Any]]:
    """Name and class of each module whose `forward` the node was created in, outermost first."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    # What torch.export writes for a node that no module made.
    return [entry for entry in stack.values() if entry[0] != "_empty_nn_module_stack_from_metadata_hook"]


def described_call(node: fx.Node, root: str = "") -> str:
    """A call in words, for messages: "module 'encoder.fc' (Linear) calls aten.linear.default"."""
    target: Any = node.target
    if getattr(target, "namespace", "") == "prims":  # what an operator was decomposed into
        target = node.meta.get("original_aten") or target
    return f"{described_owner(node, root)} calls {target}"


def described_owner(node: fx.Node, root: str = "") -> str:
    """The module that created a node in words, for messages: "module 'encoder.fc' (Linear)".

    Args:
        node: the node.
        root: prefix of module names that the user's model lacks.

    Returns:
        The module, or "the model itself".
    """
    name = owner(node).removeprefix(root).removeprefix(root.rstrip("."))
    return f"module {name!r} ({owner_class(node)})" if name else "the model itself"


def is_random(node: fx.Node) -> bool:
    """Whether a call gives another result each time: not a dropout that is inactive."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    call = vars(operands(node))
    active: Any = call.get("train", call.get("training", True))
    return bool(active) and call.get("dropout_p", call.get("p", 1)) != 0


def common_owner(*names: str) -> str:
    """The innermost module that contains all of the named ones.

    >>> common_owner("decoder.attn", "decoder.attn.softmax")
    'decoder.attn'
    """
    parts = [name.split(".") if name else [] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def changed_in_place(node: fx.Node) -> set[fx.Node]:
    """The tensors whose memory a call changes: its operand, what that is a view of, and all views of that."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return set()
    written = [each.name for each in schema.arguments if each.alias_info and each.alias_info.is_write]
    found = {base for name in written if isinstance(base := base_of(getattr(operands(node), name)), fx.Node)}
    queue = list(found)
    while queue:
        base = queue.pop()
        views = [user for user in base.users if shared_operand(user) is base and user not in found]
        found.update(views)
        queue += views
    return found


def base_of(value: object) -> object:
    """The tensor of which a value is a view, or that it is itself."""
    while isinstance(value, fx.Node) and (operand := shared_operand(value)) is not None:
        value = operand
    return value


def shared_operand(node: fx.Node) -> fx.Node | None:
    """The operand whose memory the result of a call may share: a view of it, `out=`, or what was changed."""
    if node.op != "call_function" or not node.args:
        return None
    schema = getattr(node.target, "_schema", None)
    if node.target in DROPOUT or node.target is operator.getitem:
        found = node.args[0]
    elif schema is None or not any(value.alias_info for value in schema.returns):
        return None
    else:
        name = next(argument.name for argument in schema.arguments if argument.alias_info)
        found = getattr(operands(node), name)
    return found if isinstance(found, fx.Node) and not _copies(node, found) else None


def _copies(node: fx.Node, source: fx.Node) -> bool:
    """Whether an operator that returns its operand if it can, such as `to`, has to copy here."""
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    strided = node.target is aten.contiguous.default and not before.is_contiguous()
    return strided or before.dtype is not after.dtype


def search(start: Iterable[object], targets: Iterable[object], *, upwards: bool) -> fx.Node | None:
    """Breadth-first search for a call of one of several operators through `BETWEEN_PRODUCTS`.

    Args:
        start: nodes to start from; anything else is skipped.
        targets: the operators to find.
        upwards: whether to follow operands instead of users.

    Returns:
        The nearest call; None if there is none.
    """
    wanted, queue, seen = frozenset(targets), list(start), set()
    while queue:
        node = queue.pop(0)
        if not isinstance(node, fx.Node) or node in seen or node.op != "call_function":
            continue
        seen.add(node)
        if node.target in wanted:
            return node
        if node.target in BETWEEN_PRODUCTS:
            queue += node.all_input_nodes if upwards else list(node.users)
    return None


def is_token_lookup(ids: fx.Node) -> bool:
    """Whether embedding indices are an input of the model other than positions.

    Some may be replaced, as models that also take images do. Positions come from `arange` or a cumulative
    sum, from a buffer, or from an input called position_ids.
    """
    node: object = ids
    while isinstance(node, fx.Node):
        if node.op == "placeholder":
            return "position" not in node.name
        if node.op != "call_function" or node.target not in (*VIEW, *_REPLACING):
            return False
        node = viewed(node) if node.target in VIEW else node.args[0]
    return False


_REPLACING = (
    *(aten.index_put.default, aten.index_put_.default),
    *(aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Scalar, aten.masked_fill_.Tensor),
)
"""Operators whose result is their first operand with some elements replaced."""
