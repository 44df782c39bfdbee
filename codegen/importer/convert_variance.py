"""Convert variances and standard deviations, over dimensions of any size and with any correction."""

from __future__ import annotations

from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax, tirx


@converter(ATEN.var.correction)
def convert_var(call: Call) -> Expr:
    """`aten::var(self, dim, *, correction, keepdim)`."""
    return _variance(call)[0]


@converter(ATEN.std.correction)
def convert_std(call: Call) -> Expr:
    """`aten::std(self, dim, *, correction, keepdim)`."""
    return call.emit(relax.op.sqrt(_variance(call)[0]))


@converter(ATEN.var_mean.correction)
def convert_var_mean(call: Call) -> Expr:
    """`aten::var_mean(self, dim, *, correction, keepdim)`."""
    return relax.Tuple(_variance(call))


@converter(ATEN.std_mean.correction)
def convert_std_mean(call: Call) -> Expr:
    """`aten::std_mean(self, dim, *, correction, keepdim)`."""
    variance, mean = _variance(call)
    return relax.Tuple((call.emit(relax.op.sqrt(variance)), mean))


def _variance(call: Call) -> tuple[Expr, Expr]:
    """Variance and mean: squared deviations are summed and divided by the count less the correction."""
    op, emit, keep = call.operands, call.emit, call.operands.keepdim
    x, rank = op.self, len(op.self.ty.shape)
    dims = [dim % rank for dim in op.dim or range(rank)]
    mean = emit(relax.op.mean(x, dims, keepdims=True))
    deviation = emit(relax.op.subtract(x, mean))
    total = emit(relax.op.sum(emit(relax.op.multiply(deviation, deviation)), dims, keepdims=keep))
    correction = 1 if op.correction is None else op.correction
    freedom: Any = prod(x.ty.shape[dim] for dim in dims) - correction
    freedom = call.scalar(tirx.max(freedom, 0 * freedom), x.ty.dtype)
    variance = emit(relax.op.divide(total, freedom))
    return variance, mean if keep else emit(relax.op.squeeze(mean, dims))
