"""Convert divisions that round and their remainders, as PyTorch computes them."""

from __future__ import annotations

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax


@converter(ATEN.floor_divide.default)
def convert_floor_divide(call: Call) -> Expr:
    """`aten::floor_divide(self, other)`; of floats the quotient that `remainder` belongs to."""
    x, y = call.tensors()
    emit = call.emit
    if isinstance(call.operands.other, int) and not _is_float(x):
        return emit(relax.op.floor_divide(x, y))
    if not _is_float(x):
        quotient = _integer_quotient(call, x, y)
        rest = emit(relax.op.mod(x, _divisor(call, y)))
        less = emit(relax.op.subtract(quotient, relax.const(1, x.ty.dtype)))
        return emit(relax.op.where(_signs_differ(call, rest, y), less, quotient))
    zero, half, one = (relax.const(value, x.ty.dtype) for value in (0.0, 0.5, 1.0))
    rest = emit(relax.op.mod(x, y))
    exact = emit(relax.op.divide(emit(relax.op.subtract(x, rest)), y))
    exact = emit(relax.op.where(_signs_differ(call, rest, y), emit(relax.op.subtract(exact, one)), exact))
    floor = emit(relax.op.floor(exact))
    off = emit(relax.op.greater(emit(relax.op.subtract(exact, floor)), half))
    floor = emit(relax.op.where(off, emit(relax.op.add(floor, one)), floor))
    quotient = emit(relax.op.divide(x, y))
    signed_zero = emit(relax.op.trunc(emit(relax.op.multiply(quotient, half))))
    floor = emit(relax.op.where(emit(relax.op.equal(exact, zero)), signed_zero, floor))
    return emit(relax.op.where(emit(relax.op.equal(y, zero)), quotient, floor))


@converter(ATEN.div.Tensor_mode)
def convert_div_mode(call: Call) -> Expr:
    """`aten::div(self, other, *, rounding_mode)`; either may be a number."""
    x, y = call.tensors()
    mode = call.operands.rounding_mode
    if mode == "floor":
        return convert_floor_divide(call)
    if mode == "trunc" and not _is_float(x):
        return _integer_quotient(call, x, y)
    quotient = call.emit(relax.op.divide(x, y))
    return quotient if mode is None else call.emit(relax.op.trunc(quotient))


@converter(ATEN.div.Scalar_mode)
def convert_div_scalar_mode(call: Call) -> Expr:
    """`aten::div(self, other, *, rounding_mode)` with a number."""
    return convert_div_mode(call)


@converter(ATEN.remainder.Tensor)
def convert_remainder(call: Call) -> Expr:
    """`aten::remainder(self, other)`: has the sign of the divisor."""
    x, y = call.tensors()
    emit = call.emit
    if isinstance(call.operands.other, int) and not _is_float(x):
        return emit(relax.op.floor_mod(x, y))
    rest = convert_fmod(call)
    return emit(relax.op.where(_signs_differ(call, rest, y), emit(relax.op.add(rest, y)), rest))


@converter(ATEN.remainder.Scalar)
def convert_remainder_scalar(call: Call) -> Expr:
    """`aten::remainder(self, other)` with a number."""
    return convert_remainder(call)


@converter(ATEN.remainder.Scalar_Tensor)
def convert_remainder_of_scalar(call: Call) -> Expr:
    """`aten::remainder(self, other)` of a number."""
    return convert_remainder(call)


@converter(ATEN.fmod.Tensor)
def convert_fmod(call: Call) -> Expr:
    """`aten::fmod(self, other)`: has the sign of the dividend."""
    x, y = call.tensors()
    return call.emit(relax.op.mod(x, y if _is_float(x) else _divisor(call, y)))


@converter(ATEN.fmod.Scalar)
def convert_fmod_scalar(call: Call) -> Expr:
    """`aten::fmod(self, other)` with a number."""
    return convert_fmod(call)


def _signs_differ(call: Call, rest: Expr, y: Expr) -> Expr:
    """Whether a remainder is not 0 and has another sign than the divisor."""
    emit, zero = call.emit, call.scalar(0, rest.ty.dtype)
    above, below = emit(relax.op.greater(rest, zero)), emit(relax.op.less(rest, zero))
    negative, positive = emit(relax.op.less(y, zero)), emit(relax.op.greater(y, zero))
    first, second = emit(relax.op.logical_and(above, negative)), emit(relax.op.logical_and(below, positive))
    return emit(relax.op.logical_or(first, second))


def _integer_quotient(call: Call, x: Expr, y: Expr) -> Expr:
    """The quotient of integers, rounded towards 0; no promise about a quotient by 0."""
    emit = call.emit
    quotient = emit(relax.op.divide(x, _divisor(call, y)))
    if isinstance(call.operands.other, int) or not _is_signed(y):
        return quotient
    minus = emit(relax.op.equal(y, relax.const(-1, y.ty.dtype)))
    return emit(relax.op.where(minus, emit(relax.op.negative(x)), quotient))


def _divisor(call: Call, y: Expr) -> Expr:
    """An integer divisor that the processor can divide by: 1 in place of 0 and -1.

    A quotient by 0, and that of the smallest integer by -1, end the process.
    """
    if isinstance(call.operands.other, int):
        return y
    emit, dtype = call.emit, y.ty.dtype
    one, trap = relax.const(1, dtype), emit(relax.op.equal(y, relax.const(0, dtype)))
    if _is_signed(y):
        trap = emit(relax.op.logical_or(trap, emit(relax.op.equal(y, relax.const(-1, dtype)))))
    return emit(relax.op.where(trap, one, y))


def _is_float(x: Expr) -> bool:
    return str(x.ty.dtype).startswith(("float", "bfloat"))


def _is_signed(x: Expr) -> bool:
    return str(x.ty.dtype).startswith("int")
