"""Elementary functions on float32 vectors.

TVM's own exp and erf call the C library once per element. These are polynomials fitted for a small maximum error
(Lawson's algorithm); the errors below are measured over the whole range against float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.tvm_api import Expr, T

EXP_RELATIVE_ERROR = 2e-7
ERF_ABSOLUTE_ERROR = 2e-7
TANH_ABSOLUTE_ERROR = 3e-7

# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
_EXP = (0.4999999403953552, 0.1666651964187622, 0.04166839271783829, 0.008368780836462975, 0.0013814467238262296)
# erf(x) / x - 1 in powers of x^2, for |x| < 1
_ERF_SMALL = (
    0.12837912142276764,
    -0.37612324953079224,
    0.11280179768800735,
    -0.02671130932867527,
    0.004917549900710583,
    -0.0005631415988318622,
)
# ln(1 - erf(x)) for 1 <= x <= 3.95, behind which erf is 1 in float32
_ERF_LARGE = (
    -0.00267170462757349,
    -1.1174384355545044,
    -0.6544889807701111,
    -0.08863415569067001,
    0.014778112061321735,
    -0.001150420866906643,
)
_ERF_END = 3.95
_LOG2_E = 1.4426950408889634
# ln(2) in two parts, the first with few bits, so that n * ln(2) is exact enough
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
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
    exponent = (emit.cast(whole, "int32", lanes) + emit.splat(T.int32(127), lanes)) << emit.splat(T.int32(23), lanes)
    power = T.reinterpret(emit.vector("float32", lanes), exponent)
    return T.Select(x < _f32(_EXP_LEAST, lanes), _f32(0.0, lanes), value * power)


def erf(x: Expr, lanes: int) -> Expr:
    """The error function, with an absolute error of at most `ERF_ABSOLUTE_ERROR`."""
    x = emit.let(x)
    size = emit.let(T.min(T.abs(x), _f32(_ERF_END, lanes)))
    small = x * _polynomial(_ERF_SMALL, emit.let(size * size), lanes) + x
    tail = emit.let(_f32(1.0, lanes) - exp(_polynomial(_ERF_LARGE, size, lanes), lanes))
    large = T.Select(x < _f32(0.0, lanes), -tail, tail)
    return T.Select(size < _f32(1.0, lanes), small, large)


def tanh(x: Expr, lanes: int) -> Expr:
    """The hyperbolic tangent, with an absolute error of at most `TANH_ABSOLUTE_ERROR`."""
    return _f32(1.0, lanes) - _f32(2.0, lanes) / (exp(x * _f32(2.0, lanes), lanes) + _f32(1.0, lanes))


def _f32(value: float, lanes: int) -> Expr:
    return emit.splat(T.float32(value), lanes)


def _polynomial(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    result = _f32(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _f32(coefficient, lanes)
    return emit.let(result)
