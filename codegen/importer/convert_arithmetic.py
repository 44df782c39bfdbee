"""Convert sums, differences and quotients, with the factors and divisors that TVM ignores or refuses."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

from tbt_compile.codegen.importer.float_bits import has_keys, times_zero
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax
from tbt_compile.dtypes import dtype_name


@converter(ATEN.add.Tensor)
def convert_add(call: Call) -> Expr:
    """`aten::add(self, other, *, alpha)`; a sum of booleans is their disjunction. TVM ignores `alpha`."""
    x, y = call.tensors()
    if x.ty.dtype == "bool":
        return call.emit(relax.op.logical_or(x, y)) if call.operands.alpha else x
    return call.emit(relax.op.add(x, _times(call, y, call.operands.alpha)))


@converter(ATEN.sub.Tensor)
def convert_sub(call: Call) -> Expr:
    """`aten::sub(self, other, *, alpha)`; TVM ignores `alpha`."""
    x, y = call.tensors()
    return call.emit(relax.op.subtract(x, _times(call, y, call.operands.alpha)))


@converter(ATEN.rsub.Scalar)
def convert_rsub(call: Call) -> Expr:
    """`aten::rsub(self, other, alpha)`, which is other - alpha * self."""
    x, y = call.tensors()
    return call.emit(relax.op.subtract(y, _times(call, x, call.operands.alpha)))


@converter(ATEN.rsub.Tensor)
def convert_rsub_tensor(call: Call) -> Expr:
    """`aten::rsub(self, other, *, alpha)` of tensors; TVM ignores `alpha`."""
    return convert_rsub(call)


@converter(ATEN.mul.Tensor)
def convert_mul(call: Call) -> Expr:
    """`aten::mul(self, other)`; a product of booleans is their conjunction.

    TVM folds a product of floats and 0 to 0, also that of NaN.
    """
    for x, factor in permutations((call.operands.self, call.operands.other)):
        if isinstance(factor, (int, float)) and factor == 0 and has_keys(str(x.ty.dtype)):
            zeros = call.compute(times_zero, x)
            return zeros if math.copysign(1.0, factor) > 0 else call.emit(relax.op.negative(zeros))
    x, y = call.tensors()
    return call.emit((relax.op.logical_and if x.ty.dtype == "bool" else relax.op.multiply)(x, y))


@converter(ATEN.mul.Scalar)
def convert_mul_scalar(call: Call) -> Expr:
    """`aten::mul(self, other)` with a number."""
    return convert_mul(call)


@converter(ATEN.div.Tensor)
def convert_div(call: Call) -> Expr:
    """`aten::div(self, other)`; by the number 0, which TVM cannot fold, a product with infinity."""
    other = call.operands.other
    if not isinstance(other, (int, float)) or other != 0:
        return call.default()
    x, infinity = call.operands.self, math.copysign(math.inf, other)
    return call.emit(relax.op.multiply(x, relax.const(infinity, x.ty.dtype)))


@converter(ATEN.scalar_tensor.default)
def convert_scalar_tensor(call: Call) -> Expr:
    """`aten::scalar_tensor(s, *, dtype)`; the number may be computed from sizes."""
    return call.scalar(call.operands.s, dtype_name(call.node.meta["val"].dtype))


def _times(call: Call, x: Expr, factor: Any) -> Expr:
    return x if factor == 1 else call.emit(relax.op.multiply(x, call.scalar(factor, x.ty.dtype)))
