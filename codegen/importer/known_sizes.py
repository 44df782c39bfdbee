"""Sizes that the captured graph knows and Relax cannot derive.

Relax derives the sizes of a result from those of the operands: `x[:1]` has min(1, B) rows, which Relax cannot
show to be 1, and then no sum with `x` has a shape. PyTorch has names for sizes instead: two of one name are
equal. Every result is seen in the sizes of these names.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tbt_compile.codegen.tvm_api import Expr, relax, static_size, value_at
from tbt_compile.dtypes import dtype_name


class KnownSizes:
    """The sizes in Relax of one graph, by what the captured graph calls them."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def learn(self, node: fx.Node, value: Expr) -> None:
        """Take the sizes of an input as the ones that their names stand for."""
        for name, size in self._pairs(node, value):
            self._name(name, size)

    def fitting(self, node: fx.Node, values: Mapping[fx.Node, Any], builder: Any) -> dict[fx.Node, Expr]:
        """Operands of a pointwise call whose sizes are those of the result by a bound on a size.

        Args:
            node: the call.
            values: the converted nodes.
            builder: of the function.

        Returns:
            Views of them in the sizes of the result: of `x + table[:, : x.shape[1]]`, whose table has 64
            columns, min(64, T) of them are T.
        """
        if not _is_aten(node) or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            return {}
        result, found = node.meta.get("val"), {}
        if not isinstance(result, Tensor):
            return {}
        for operand in node.all_input_nodes:
            given, value = operand.meta.get("val"), values[operand]
            if not isinstance(given, Tensor) or getattr(value.ty, "shape", None) is None:
                continue
            sizes, whole = list(value.ty.shape), result.shape[result.dim() - given.dim() :]
            shape = list(map(self._broadcast, given.shape, whole, sizes))
            if any(new is not old for new, old in zip(shape, sizes, strict=True)):
                found[operand] = builder.emit(relax.op.reshape(value, shape))
        return found

    def settle(self, node: fx.Node, value: Any, builder: relax.BlockBuilder) -> Any:
        """A result with the sizes that the captured graph knows.

        Args:
            node: the call.
            value: its result in Relax; anything but a tensor of an ATen operator is returned as it is.
            builder: of the function.

        Returns:
            The result, or a view of it.

        Raises:
            ValueError: Relax found no sizes, since operands are not known to fit each other.
        """
        if not _is_aten(node) or not isinstance(getattr(value, "ty", None), relax.TensorType):
            return value
        if value.ty.shape is None:
            raise ValueError(
                "whether the sizes of its operands fit each other is not known: broadcast them with `expand` "
                "to the sizes of the result"
            )
        pairs = self._pairs(node, value)
        known = [name for name, _ in pairs]
        if 0 in known:
            return _empty(node, known, value, builder)
        shape = [self._name(name, size) for name, size in pairs]
        if all(new is old for new, (_, old) in zip(shape, pairs, strict=True)):
            return value
        return builder.emit(relax.op.reshape(value, shape))

    def _broadcast(self, ours: Any, whole: Any, size: Any) -> Any:
        """The size in Relax of a dimension that is broadcast to `whole`; the example tells how."""
        if isinstance(ours, int) or str(ours) == str(whole) or ours.node.hint is None:
            return size
        if ours.node.hint == 1:
            return 1
        return self._named.get(str(whole), size) if ours.node.hint == _hint(whole) else size

    def _name(self, name: Any, size: Any) -> Any:
        """The size of a name; the first one that is seen, if it is no number."""
        if static_size(size) is not None:
            return size
        named = name if isinstance(name, int) else self._named.setdefault(str(name.node.expr), size)
        # `torch.export` takes dynamic sizes to be 2 or more: x[1:2] has one row, of a single row it has none.
        return size if str(named) == str(size) or _smallest(named) != _smallest(size) else named

    def _pairs(self, node: fx.Node, value: Expr) -> Sequence[tuple[Any, Any]]:
        """The sizes of a tensor in PyTorch and in Relax; none of a tensor that is stored in another form."""
        known = node.meta.get("val")
        if not isinstance(known, Tensor) or dtype_name(known.dtype) != str(value.ty.dtype):
            return []
        sizes = list(value.ty.shape)
        return list(zip(known.shape, sizes, strict=True)) if len(sizes) == known.dim() else []


def _hint(size: Any) -> int | None:
    """The size in the example inputs."""
    return size if isinstance(size, int) else size.node.hint


def _empty(node: fx.Node, shape: list[Any], value: Expr, builder: relax.BlockBuilder) -> Expr:
    """A result without elements, whatever TVM made of it."""
    if any(user.op == "output" for user in node.users):
        raise ValueError("it returns a tensor without elements: return only tensors that have some")
    sizes = [new if isinstance(new, int) else old for new, old in zip(shape, value.ty.shape, strict=True)]
    dtype = str(value.ty.dtype)
    return builder.emit(relax.op.full(sizes, relax.const(0, dtype), dtype))


def without_dimensions(node: fx.Node) -> fx.Node | None:
    """The operand of a call along a dimension that has none; PyTorch takes it as a tensor of one element."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return None
    along = {argument.name for argument in node.target._schema.arguments} & {"dim", "dims"}
    results = node.meta.get("val")
    operand = node.args[0]
    if not along or not isinstance(operand, fx.Node):
        return None
    tensors = [operand.meta.get("val"), *(results if isinstance(results, (list, tuple)) else [results])]
    return operand if all(isinstance(each, Tensor) and each.dim() == 0 for each in tensors) else None


def _smallest(size: Any) -> int | None:
    """The value of a size where all dynamic sizes are 1; None if it cannot be computed."""
    known = static_size(size)
    return static_size(value_at(size, 1)) if known is None else known


def _is_aten(node: fx.Node) -> bool:
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
