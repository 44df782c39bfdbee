"""Convert assignments at indices and under masks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tbt_compile.codegen.importer.convert_slices import counted_from_start, fitted, sizes, sizes_of
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.kernels.float_ops import scatter
from tbt_compile.codegen.tvm_api import Expr, relax


@converter(ATEN.index_put.default)
def convert_index_put(call: Call) -> Expr:
    """`aten::index_put(self, indices, values, accumulate)` with integer tensors, or one mask and one value.

    Of several updates of one element the last counts, unless they are accumulated.

    Raises:
        ValueError: the assignment depends on how many elements of a mask are true.
    """
    op, shape = call.operands, list(call.operands.self.ty.shape)
    axes = [axis for axis, index in enumerate(op.indices) if index is not None]
    kinds = {str(op.indices[axis].ty.dtype) for axis in axes}
    if kinds & {"bool", "uint8"}:
        return _put_masked(call, axes)
    extents = [shape[axis] for axis in axes]
    index = _joined_index(call, [op.indices[axis] for axis in axes], extents)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    # Indices that are next to each other leave the result's dimensions in place of theirs, others in front.
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    before = [axis for axis in rest if axis < axes[0]] if adjacent else []
    order = [*before, *axes, *(axis for axis in rest if axis not in before)]
    lead, tail = [shape[axis] for axis in before], [shape[axis] for axis in order[len(before) + len(axes) :]]
    values = fitted(call, op.values, op.self, [*lead, *index.ty.shape, *tail])
    count = prod(index.ty.shape)
    places = [prod(lead), count, prod(tail)]
    column = call.emit(relax.op.reshape(index, [1, count, 1]))
    result = _scattered(
        call,
        call.emit(relax.op.permute_dims(op.self, order)),
        [prod(lead), prod(extents), prod(tail)],
        call.emit(relax.op.broadcast_to(column, places)),
        call.emit(relax.op.reshape(values, places)),
        "sum" if op.accumulate else "update",
    )
    return call.emit(relax.op.permute_dims(result, [order.index(axis) for axis in range(len(shape))]))


@converter(ATEN.scatter.src)
def convert_scatter(call: Call) -> Expr:
    """`aten::scatter.src(self, dim, index, src)`."""
    return _scatter_along(call, call.operands.src, "update")


@converter(ATEN.scatter.value)
def convert_scatter_value(call: Call) -> Expr:
    """`aten::scatter.value(self, dim, index, value)`."""
    return _scatter_along(call, call.operands.value, "update")


@converter(ATEN.scatter_add.default)
def convert_scatter_add(call: Call) -> Expr:
    """`aten::scatter_add(self, dim, index, src)`, added in the order of the index."""
    return _scatter_along(call, call.operands.src, "sum")


@converter(ATEN.scatter_reduce.two)
def convert_scatter_reduce(call: Call) -> Expr:
    """`aten::scatter_reduce.two(self, dim, index, src, reduce)` of sums, products and extrema with self.

    Raises:
        ValueError: another reduction, or one without self.
    """
    reduction = call.operands.reduce
    if reduction not in scatter.REDUCTIONS or not call.operands.include_self:
        raise ValueError(
            f"no compiled form of reduce={reduction!r}, include_self={call.operands.include_self}"
        )
    return _scatter_along(call, call.operands.src, reduction)


@converter(ATEN.masked_scatter.default)
def convert_masked_scatter(call: Call) -> Expr:
    """`aten::masked_scatter(self, mask, source)` of a source with as many elements as self.

    Raises:
        ValueError: the source has another shape; it might have too few elements.
    """
    op, emit = call.operands, call.emit
    shape = list(op.self.ty.shape)
    if sizes_of(op.source) != sizes(shape):
        raise ValueError("the source must have the shape of the tensor")
    flat = [prod(shape)]
    mask = emit(relax.op.broadcast_to(op.mask, shape))
    ranks = emit(relax.op.cumsum(emit(relax.op.astype(emit(relax.op.reshape(mask, flat)), "int64")), axis=0))
    before = emit(relax.op.subtract(ranks, relax.const(1, "int64")))
    taken = emit(relax.op.take(emit(relax.op.reshape(op.source, flat)), before, axis=0, mode="clip"))
    return emit(relax.op.where(mask, emit(relax.op.reshape(taken, shape)), op.self))


def _put_masked(call: Call, axes: list[int]) -> Expr:
    """`self[mask] = value`, or `self[mask] = row` with the dimensions behind those of the mask.

    Raises:
        ValueError: there are other indices, or a value for each true element of the mask; or whether the mask
            fits is known at run time only.
    """
    op, shape, given = call.operands, list(call.operands.self.ty.shape), list(call.operands.values.ty.shape)
    (axis, *others), mask = axes, op.indices[axes[0]]
    rank = len(mask.ty.shape)
    behind = len(shape) - axis - rank
    # Values are [lead..., places of the mask, row...], broadcast.
    split = max(len(given) - behind, 0)
    *lead, places = given[:split] or [1]
    if others or sizes([places]) != ["1"]:
        raise ValueError(
            "how many values are assigned depends on the mask: use torch.where(mask, values, x), "
            "or assign one value or row"
        )
    mask = call.emit(relax.op.reshape(mask, [*[1] * axis, *mask.ty.shape, *[1] * behind]))
    if str(mask.ty.dtype) != "bool":
        mask = call.emit(relax.op.astype(mask, "bool"))
    mask = fitted(call, mask, mask, shape)
    aligned = [*lead, *[1] * rank, *given[split:]] if split else given
    value = fitted(call, call.emit(relax.op.reshape(op.values, aligned)), op.self)
    if op.accumulate:
        value = call.emit(relax.op.add(op.self, value))
    return call.emit(relax.op.where(mask, value, op.self))


def _joined_index(call: Call, indices: list[Expr], sizes: list[Any]) -> Expr:
    """Indices of several dimensions as one, into these dimensions joined."""
    emit = call.emit
    joined: Expr | None = None
    for index, size in zip(indices, sizes, strict=True):
        if str(index.ty.dtype) != "int64":
            index = emit(relax.op.astype(index, "int64"))
        index = counted_from_start(call, index, size)
        if joined is None:
            joined = index
        else:
            joined = emit(relax.op.add(emit(relax.op.multiply(joined, relax.prim_value(size))), index))
    assert joined is not None
    return joined


def _scatter_along(call: Call, src: Any, reduction: str) -> Expr:
    """`aten::scatter`: element `[i][j]` of src goes to `[index[i][j]][j]`, for dimension 0.

    Raises:
        ValueError: src is larger than an index of symbolic size, or the index is smaller than self in one of
            several other dimensions.
    """
    op, emit = call.operands, call.emit
    shape, places = list(op.self.ty.shape), list(op.index.ty.shape)
    axis = op.dim % len(shape)
    for group in (slice(0, axis), slice(axis + 1, None)):
        if sizes(shape[group]) != sizes(places[group]) and len(shape[group]) > 1:
            raise ValueError("the index is smaller than the tensor in one of several other dimensions")
    if not isinstance(src, relax.Expr):
        src = emit(relax.op.broadcast_to(relax.const(src, op.self.ty.dtype), places))
    given, wanted = sizes_of(src), sizes_of(op.index)
    axes = [each for each in range(len(places)) if given[each] != wanted[each]]
    if not all(wanted[each].isdigit() for each in axes):
        raise ValueError("the source is larger than the index, whose size is known at run time only")
    if axes:
        ends = [int(wanted[each]) for each in axes]
        src = emit(relax.op.strided_slice(src, axes, [0] * len(axes), ends))
    index = fitted(call, op.index, relax.const(0, "int64"), places)
    extents, flat = ([prod(each[:axis]), each[axis], prod(each[axis + 1 :])] for each in (shape, places))
    index, src = (emit(relax.op.reshape(each, flat)) for each in (index, src))
    return _scattered(call, op.self, extents, index, src, reduction)


def _scattered(call: Call, x: Expr, flat: Sequence[Any], index: Expr, updates: Expr, reduction: str) -> Expr:
    """Call the kernel on a tensor seen as `[P, N, Q]`; the result has the shape of `x`.

    Args:
        call: the call being converted.
        x: the tensor.
        flat: its sizes P, N and Q.
        index, updates: `[P, K, Q]`, or smaller in P or Q.
        reduction: one of `scatter.REDUCTIONS`.
    """
    shape, dtype = list(x.ty.shape), str(x.ty.dtype)
    stored = "int8" if dtype == "bool" else dtype
    operands = [call.emit(relax.op.reshape(x, list(flat))), index, updates]
    if stored != dtype:
        operands[::2] = (call.emit(relax.op.astype(each, stored)) for each in operands[::2])
    spec = scatter.ScatterSpec(reduction, stored, call.isa)
    y = call.kernel(spec, scatter.scatter, operands, flat, stored)
    if stored != dtype:
        y = call.emit(relax.op.astype(y, dtype))
    return call.emit(relax.op.reshape(y, shape))
