"""Elementary functions on float32 vectors.

TVM's exp and erf call the C library once per element. These are near-minimax polynomials, fitted with
Lawson's algorithm; the error bounds below are measured over the whole range against float64. Their results
are the same on every CPU: the order of operations is fixed, and which of them are FMA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Expr, T

EXP_RELATIVE_ERROR = 2e-7
ERF_ABSOLUTE_ERROR = 2.5e-7
TANH_ABSOLUTE_ERROR = 3e-7
LOG_ERROR = 0.51
SIN_ABSOLUTE_ERROR = 1.2e-7
SIGMOID_RELATIVE_ERROR = 3e-7

# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
_EXP = (
    0.4999999403953552,
    0.1666651964187622,
    0.04166839271783829,
    0.008368780836462975,
    0.0013814467238262296,
)
# erf(x) / x in powers of x^2 - _ERF_END / 2, for x^2 <= _ERF_END; beyond that, erf is within 1.6e-7 of 1
_ERF = (
    0.38130539655685425,
    -0.02764652855694294,
    0.002973574446514249,
    -0.00034628098364919424,
    4.054471355630085e-05,
    -4.6056816245254595e-06,
    4.953102461513481e-07,
    -4.958078392292009e-08,
    4.7429029592649385e-09,
    -4.453001578585969e-10,
    3.4343059646113616e-11,
    -1.800623018743952e-12,
    1.6664387968504113e-13,
    -2.3786685850722168e-14,
    1.2621506656929505e-15,
)
_ERF_END = 13.75
_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# ln(2) as a sum (Cody-Waite): the high part has few bits, so n * _LN2_HIGH is exact
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
# (tanh(x) - x) / x^3 in powers of x^2, for x^2 < _TANH_END (Cephes)
_TANH = (-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3)
_TANH_END = 0.390625
# (sin(r) - r) / r^3 and (cos(r) - 1) / r^2 in powers of r^2, for |r| <= pi / 4
_SIN = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
_COS = (-0.5, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)
_HALF_PI = 1.5707963267948966
_HALF_PI_LOW = 6.123233995736766e-17
_ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2) in float64
_MANTISSA = 52
_LOG_TERMS = 11
_POWERS = 4
_EXP_MIN = -87.33
EXP_MAX = 88.0
"""`exp` of anything above is e^88."""


def exp(x: Expr, lanes: int, shift: int = 0) -> Expr:
    """e^x * 2^shift, with a relative error of at most `EXP_RELATIVE_ERROR`; 0 below -87.33, e^88 above 88.

    Very negative x give an exact zero, not a denormal: a masked position has no weight at all.

    Args:
        x: float32, a vector of `lanes`; with a shift not above 0.
        lanes: lanes of the vector.
        shift: not negative.

    Returns:
        float32, a vector of `lanes`.
    """
    x = emit.let(x)
    bounded = emit.let(T.max(_f32(_EXP_MIN, lanes), T.min(_f32(EXP_MAX, lanes), x)))
    whole = emit.let(T.nearbyint(bounded * _f32(_LOG2_E, lanes)))
    high = emit.fma(whole, _f32(-_LN2_HIGH, lanes), bounded)
    rest = emit.let(emit.fma(whole, _f32(-_LN2_LOW, lanes), high))
    value = emit.fma(_polynomial(_EXP, rest, lanes), rest * rest, rest) + _f32(1.0, lanes)
    return T.Select(x < _f32(_EXP_MIN, lanes), _f32(0.0, lanes), value * _power_of_two(whole, lanes, shift))


def log(x: Expr, lanes: int) -> Expr:
    """The natural logarithm, computed in float64: within `LOG_ERROR` units in the last place.

    -inf of 0, NaN of negative numbers and NaN.
    """
    x = emit.let(x)
    wide = emit.let(emit.cast(x, "float64", lanes))
    # x = 2^n * m with m in [sqrt(1/2), sqrt(2)): float64 has no denormals of float32.
    bits = emit.let(T.reinterpret(emit.vector("int64", lanes), wide))
    above = emit.let(bits - emit.splat(T.int64(_ROOT_HALF), lanes))
    exponent = emit.let(above >> emit.splat(T.int64(_MANTISSA), lanes))
    mantissa = bits - (exponent << emit.splat(T.int64(_MANTISSA), lanes))
    m = emit.let(T.reinterpret(emit.vector("float64", lanes), emit.let(mantissa)))
    # log(m) = 2 atanh(s)
    s = emit.let((m - _f64(1.0, lanes)) / (m + _f64(1.0, lanes)))
    square = emit.let(s * s)
    series = _f64(2.0 / (2 * _LOG_TERMS + 1), lanes)
    for term in reversed(range(_LOG_TERMS)):
        series = emit.fma(series, square, _f64(2.0 / (2 * term + 1), lanes))
    whole = emit.cast(exponent, "float64", lanes)
    y = emit.let(emit.cast(emit.fma(whole, _f64(_LN2, lanes), series * s), "float32", lanes))
    infinity, nan = _f32(math.inf, lanes), _f32(math.nan, lanes)
    y = T.Select(x == infinity, infinity, T.Select(x == _f32(0.0, lanes), -infinity, y))
    return T.Select(x >= _f32(0.0, lanes), y, nan)


def sin(x: Expr, lanes: int) -> Expr:
    """The sine, with an absolute error of at most `SIN_ABSOLUTE_ERROR` for |x| below 2^20; NaN of inf."""
    return _circular(x, lanes, 0)


def cos(x: Expr, lanes: int) -> Expr:
    """The cosine; as `sin`."""
    return _circular(x, lanes, 1)


def _circular(x: Expr, lanes: int, quarters: int) -> Expr:
    """The sine of x + quarters * pi / 2; x is reduced to |r| <= pi / 4 in float64."""
    wide = emit.let(emit.cast(emit.let(x), "float64", lanes))
    whole = emit.let(T.nearbyint(wide * _f64(2.0 / math.pi, lanes)))
    high = emit.fma(whole, _f64(-_HALF_PI, lanes), wide)
    r = emit.let(emit.cast(emit.fma(whole, _f64(-_HALF_PI_LOW, lanes), high), "float32", lanes))
    square = emit.let(r * r)
    sine = emit.let(emit.fma(emit.let(r * square), _polynomial(_SIN, square, lanes), r))
    cosine = emit.let(emit.fma(square, _polynomial(_COS, square, lanes), _f32(1.0, lanes)))
    bounded = T.max(T.min(whole, _f64(2.0**62, lanes)), _f64(-(2.0**62), lanes))
    quarter = emit.let(emit.cast(bounded, "int64", lanes) + emit.splat(T.int64(quarters), lanes))
    zero = emit.splat(T.int64(0), lanes)
    value = emit.let(T.Select((quarter & emit.splat(T.int64(1), lanes)) == zero, sine, cosine))
    return T.Select((quarter & emit.splat(T.int64(2), lanes)) == zero, value, -value)


def erf(x: Expr, lanes: int) -> Expr:
    """The error function, with an absolute error of at most `ERF_ABSOLUTE_ERROR`."""
    x = emit.let(x)
    square = T.min(x * x, _f32(_ERF_END, lanes))
    ratio = _blocks_of_powers(_ERF, emit.let(square - _f32(_ERF_END / 2, lanes)), lanes)
    return T.max(T.min(x * ratio, _f32(1.0, lanes)), _f32(-1.0, lanes))


def tanh(x: Expr, lanes: int) -> Expr:
    """The hyperbolic tangent, with an absolute error of at most `TANH_ABSOLUTE_ERROR`."""
    x = emit.let(x)
    square = emit.let(x * x)
    small = emit.fma(emit.let(x * square), _polynomial(_TANH, square, lanes), x)
    large = _f32(1.0, lanes) - _f32(2.0, lanes) / (exp(x * _f32(2.0, lanes), lanes) + _f32(1.0, lanes))
    return T.Select(square < _f32(_TANH_END, lanes), small, large)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e^-x), with a relative error of at most `SIGMOID_RELATIVE_ERROR` for x above -87."""
    return _f32(1.0, lanes) / (_f32(1.0, lanes) + exp(-emit.let(x), lanes))


