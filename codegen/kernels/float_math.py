"""Elementary functions on float32 vectors.

TVM's own exp and erf call the C library once per element. These are polynomials fitted for a small maximum
error (Lawson's algorithm); the errors below are measured over the whole range against float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.tvm_api import Expr, T

EXP_RELATIVE_ERROR = 2e-7
ERF_ABSOLUTE_ERROR = 2e-7
TANH_ABSOLUTE_ERROR = 3e-7
LOG_ERROR = 6e-7

# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
_EXP = (
    0.4999999403953552,
    0.1666651964187622,
    0.04166839271783829,
    0.008368780836462975,
    0.0013814467238262296,
)
# erf(x) / x - 1 in powers of x^2, for |x| < 1
_ERF_SMALL = (
    0.12837912142276764,
    -0.37612324953079224,
    0.11280179768800735,
    -0.02671130932867527,
    0.004917549900710583,
    -0.0005631415988318622,
)
# log2(1 - erf(x)) for 1 <= x <= 3.95, behind which erf is 1 in float32
_ERF_LARGE = (
    -0.0038544549606740475,
    -1.612122893333435,
    -0.9442279934883118,
    -0.1278720498085022,
    0.02132030948996544,
    -0.0016597064677625895,
)
# (2^r - 1) / r for |r| <= 1/2, to 1e-7: enough where the result is subtracted from 1
_EXP2 = (
    0.6931470036506653,
    0.24022240936756134,
    0.0555073507130146,
    0.009671619161963463,
    0.0013264591107144952,
)
_ERF_END = 3.95
_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# ln(2) in two parts, the first with few bits, so that n * ln(2) is exact enough
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_NEWTON_STEPS = 3
_EXP_LEAST = -87.33
_EXP_MOST = 88.0


def exp(x: Expr, lanes: int) -> Expr:
    """e^x, with a relative error of at most `EXP_RELATIVE_ERROR`; 0 below -87.33 and e^88 above 88.

    Zero, not a tiny number, for very negative x: a masked position has no weight at all.
    """
    x = emit.let(x)
    bounded = emit.let(T.max(_f32(_EXP_LEAST, lanes), T.min(_f32(_EXP_MOST, lanes), x)))
    whole = emit.let(T.nearbyint(bounded * _f32(_LOG2_E, lanes)))
    rest = emit.let(bounded - whole * _f32(_LN2_HIGH, lanes) - whole * _f32(_LN2_LOW, lanes))
    value = _polynomial(_EXP, rest, lanes) * (rest * rest) + rest + _f32(1.0, lanes)
    return T.Select(x < _f32(_EXP_LEAST, lanes), _f32(0.0, lanes), value * _power_of_two(whole, lanes))


def log(x: Expr) -> Expr:
    """The natural logarithm of one positive, finite number; NaN of NaN.

    Newton's method on e^y = x doubles the correct digits with every step; the exponent of x gives the first.
    The error is at most `LOG_ERROR` times the larger of 1 and the result.
    """
    x = emit.let(x)
    bits = T.cast(T.reinterpret("int32", x), "float32")
    y = emit.Register("y", "float32", 1, bits * T.float32(2.0**-23 * _LN2) - T.float32(127 * _LN2))
    with emit.loop("newton", _NEWTON_STEPS):
        y.add(x * exp(-y.get(), 1) - T.float32(1))
    return emit.let(y.get())


def erf(x: Expr, lanes: int) -> Expr:
    """The error function, with an absolute error of at most `ERF_ABSOLUTE_ERROR`."""
    x = emit.let(x)
    size = emit.let(T.min(T.abs(x), _f32(_ERF_END, lanes)))
    small = x * _polynomial(_ERF_SMALL, emit.let(size * size), lanes) + x
    log = _polynomial(_ERF_LARGE, size, lanes)
    whole = emit.let(T.nearbyint(log))
    rest = emit.let(log - whole)
    rounded = _polynomial(_EXP2, rest, lanes) * rest + _f32(1.0, lanes)
    tail = emit.let(_f32(1.0, lanes) - rounded * _power_of_two(whole, lanes))
    large = T.Select(x < _f32(0.0, lanes), -tail, tail)
    return T.Select(size < _f32(1.0, lanes), small, large)


def tanh(x: Expr, lanes: int) -> Expr:
    """The hyperbolic tangent, with an absolute error of at most `TANH_ABSOLUTE_ERROR`."""
    return _f32(1.0, lanes) - _f32(2.0, lanes) / (exp(x * _f32(2.0, lanes), lanes) + _f32(1.0, lanes))


def _power_of_two(whole: Expr, lanes: int) -> Expr:
    """2^n for whole numbers n in float32 lanes, -126 <= n <= 127."""
    biased = emit.cast(whole, "int32", lanes) + emit.splat(T.int32(127), lanes)
    return T.reinterpret(emit.vector("float32", lanes), biased << emit.splat(T.int32(23), lanes))


def _f32(value: float, lanes: int) -> Expr:
    return emit.splat(T.float32(value), lanes)


def _polynomial(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    result = _f32(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _f32(coefficient, lanes)
    return emit.let(result)
