"""Convert divisions that round and their remainders, as PyTorch computes them."""

from __future__ import annotations

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax

_NUMBERS = (bool, int, float)


@converter(ATEN.floor_divide.default)
def convert_floor_divide(call: Call) -> Expr:
    """`aten::floor_divide(self, other)`; of floats the quotient that `remainder` belongs to."""
    x, y = _tensors(call)
    emit = call.emit
    if not _is_float(x):
        return _without_trap(call, x, y, emit(relax.op.floor_divide(x, _divisor(call, y))))
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
    x, y = _tensors(call)
    mode = call.operands.rounding_mode
    if mode == "floor":
        return convert_floor_divide(call)
    if mode == "trunc" and not _is_float(x):
        return _without_trap(call, x, y, call.emit(relax.op.divide(x, _divisor(call, y))))
    quotient = call.emit(relax.op.divide(x, y))
    return quotient if mode is None else call.emit(relax.op.trunc(quotient))


@converter(ATEN.div.Scalar_mode)
def convert_div_scalar_mode(call: Call) -> Expr:
    """`aten::div(self, other, *, rounding_mode)` with a number."""
    return convert_div_mode(call)


@converter(ATEN.remainder.Tensor)
def convert_remainder(call: Call) -> Expr:
    """`aten::remainder(self, other)`: has the sign of the divisor."""
    x, y = _tensors(call)
    emit = call.emit
    if not _is_float(x):
        return emit(relax.op.floor_mod(x, _divisor(call, y)))
    rest = emit(relax.op.mod(x, y))
    return emit(relax.op.where(_signs_differ(call, rest, y), emit(relax.op.add(rest, y)), rest))


@converter(ATEN.remainder.Scalar)
def convert_remainder_scalar(call: Call) -> Expr:
    """`aten::remainder(self, other)` with a number."""
    return convert_remainder(call)


@converter(ATEN.fmod.Tensor)
def convert_fmod(call: Call) -> Expr:
    """`aten::fmod(self, other)`: has the sign of the dividend."""
    x, y = _tensors(call)
    return call.emit(relax.op.mod(x, y if _is_float(x) else _divisor(call, y)))


@converter(ATEN.fmod.Scalar)
def convert_fmod_scalar(call: Call) -> Expr:
    """`aten::fmod(self, other)` with a number."""
    return convert_fmod(call)


def _signs_differ(call: Call, rest: Expr, y: Expr) -> Expr:
    """Whether a remainder is not 0 and has another sign than the divisor."""
    emit, zero = call.emit, relax.const(0.0, rest.ty.dtype)
    above, below = emit(relax.op.greater(rest, zero)), emit(relax.op.less(rest, zero))
    negative, positive = emit(relax.op.less(y, zero)), emit(relax.op.greater(y, zero))
    first, second = emit(relax.op.logical_and(above, negative)), emit(relax.op.logical_and(below, positive))
    return emit(relax.op.logical_or(first, second))


def _divisor(call: Call, y: Expr) -> Expr:
    """An integer divisor that the processor can divide by: 1 in place of 0 and -1.

    A quotient by 0, and that of the smallest integer by -1, end the process.
    """
    if isinstance(call.operands.other, _NUMBERS):
        return y
    emit, dtype = call.emit, y.ty.dtype
    zero = emit(relax.op.equal(y, relax.const(0, dtype)))
    if not str(dtype).startswith("int"):
        return emit(relax.op.where(zero, relax.const(1, dtype), y))
    minus = emit(relax.op.equal(y, relax.const(-1, dtype)))
    return emit(relax.op.where(emit(relax.op.logical_or(zero, minus)), relax.const(1, dtype), y))


def _without_trap(call: Call, x: Expr, y: Expr, quotient: Expr) -> Expr:
    """The quotient by `y` from the one by `_divisor(y)`."""
    if isinstance(call.operands.other, _NUMBERS) or not str(y.ty.dtype).startswith("int"):
        return quotient
    minus = call.emit(relax.op.equal(y, relax.const(-1, y.ty.dtype)))
    return call.emit(relax.op.where(minus, call.emit(relax.op.negative(x)), quotient))


def _tensors(call: Call) -> tuple[Expr, Expr]:
    """Both operands, numbers as constants of the dtype of the other one."""
    x, y = call.operands.self, call.operands.other
    if isinstance(x, _NUMBERS):
        return relax.const(x, y.ty.dtype), y
    return x, relax.const(y, x.ty.dtype) if isinstance(y, _NUMBERS) else y


def _is_float(x: Expr) -> bool:
    return str(x.ty.dtype).startswith(("float", "bfloat"))
