"""Convert copies and assignments to slices, `y[:, :4] = x` and the like, which functionalized graphs make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import sympy
from torch import fx

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax, static_size, te, tirx
from tbt_compile.ops.operands import operands
from tbt_compile.passes.largest_values import size_of
from tbt_compile.passes.prepare.aten import VIEW, viewed

END = 2**63 - 1
"""The end of an unbounded slice."""


@converter(ATEN.clone.default)
def convert_clone(call: Call) -> Expr:
    """`aten::clone(self)`: self, which nothing changes; a copy if it is an argument, or a view of one."""
    x, source = call.operands.self, operands(call.node).self
    while source.op == "call_function" and source.target in VIEW:
        source = viewed(source)
    if source.op != "placeholder":
        return x
    shape = list(x.ty.shape)
    rows = x if shape else call.emit(relax.op.reshape(x, [1]))
    copied = call.emit(relax.op.concat([rows], 0))
    return copied if shape else call.emit(relax.op.reshape(copied, []))


@converter(ATEN.copy.default)
def convert_copy(call: Call) -> Expr:
    """`aten::copy(self, src)`: src in the dtype and shape of self, which stays (TVM overwrites it)."""
    return fitted(call, call.operands.src, call.operands.self)


@converter(ATEN.fill.Tensor)
def convert_fill(call: Call) -> Expr:
    """`aten::fill.Tensor(self, value)`; value is a tensor of one element."""
    return fitted(call, call.operands.value, call.operands.self)


@converter(ATEN.slice.Tensor)
def convert_slice(call: Call) -> Expr:
    """`aten::slice(self, dim, start, end)`; TVM does not see that a symbolic bound is inside."""
    op, given = call.operands, operands(call.node)
    start, end = 0 if given.start is None else op.start, op.end
    whole = given.end is None or given.end == END
    if op.step != 1 or not any(isinstance(bound, fx.Node) for bound in (given.start, given.end)):
        return _constant_slice(call)
    axis = op.dim % len(op.self.ty.shape)
    last = given.self.meta["val"].shape[axis] if whole else given.end
    size = call.node.meta["val"].shape[axis]
    if sympy.expand(size_of(last) - size_of(given.start or 0) - size_of(size)) != 0:
        return call.default()  # a bound counts from the end, or may be beyond it

    def part(x: Any, start: Any, end: Any) -> Any:
        shape = [*x.shape[:axis], (x.shape[axis] if whole else end) - start, *x.shape[axis + 1 :]]
        return te.compute(shape, lambda *at: x(*at[:axis], at[axis] + start, *at[axis + 1 :]), "slice")

    return call.compute(part, op.self, start, 0 if whole else end)


def _constant_slice(call: Call) -> Expr:
    """A slice whose dimension TVM may count from the front only."""
    op, given = call.operands, operands(call.node)
    if op.dim >= 0 or any(isinstance(bound, fx.Node) for bound in (given.start, given.end)):
        return call.default()
    return sliced(call, op.dim, op.start or 0, END if op.end is None else op.end, op.step)


def sliced(call: Call, dim: int, start: int, end: int, step: int = 1) -> Expr:
    """A slice of `self`; TVM cannot legalize one of a dimension from the end.

    Args:
        call: the call.
        dim: from the front, or negative.
        start: the first place.
        end: the place after the last, or `END`.
        step: from place to place.

    Returns:
        The part.
    """
    x = call.operands.self
    return call.emit(relax.op.strided_slice(x, [dim % len(x.ty.shape)], [start], [end], [step]))


@converter(ATEN.slice_scatter.default)
def convert_slice_scatter(call: Call) -> Expr:
    """`aten::slice_scatter(self, src, dim, start, end, step)` of constant bounds; any size may be symbolic.

    Raises:
        ValueError: a bound is symbolic.
    """
    op = call.operands
    start, end = 0 if op.start is None else op.start, END if op.end is None else op.end
    return _replace_slice(call, op.src, op.dim, start, end, op.step)


@converter(ATEN.select_scatter.default)
def convert_select_scatter(call: Call) -> Expr:
    """`aten::select_scatter(self, src, dim, index)`; a negative index counts from the end.

    Raises:
        ValueError: `index` is symbolic.
    """
    op = call.operands
    src = call.emit(relax.op.expand_dims(op.src, op.dim))
    return _replace_slice(call, src, op.dim, op.index, END if op.index == -1 else op.index + 1, 1)


@converter(ATEN.split_with_sizes.default)
def convert_split_with_sizes(call: Call) -> Expr:
    """`aten::split_with_sizes(self, split_sizes, dim)`; TVM takes no size of 0."""
    return _split(call, call.operands.split_sizes)


@converter(ATEN.split.sizes)
def convert_split_sizes(call: Call) -> Expr:
    """`aten::split.sizes(self, split_size, dim)`; TVM takes no size of 0."""
    return _split(call, call.operands.split_size)


def _split(call: Call, sizes: Sequence[Any]) -> Expr:
    if 0 not in sizes:
        return call.default()
    dim = call.operands.dim % len(call.operands.self.ty.shape)
    bounds = [0, *accumulate(sizes)]
    parts = (relax.op.strided_slice(call.operands.self, [dim], [a], [b]) for a, b in pairwise(bounds))
    return call.emit(relax.Tuple([call.emit(part) for part in parts]))


@converter(ATEN.chunk.default)
def convert_chunk(call: Call) -> Expr:
    """`aten::chunk(self, chunks, dim)`; TVM takes no parts of a size that is known at run time only."""
    return _equal_parts(call)


@converter(ATEN.split.Tensor)
def convert_split(call: Call) -> Expr:
    """`aten::split.Tensor(self, split_size, dim)`; as for `aten::chunk`."""
    return _equal_parts(call)


def _equal_parts(call: Call) -> Expr:
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    axis, parts = call.operands.dim % len(shape), call.node.meta["val"]
    if static_size(shape[axis]) is not None or len({size_of(part.shape[axis]) for part in parts}) > 1:
        return call.default()
    count, size = len(parts), tirx.floordiv(shape[axis], len(parts))
    rows = call.emit(relax.op.reshape(x, [*shape[:axis], count, size, *shape[axis + 1 :]]))
    each = [call.emit(relax.op.strided_slice(rows, [axis], [place], [place + 1])) for place in range(count)]
    return call.emit(relax.Tuple([call.emit(relax.op.squeeze(part, [axis])) for part in each]))


def fitted(call: Call, value: Expr, like: Expr, shape: Sequence[Any] | None = None) -> Expr:
    """A tensor in the dtype and shape of another.

    Args:
        call: the call being converted.
        value: the tensor.
        like: has the dtype and, unless `shape` is given, the shape.
        shape: what the tensor is broadcast to.

    Returns:
        The tensor.

    Raises:
        ValueError: whether it can be broadcast is known at run time only.
    """
    shape = list(like.ty.shape if shape is None else shape)
    given = sizes_of(value)
    wanted = sizes(shape)[len(shape) - len(given) :]
    if any(size not in (expected, "1") for size, expected in zip(given, wanted, strict=True)):
        raise ValueError(f"values of shape [{', '.join(given)}] are not known to fit [{', '.join(wanted)}]")
    if value.ty.dtype != like.ty.dtype:
        value = call.emit(relax.op.astype(value, like.ty.dtype))
    return call.emit(relax.op.broadcast_to(value, shape))


def _replace_slice(call: Call, src: Expr, dim: int, start: Any, end: Any, step: int) -> Expr:
    """`self` with `self[start:end:step]` along one dimension replaced by `src`.

    Args:
        call: the call, which has `self`.
        src: as large as the slice.
        dim: the dimension.
        start, end: bounds as Python's; negative ones count from the end.
        step: positive.

    Raises:
        ValueError: a bound is symbolic.
    """
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError("a bound of the slice is known at run time only")
    x, emit = call.operands.self, call.emit
    axis = dim % len(x.ty.shape)
    size = x.ty.shape[axis]
    if (start, end, step) == (0, END, 1):
        return src
    if (known := static_size(size)) is not None and step == 1:
        first, last, _ = slice(start, end).indices(known)
        parts = [(x, 0, first), (src, 0, last - first), (x, last, known)]
        return emit(relax.op.concat([_part(call, axis, *part) for part in parts if part[1] < part[2]], axis))
    # Row i of the result is row i of self, or a row of src, which follows self in `both`.
    both = emit(relax.op.concat([x, src], axis))
    rows = emit(relax.op.arange(0, relax.prim_value(size), 1, "int64"))
    first, last = (_from_start(bound, size) for bound in (start, end))
    offset = emit(relax.op.subtract(rows, first))
    inside = emit(
        relax.op.logical_and(
            *(emit(each) for each in (relax.op.greater_equal(rows, first), relax.op.less(rows, last)))
        )
    )
    if step > 1:
        one = relax.const(step, "int64")
        hit = emit(relax.op.equal(emit(relax.op.floor_mod(offset, one)), relax.const(0, "int64")))
        inside = emit(relax.op.logical_and(inside, hit))
        offset = emit(relax.op.floor_divide(offset, one))
    places = emit(relax.op.where(inside, emit(relax.op.add(offset, relax.prim_value(size))), rows))
    return emit(relax.op.take(both, places, axis=axis, mode="clip"))


def _part(call: Call, axis: int, x: Expr, start: int, end: int) -> Expr:
    whole = (start, end) == (0, static_size(x.ty.shape[axis]))
    return x if whole else call.emit(relax.op.strided_slice(x, [axis], [start], [end]))


def _from_start(bound: int, size: Any) -> Expr:
    """A bound of a slice, counted from the start."""
    if bound >= 0:
        return relax.const(bound, "int64")
    return relax.prim_value(tirx.max(size + bound, 0))


def counted_from_start(call: Call, index: Expr, size: Any) -> Expr:
    """Indices of which negative ones count from the end of a dimension, counted from its start.

    Args:
        call: the call being converted.
        index: int64.
        size: of the dimension.

    Returns:
        int64, of the shape of the index.
    """
    wrapped = call.emit(relax.op.add(index, relax.prim_value(size)))
    negative = call.emit(relax.op.less(index, relax.const(0, "int64")))
    return call.emit(relax.op.where(negative, wrapped, index))


def sizes_of(x: Expr) -> list[str]:
    """The sizes of a tensor, static or symbolic, as text that can be compared."""
    return sizes(x.ty.shape)


def sizes(shape: Sequence[Any]) -> list[str]:
    """Sizes, static or symbolic, as text that can be compared."""
    return [str(size if (known := static_size(size)) is None else known) for size in shape]
