"""Convert comparisons, and what bounds its operand: clamps, elementwise maxima and minima, relu and its kin.

TVM compiles `max(a, b)` to `a > b ? a : b`, which is `b` if either is NaN: one `maxps` that keeps the NaN of
its second operand. So constants come first.
"""

from __future__ import annotations

import math
from typing import Any

from tbt_compile.codegen.importer.float_bits import has_keys
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax


@converter(ATEN.relu.default)
def convert_relu(call: Call) -> Expr:
    """`aten::relu(self)`."""
    return _bounded(call, call.operands.self, 0, None)


@converter(ATEN.relu6.default)
def convert_relu6(call: Call) -> Expr:
    """`aten::relu6(self)`: min(max(x, 0), 6)."""
    return _bounded(call, call.operands.self, 0, 6)


@converter(ATEN.hardtanh.default)
def convert_hardtanh(call: Call) -> Expr:
    """`aten::hardtanh(self, min_val, max_val)`: a clamp."""
    return _bounded(call, call.operands.self, call.operands.min_val, call.operands.max_val)


@converter(ATEN.hardsigmoid.default)
def convert_hardsigmoid(call: Call) -> Expr:
    """`aten::hardsigmoid(self)`: clamp(x + 3, 0, 6) / 6."""
    x, dtype = call.operands.self, str(call.operands.self.ty.dtype)
    bounded = _bounded(call, call.emit(relax.op.add(x, relax.const(3.0, dtype))), 0, 6)
    return call.emit(relax.op.divide(bounded, relax.const(6.0, dtype)))


@converter(ATEN.hardswish.default)
def convert_hardswish(call: Call) -> Expr:
    """`aten::hardswish(self)`: x * hardsigmoid(x)."""
    return call.emit(relax.op.multiply(call.operands.self, convert_hardsigmoid(call)))


@converter(ATEN.clamp.default)
def convert_clamp(call: Call) -> Expr:
    """`aten::clamp(self, min, max)`; either may be None."""
    return _bounded(call, call.operands.self, call.operands.min, call.operands.max)


@converter(ATEN.clamp_min.default)
def convert_clamp_min(call: Call) -> Expr:
    """`aten::clamp_min(self, min)`."""
    return _bounded(call, call.operands.self, call.operands.min, None)


@converter(ATEN.clamp_max.default)
def convert_clamp_max(call: Call) -> Expr:
    """`aten::clamp_max(self, max)`."""
    return _bounded(call, call.operands.self, None, call.operands.max)


@converter(ATEN.clamp.Tensor)
def convert_clamp_tensor(call: Call) -> Expr:
    """`aten::clamp(self, min, max)` with tensors; either may be None."""
    x, low, high = call.operands.self, call.operands.min, call.operands.max
    x = x if low is None else _larger(call, x, low)
    return x if high is None else _smaller(call, x, high)


@converter(ATEN.clamp_min.Tensor)
def convert_clamp_min_tensor(call: Call) -> Expr:
    """`aten::clamp_min(self, min)` with a tensor."""
    return _larger(call, call.operands.self, call.operands.min)


@converter(ATEN.clamp_max.Tensor)
def convert_clamp_max_tensor(call: Call) -> Expr:
    """`aten::clamp_max(self, max)` with a tensor."""
    return _smaller(call, call.operands.self, call.operands.max)


@converter(ATEN.maximum.default)
def convert_maximum(call: Call) -> Expr:
    """`aten::maximum(self, other)`; NaN if either is."""
    return _larger(call, call.operands.self, call.operands.other)


@converter(ATEN.minimum.default)
def convert_minimum(call: Call) -> Expr:
    """`aten::minimum(self, other)`; NaN if either is."""
    return _smaller(call, call.operands.self, call.operands.other)


@converter(ATEN.max.other)
def convert_max_other(call: Call) -> Expr:
    """`aten::max(self, other)`, which is `maximum`."""
    return convert_maximum(call)


@converter(ATEN.min.other)
def convert_min_other(call: Call) -> Expr:
    """`aten::min(self, other)`, which is `minimum`."""
    return convert_minimum(call)


@converter(ATEN.fmax.default)
def convert_fmax(call: Call) -> Expr:
    """`aten::fmax(self, other)`; NaN only if both are."""
    x, y = call.operands.self, call.operands.other
    return _unless_nan(call, y, _extreme(call, x, y, largest=True), x)


@converter(ATEN.fmin.default)
def convert_fmin(call: Call) -> Expr:
    """`aten::fmin(self, other)`; NaN only if both are."""
    x, y = call.operands.self, call.operands.other
    return _unless_nan(call, y, _extreme(call, x, y, largest=False), x)


@converter(ATEN.ne.Tensor)
def convert_ne(call: Call) -> Expr:
    """`aten::ne(self, other)`; true of NaN, for which TVM's comparison is false."""
    x, y = call.operands.self, call.operands.other
    differ = call.emit(relax.op.not_equal(x, y))
    return _or_nan(call, y, _or_nan(call, x, differ))


@converter(ATEN.ne.Scalar)
def convert_ne_scalar(call: Call) -> Expr:
    """`aten::ne(self, other)` with a number; true of NaN, for which TVM's comparison is false."""
    x = call.operands.self
    differ = call.emit(relax.op.not_equal(x, call.scalar(call.operands.other, x.ty.dtype)))
    return _or_nan(call, x, differ)


def _bounded(call: Call, x: Expr, low: Any, high: Any) -> Expr:
    """`x` between two numbers, either of which may be None; `high` if they are in the wrong order."""
    if any(isinstance(bound, float) and math.isnan(bound) for bound in (low, high)):
        return call.emit(relax.op.multiply(x, call.scalar(math.nan, x.ty.dtype)))
    x = x if low is None else call.emit(relax.op.maximum(call.scalar(low, x.ty.dtype), x))
    return x if high is None else call.emit(relax.op.minimum(call.scalar(high, x.ty.dtype), x))


def _larger(call: Call, x: Expr, y: Expr) -> Expr:
    return _unless_nan(call, x, _extreme(call, x, y, largest=True), x)


def _smaller(call: Call, x: Expr, y: Expr) -> Expr:
    return _unless_nan(call, x, _extreme(call, x, y, largest=False), x)


def _extreme(call: Call, x: Expr, y: Expr, largest: bool) -> Expr:
    """The elementwise maximum or minimum as TVM has it; of booleans, which it has not, their disjunction or
    conjunction."""
    if str(x.ty.dtype) == "bool":
        return call.emit((relax.op.logical_or if largest else relax.op.logical_and)(x, y))
    return call.emit((relax.op.maximum if largest else relax.op.minimum)(x, y))


def _unless_nan(call: Call, tested: Expr, value: Expr, other: Expr) -> Expr:
    """`value`, or `other` where `tested` is NaN."""
    if not has_keys(str(tested.ty.dtype)):
        return value
    return call.emit(relax.op.where(call.emit(relax.op.isnan(tested)), other, value))


def _or_nan(call: Call, tested: Expr, condition: Expr) -> Expr:
    if not has_keys(str(tested.ty.dtype)):
        return condition
    return call.emit(relax.op.logical_or(condition, call.emit(relax.op.isnan(tested))))
