"""Elementary functions on float32 vectors.

TVM's exp and erf call the C library once per element. These are near-minimax polynomials, fitted with
Lawson's algorithm; the error bounds below are measured over the whole range against float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Expr, T

EXP_RELATIVE_ERROR = 2e-7
ERF_ABSOLUTE_ERROR = 2.5e-7
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
_NEWTON_STEPS = 3
_POWERS = 4
_EXP_MIN = -87.33
_EXP_MAX = 88.0


def exp(x: Expr, lanes: int) -> Expr:
    """e^x, with a relative error of at most `EXP_RELATIVE_ERROR`; 0 below -87.33 and e^88 above 88.

    Very negative x give an exact zero, not a denormal: a masked position has no weight at all.
    """
    x = emit.let(x)
    bounded = emit.let(T.max(_f32(_EXP_MIN, lanes), T.min(_f32(_EXP_MAX, lanes), x)))
    whole = emit.let(T.nearbyint(bounded * _f32(_LOG2_E, lanes)))
    rest = emit.let(bounded - whole * _f32(_LN2_HIGH, lanes) - whole * _f32(_LN2_LOW, lanes))
    value = _polynomial(_EXP, rest, lanes) * (rest * rest) + rest + _f32(1.0, lanes)
    return T.Select(x < _f32(_EXP_MIN, lanes), _f32(0.0, lanes), value * _power_of_two(whole, lanes))


def log(x: Expr) -> Expr:
    """The natural logarithm of one positive, finite number; NaN of NaN.

    Newton's method on e^y = x doubles the correct digits with every step; the bits of x give the initial
    value. The error is at most `LOG_ERROR * max(1, |log(x)|)`.
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
    square = T.min(x * x, _f32(_ERF_END, lanes))
    ratio = _blocks_of_powers(_ERF, emit.let(square - _f32(_ERF_END / 2, lanes)), lanes)
    return T.max(T.min(x * ratio, _f32(1.0, lanes)), _f32(-1.0, lanes))


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
            block = power * _f32(coefficient, lanes) + block
        result = emit.let(block if result is None else result * powers[-1] + block)
    return emit.let(result + _f32(coefficients[0], lanes))
