"""Convert softmax, over attention scores and over any dimension, and cumulative sums and products."""

from __future__ import annotations

from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.float_ops import softmax
from tbt_compile.codegen.tvm_api import Expr, relax
from tbt_compile.dtypes import dtype_name


@converter(TBT.masked_softmax.default)
def convert_masked_softmax(call: Call) -> Expr:
    """`tbt::masked_softmax(scores, mask, scale)`: scores `[B, H, Q, T]`, mask `[B, 1, Q, T]` or None."""
    scores, mask, scale = call.operands.scores, call.operands.mask, call.operands.scale
    spec = softmax.SoftmaxSpec(call.isa, float(scale), mask is not None)
    return call.kernel(spec, softmax.softmax, [scores] if mask is None else [scores, mask], scores.ty.shape)


@converter(ATEN.softmax.int)
def convert_softmax(call: Call) -> Expr:
    """`aten::softmax(self, dim, dtype)`: a kernel for float32 over the last dimension; others by TVM."""
    x, shape = _in_dtype(call), list(call.operands.self.ty.shape)
    if call.operands.dim not in (-1, len(shape) - 1) or str(x.ty.dtype) != "float32":
        return call.emit(relax.op.nn.softmax(x, call.operands.dim))
    rows: list[Any] = shape if len(shape) == 4 else [1, 1, prod(shape[:-1]), shape[-1]]
    y = call.kernel(softmax.SoftmaxSpec(call.isa), softmax.softmax, [call.reshape(x, rows)], rows)
    return call.reshape(y, shape)


@converter(ATEN.log_softmax.int)
def convert_log_softmax(call: Call) -> Expr:
    """`aten::log_softmax(self, dim, dtype)`."""
    return call.emit(relax.op.nn.log_softmax(_in_dtype(call), call.operands.dim))


def _in_dtype(call: Call) -> Expr:
    """The operand, in the dtype of the result."""
    x, dtype = call.operands.self, dtype_name(call.node.meta["val"].dtype)
    return x if str(x.ty.dtype) == dtype else call.emit(relax.op.astype(x, dtype))


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
