"""Convert softmax, over attention scores and over any dimension, sums, and cumulative sums and products."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.float_ops import softmax, vocabulary
from tbt_compile.codegen.kernels.float_ops.reductions import row_sum
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.tvm_api import Expr, relax, tirx
from tbt_compile.dtypes import dtype_name


@converter(TBT.masked_softmax.default)
def convert_masked_softmax(call: Call) -> Expr:
    """`tbt::masked_softmax(scores, mask, scale)`: scores `[B, H, Q, T]`, mask `[B, 1, Q, T]` or None."""
    scores, mask, scale = call.operands.scores, call.operands.mask, call.operands.scale
    spec = softmax.SoftmaxSpec(call.isa, float(scale), mask is not None)
    return call.kernel(spec, softmax.softmax, [scores] if mask is None else [scores, mask], scores.ty.shape)


@converter(ATEN.softmax.int)
def convert_softmax(call: Call) -> Expr:
    """`aten::softmax(self, dim, dtype)`."""
    x = _in_dtype(call)
    if str(x.ty.dtype) != "float32":
        return call.emit(relax.op.nn.softmax(x, call.operands.dim))

    def rows_softmax(rows: Expr, shape: list[Any]) -> Expr:
        rows = call.reshape(rows, [1, 1, *shape])
        y = call.kernel(softmax.SoftmaxSpec(call.isa), softmax.softmax, [rows], [1, 1, *shape])
        return call.reshape(y, shape)

    return _over_rows(call, x, rows_softmax)


@converter(ATEN.log_softmax.int)
def convert_log_softmax(call: Call) -> Expr:
    """`aten::log_softmax(self, dim, dtype)`."""
    x = _in_dtype(call)
    if str(x.ty.dtype) != "float32":
        return call.emit(relax.op.nn.log_softmax(x, call.operands.dim))
    spec = AnySize(call.isa)
    return _over_rows(
        call, x, lambda rows, shape: call.kernel(spec, vocabulary.log_softmax_rows, [rows], shape)
    )


def _over_rows(call: Call, x: Expr, compute: Callable[[Expr, list[Any]], Expr]) -> Expr:
    """Compute rows along the dimension `dim` of a call: `compute(rows, [M, K])` returns as many."""
    shape = list(x.ty.shape)
    last, dim = len(shape) - 1, call.operands.dim % max(1, len(shape))
    swapped = [last if each == dim else dim if each == last else each for each in range(len(shape))]
    if dim != last:
        x = call.emit(relax.op.permute_dims(x, swapped))
    moved = list(x.ty.shape) or [1]
    rows = [prod(moved[:-1], start=1), moved[-1]]
    y = call.emit(
        relax.op.reshape(compute(call.emit(relax.op.reshape(x, rows)), rows), moved if shape else [])
    )
    return y if dim == last else call.emit(relax.op.permute_dims(y, swapped))


def _in_dtype(call: Call) -> Expr:
    """The operand, in the dtype of the result."""
    x, dtype = call.operands.self, dtype_name(call.node.meta["val"].dtype)
    return x if str(x.ty.dtype) == dtype else call.emit(relax.op.astype(x, dtype))


@converter(ATEN.sum.default)
def convert_sum(call: Call) -> Expr:
    """`aten::sum(self, *, dtype)`."""
    return _sum(call, None, False)


@converter(ATEN.sum.dim_IntList)
def convert_sum_dims(call: Call) -> Expr:
    """`aten::sum(self, dim, keepdim, *, dtype)`."""
    return _sum(call, call.operands.dim, call.operands.keepdim)


@converter(ATEN.mean.default)
def convert_mean(call: Call) -> Expr:
    """`aten::mean(self, *, dtype)`."""
    return _mean(call, None, False)


@converter(ATEN.mean.dim)
def convert_mean_dims(call: Call) -> Expr:
    """`aten::mean(self, dim, keepdim, *, dtype)`."""
    return _mean(call, call.operands.dim, call.operands.keepdim)


def sum_of(call: Call, x: Expr, dims: list[int] | None, keep: bool) -> Expr:
    """The sum over some dimensions: of float32 elements in the order of `kernels.dsl.sums`, others by TVM.

    Args:
        call: the call that is being converted.
        x: the tensor.
        dims: the dimensions; none or None for all.
        keep: whether the result keeps them, with size 1.

    Returns:
        The sum.
    """
    if str(x.ty.dtype) != "float32":
        return call.emit(relax.op.sum(x, list(dims) if dims else None, keep))
    shape = list(x.ty.shape)
    summed = sorted({dim % len(shape) for dim in dims or range(len(shape))})
    kept = [dim for dim in range(len(shape)) if dim not in summed]
    if [*kept, *summed] != list(range(len(shape))):
        x = call.emit(relax.op.permute_dims(x, [*kept, *summed]))
    rows = [prod((shape[dim] for dim in kept), start=1), prod((shape[dim] for dim in summed), start=1)]
    total = call.kernel(AnySize(call.isa), row_sum, [call.emit(relax.op.reshape(x, rows))], rows[:1])
    sizes = [1 if dim in summed else size for dim, size in enumerate(shape)]
    return call.emit(relax.op.reshape(total, sizes if keep else [shape[dim] for dim in kept]))


def _sum(call: Call, dims: list[int] | None, keep: bool) -> Expr:
    return sum_of(call, _in_dtype(call), dims, keep)


def _mean(call: Call, dims: list[int] | None, keep: bool) -> Expr:
    x = _in_dtype(call)
    return call.emit(relax.op.divide(sum_of(call, x, dims, keep), count_of(call, x, dims)))


def count_of(call: Call, x: Expr, dims: list[int] | None, less: float = 0) -> Expr:
    """The number of elements in some dimensions less a number, but at least 0, as a scalar of the dtype of x.

    Args:
        call: the call that is being converted.
        x: the tensor.
        dims: the dimensions; none or None for all.
        less: what is subtracted.

    Returns:
        A tensor without dimensions.
    """
    shape = list(x.ty.shape)
    count: Any = prod(shape[dim] for dim in {dim % len(shape) for dim in dims or range(len(shape))}) - less
    return call.scalar(tirx.max(count, 0 * count), x.ty.dtype)


@converter(ATEN.cumsum.default)
def convert_cumsum(call: Call) -> Expr:
    """`aten::cumsum(self, dim, *, dtype)`; of floats in double precision, as in torch."""
    return _in_double(call)


@converter(ATEN.cumprod.default)
def convert_cumprod(call: Call) -> Expr:
    """`aten::cumprod(self, dim, *, dtype)`; of floats in double precision, as in torch."""
    return _in_double(call)


@converter(ATEN.prod.default)
def convert_prod(call: Call) -> Expr:
    """`aten::prod(self, *, dtype)`; of integers and booleans int64, as in torch."""
    return call.emit(relax.op.prod(_in_dtype(call)))


@converter(ATEN.prod.dim_int)
def convert_prod_dim(call: Call) -> Expr:
    """`aten::prod.dim_int(self, dim, keepdim, *, dtype)`; of integers and booleans int64, as in torch."""
    return call.emit(relax.op.prod(_in_dtype(call), call.operands.dim, call.operands.keepdim))


def _in_double(call: Call) -> Expr:
    x = call.operands.self
    if str(x.ty.dtype) != "float32" or call.operands.dtype is not None:
        return call.default()
    result = call.default(self=call.emit(relax.op.astype(x, "float64")))
    return call.emit(relax.op.astype(result, "float32"))