def is_nan(x: Expr, lanes: int) -> Expr:
    """Whether lanes are NaN, by their bits: TVM and LLVM fold comparisons that are false of NaN only."""
    bits = emit.let(T.reinterpret(emit.vector("int32", lanes), x))
    magnitude = bits & emit.splat(T.int32(0x7FFFFFFF), lanes)
    return magnitude > emit.splat(T.int32(0x7F800000), lanes)


def _power_of_two(whole: Expr, lanes: int, shift: int) -> Expr:
    """2^(n + shift) for whole numbers n in float32 lanes; the sum is from -126 to 127."""
    biased = emit.cast(whole, "int32", lanes) + emit.splat(T.int32(127 + shift), lanes)
    return T.reinterpret(emit.vector("float32", lanes), biased << emit.splat(T.int32(23), lanes))


def _f32(value: float, lanes: int) -> Expr:
    return emit.splat(T.float32(value), lanes)


def _f64(value: float, lanes: int) -> Expr:
    return emit.splat(T.float64(value), lanes)


def _polynomial(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    result = _f32(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = emit.fma(result, x, _f32(coefficient, lanes))
    return emit.let(result)


def _blocks_of_powers(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    """A long polynomial in blocks of four powers of x, with Horner's scheme over the blocks.

    Most multiplications are independent. On AArch64, where FMA overwrites the addend, a block needs no copies
    of its coefficients.
    """
    powers = [x]
    for _ in range(_POWERS - 1):
        powers.append(emit.let(powers[-1] * x))
    result = None
    for start in reversed(range(1, len(coefficients), _POWERS)):
        block = _f32(coefficients[start], lanes) * powers[0]
        for coefficient, power in zip(coefficients[start + 1 : start + _POWERS], powers[1:], strict=False):
            block = emit.fma(power, _f32(coefficient, lanes), block)
        result = emit.let(block if result is None else emit.fma(result, powers[-1], block))
    return emit.let(result + _f32(coefficients[0], lanes))
