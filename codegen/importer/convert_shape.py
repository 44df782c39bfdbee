"""Convert slices, windows, gathers and padding, most of which TVM gets wrong at the ends of their range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from operator import mul
from typing import Any

from tbt_compile.codegen.importer.convert_fill import filled
from tbt_compile.codegen.importer.convert_slices import END, counted_from_start, sliced
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax, static_size, te, tirx
from tbt_compile.dtypes import dtype_name


@converter(ATEN.select.int)
def convert_select(call: Call) -> Expr:
    """`aten::select(self, dim, index)`; a negative index counts from the end (TVM reads out of bounds).

    Raises:
        ValueError: `index` is symbolic.
    """
    dim, index = _constants(call, "dim", "index")
    part = sliced(call, dim, index, END if index == -1 else index + 1)
    return call.emit(relax.op.squeeze(part, [dim]))


@converter(ATEN.narrow.default)
def convert_narrow(call: Call) -> Expr:
    """`aten::narrow(self, dim, start, length)`; TVM reads `length` as an end.

    Raises:
        ValueError: `start` or `length` is symbolic.
    """
    dim, start, length = _constants(call, "dim", "start", "length")
    return sliced(call, dim, start, start + length or END)


@converter(ATEN.squeeze.dim)
def convert_squeeze(call: Call) -> Expr:
    """`aten::squeeze(self, dim)`; a size that is not 1 stays, as one that is known at run time only."""
    return _squeezed(call, [call.operands.dim])


@converter(ATEN.squeeze.default)
def convert_squeeze_all(call: Call) -> Expr:
    """`aten::squeeze(self)`; sizes that are known at run time only stay."""
    x = call.operands.self
    return _squeezed(call, range(len(x.ty.shape)))


@converter(ATEN.squeeze.dims)
def convert_squeeze_dims(call: Call) -> Expr:
    """`aten::squeeze(self, dim)` of several dimensions; sizes that are known at run time only stay."""
    return _squeezed(call, call.operands.dim)


def _squeezed(call: Call, dims: Iterable[int]) -> Expr:
    x, shape = call.operands.self, call.operands.self.ty.shape
    ones = [dim for dim in dims if static_size(shape[dim % len(shape)]) == 1]
    return call.emit(relax.op.squeeze(x, ones)) if ones else x


@converter(ATEN.roll.default)
def convert_roll(call: Call) -> Expr:
    """`aten::roll(self, shifts, dims)`; without dimensions, of all elements in a row."""
    op, shape = call.operands, list(call.operands.self.ty.shape)
    x = op.self if op.dims else call.emit(relax.op.reshape(op.self, [prod(shape)]))
    dims = [dim % len(shape) for dim in op.dims] or [0]
    y = x
    for dim, shift in zip(dims, op.shifts, strict=True):
        y = call.compute(_rolled(dim), y, shift if isinstance(shift, int) else relax.prim_value(shift))
    return y if op.dims else call.emit(relax.op.reshape(y, shape))


def _rolled(dim: int) -> Callable[..., Any]:
    def rolled(x: Any, shift: Any) -> Any:
        size = x.shape[dim]
        return te.compute(
            x.shape,
            lambda *at: x(*at[:dim], tirx.floormod(at[dim] - shift, size), *at[dim + 1 :]),
            "roll",
        )

    return rolled


@converter(ATEN.repeat.default)
def convert_repeat(call: Call) -> Expr:
    """`aten::repeat(self, repeats)`; TVM takes no counts that are known at run time only."""
    return _repeated(call, call.operands.repeats)


@converter(ATEN.tile.default)
def convert_tile(call: Call) -> Expr:
    """`aten::tile(self, dims)`; TVM takes no counts that are known at run time only."""
    return _repeated(call, call.operands.dims)


def _repeated(call: Call, counts: Sequence[Any]) -> Expr:
    """Copies of `self` next to each other, as many along each dimension as `counts` says."""
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    if all(isinstance(count, int) for count in counts):
        return call.default()
    rank = max(len(shape), len(counts))
    shape = [*[1] * (rank - len(shape)), *shape]
    counts = [*[1] * (rank - len(counts)), *counts]
    rows = call.emit(relax.op.reshape(x, [size for each in shape for size in (1, each)]))
    pairs = zip(counts, shape, strict=True)
    copies = call.emit(relax.op.broadcast_to(rows, [size for pair in pairs for size in pair]))
    return call.emit(relax.op.reshape(copies, list(map(mul, counts, shape))))


@converter(ATEN.index_select.default)
def convert_index_select(call: Call) -> Expr:
    """`aten::index_select(self, dim, index)`; indices out of range are clipped."""
    op = call.operands
    return call.emit(relax.op.take(op.self, op.index, axis=op.dim, mode="clip"))


@converter(ATEN.index.Tensor)
def convert_index(call: Call) -> Expr:
    """`aten::index(self, indices)` with one int64 index tensor; others are left to TVM.

    Negative indices count from the end; indices out of range are clipped.

    Raises:
        ValueError: the index is a mask.
    """
    x, indices = call.operands.self, call.operands.indices
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if any(str(indices[axis].ty.dtype) in ("bool", "uint8") for axis in axes):
        raise ValueError(
            "how many elements a mask selects is known at run time only: use torch.where(mask, x, y), or "
            "multiply by the mask"
        )
    if len(axes) != 1 or str(indices[axes[0]].ty.dtype) != "int64":
        return call.default()
    (axis,) = axes
    index = counted_from_start(call, indices[axis], x.ty.shape[axis])
    return call.emit(relax.op.take(x, index, axis=axis, mode="clip"))


@converter(ATEN.view.default)
def convert_view(call: Call) -> Expr:
    """`aten::view(self, size)`; TVM neither compares symbolic sizes nor tells what -1 stands for then."""
    return _with_inferred(call, "size")


@converter(ATEN.reshape.default)
def convert_reshape(call: Call) -> Expr:
    """`aten::reshape(self, shape)`; as for `aten::view`."""
    return _with_inferred(call, "shape")


def _with_inferred(call: Call, name: str) -> Expr:
    shape = list(getattr(call.operands, name))
    known = [static_size(size) for size in shape]
    if 0 in known or None not in known:
        return call.default()
    if -1 in known:
        place = known.index(-1)
        inferred = call.node.meta["val"].shape[place]
        if not isinstance(inferred, int):
            return call.default()
        shape[place] = inferred
    return call.emit(relax.op.reshape(call.operands.self, shape))


@converter(ATEN.pad.default)
def convert_pad(call: Call) -> Expr:
    """`aten::pad(self, pad, mode, value)`; TVM takes no amounts that are known at run time only.

    Raises:
        ValueError: an amount is symbolic, and the padding no constant.
    """
    op = call.operands
    if all(isinstance(amount, int) for amount in op.pad):
        return call.default()
    if op.mode != "constant":
        raise ValueError(f"{call.node.target}: how much is padded is known at run time only")
    x, value, dtype = op.self, op.value or 0, dtype_name(call.node.meta["val"].dtype)
    value = float(value) if dtype.startswith("float") else int(value)
    for index, (before, after) in enumerate(zip(op.pad[::2], op.pad[1::2], strict=True)):
        axis = len(x.ty.shape) - 1 - index
        parts = [x]
        for amount, place in ((before, 0), (after, 2)):
            if isinstance(amount, int) and amount == 0:
                continue
            sizes = list(x.ty.shape)
            parts.insert(place, filled(call, [*sizes[:axis], amount, *sizes[axis + 1 :]], value))
        x = call.emit(relax.op.concat(parts, axis)) if len(parts) > 1 else x
    return x


@converter(ATEN.unfold.default)
def convert_unfold(call: Call) -> Expr:
    """`aten::unfold(self, dimension, size, step)`: windows of one dimension; their elements become the last.

    Raises:
        ValueError: `size` or `step` is symbolic.
    """
    dim, size, step = _constants(call, "dimension", "size", "step")

    def windows(x: Any) -> Any:
        axis = dim % len(x.shape)
        positions = (x.shape[axis] - size) // step + 1
        shape = [*x.shape[:axis], positions, *x.shape[axis + 1 :], size]
        return te.compute(
            shape, lambda *at: x(*at[:axis], at[axis] * step + at[-1], *at[axis + 1 : -1]), "unfold"
        )

    return call.compute(windows, call.operands.self)


def _constants(call: Call, *names: str) -> list[int]:
    """The named operands, which must be constants.

    Raises:
        ValueError: an operand is symbolic.
    """
    values = [getattr(call.operands, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, int):
            raise ValueError(f"{call.node.target}: {name} is known at run time only")
    return values
