"""Convert variances and standard deviations, over dimensions of any size and with any correction."""

from __future__ import annotations

from tbt_compile.codegen.importer.convert_reduction import count_of, sum_of
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax


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
    x, dims = op.self, [dim % len(op.self.ty.shape) for dim in op.dim or range(len(op.self.ty.shape))]
    mean = emit(relax.op.divide(sum_of(call, x, dims, True), count_of(call, x, dims)))
    deviation = emit(relax.op.subtract(x, mean))
    total = sum_of(call, emit(relax.op.multiply(deviation, deviation)), dims, keep)
    correction = 1 if op.correction is None else op.correction
    variance = emit(relax.op.divide(total, count_of(call, x, dims, correction)))
    return variance, mean if keep else emit(relax.op.squeeze(mean, dims))
