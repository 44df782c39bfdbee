"""The float operations as docs/numerics.md defines them, in NumPy, for comparison bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.kernels.dsl import float_math

Floats = npt.NDArray[np.float32]

f32, f64 = np.float32, np.float64
LANES = 16


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """a * b + c of float32, rounded once.

    The product is exact in float64. The sum is rounded to odd there, which keeps the second rounding, to
    float32, from going another way than one rounding would (Boldo and Melquiond 2008).
    """
    with np.errstate(all="ignore"):
        product = np.multiply(a, b, dtype=f64)
        addend = np.asarray(c, f64)
        total = np.asarray(product + addend)
        # TwoSum (Knuth): the error of the sum, exactly.
        part = total - product
        error = (product - (total - part)) + (addend - part)
        bits = total.view(np.int64)
        inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
        toward = np.where((error > 0) == (total > 0), 1, -1)
        return np.where(inexact, bits + toward, bits).view(f64).astype(f32)


def fma64(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """a * b + c of float64, rounded once, in exact integers."""
    from fractions import Fraction

    def one(x: float, y: float, z: float) -> float:
        if not all(map(math.isfinite, (x, y, z))):
            return x * y + z
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        return exact.numerator / exact.denominator if exact else x * y + z

    return np.vectorize(one, otypes=[f64])(a, b, c)


def polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """Horner's scheme."""
    result = np.full_like(x, f32(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        result = fma(result, x, f32(coefficient))
    return result


def exp(x: Floats) -> Floats:
    """e^x."""
    bounded = np.maximum(f32(float_math._EXP_MIN), np.minimum(f32(float_math.EXP_MAX), x))
    whole = np.rint(bounded * f32(float_math._LOG2_E))
    rest = fma(whole, -f32(float_math._LN2_HIGH), bounded)
    rest = fma(whole, -f32(float_math._LN2_LOW), rest)
    value = fma(polynomial(float_math._EXP, rest), rest * rest, rest) + f32(1)
    value = value * np.ldexp(f32(1), whole.astype(np.int32))
    return np.where(x < f32(float_math._EXP_MIN), f32(0), value)


def exp_to_infinity(x: Floats) -> Floats:
    """e^x; twice the root where `exp` ends."""
    with np.errstate(over="ignore"):
        root = exp(x * f32(0.5))
        return np.where(x > f32(float_math.EXP_MAX), root * root, exp(x))


def erf(x: Floats) -> Floats:
    """The error function."""
    square = np.minimum(x * x, f32(float_math._ERF_END)) - f32(float_math._ERF_END / 2)
    powers = [square]
    for _ in range(3):
        powers.append(powers[-1] * square)
    result = None
    coefficients = [f32(c) for c in float_math._ERF]
    for start in (13, 9, 5, 1):
        block = coefficients[start] * powers[0]
        for coefficient, power in zip(coefficients[start + 1 : start + 4], powers[1:], strict=False):
            block = fma(power, coefficient, block)
        result = block if result is None else fma(result, powers[-1], block)
    return np.maximum(np.minimum(x * (result + coefficients[0]), f32(1)), f32(-1))


def tanh(x: Floats) -> Floats:
    """The hyperbolic tangent."""
    square = x * x
    small = fma(x * square, polynomial(float_math._TANH, square), x)
    large = f32(1) - f32(2) / (exp(x * f32(2)) + f32(1))
    return np.where(square < f32(float_math._TANH_END), small, large)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + exp(-x))


def silu(x: Floats) -> Floats:
    """x * sigmoid(x)."""
    return x / (f32(1) + exp(-x))


def gelu(x: Floats) -> Floats:
    """x times the normal distribution function."""
    return f32(0.5) * x * (f32(1) + erf(x * f32(0.7071067811865476)))


def gelu_tanh(x: Floats) -> Floats:
    """The approximation of `gelu` by tanh."""
    inner = f32(0.7978845608028654) * (x + f32(0.044715) * (x * x * x))
    return f32(0.5) * x * (f32(1) + tanh(inner))


def log(x: Floats) -> Floats:
    """The natural logarithm."""
    mantissa, exponent = np.frexp(x.astype(f64))
    low = mantissa < math.sqrt(0.5)
    m, n = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (m - 1) / (m + 1)
    series = np.full_like(s, 2 / (2 * float_math._LOG_TERMS + 1))
    for term in reversed(range(float_math._LOG_TERMS)):
        series = fma64(series, s * s, 2 / (2 * term + 1))
    return fma64(n.astype(f64), float_math._LN2, series * s).astype(f32)


def sin(x: Floats, quarters: int = 0) -> Floats:
    """The sine of x + quarters * pi / 2."""
    wide = x.astype(f64)
    whole = np.rint(wide * (2 / math.pi))
    r = fma64(whole, -float_math._HALF_PI_LOW, fma64(whole, -float_math._HALF_PI, wide)).astype(f32)
    square = r * r
    sine = fma(r * square, polynomial(float_math._SIN, square), r)
    cosine = fma(square, polynomial(float_math._COS, square), f32(1))
    quarter = whole.astype(np.int64) + quarters
    value = np.where(quarter & 1, cosine, sine)
    return np.where(quarter & 2, -value, value)


def cos(x: Floats) -> Floats:
    """The cosine."""
    return sin(x, 1)


def relu(x: Floats) -> Floats:
    """max(x, 0)."""
    return np.maximum(x, f32(0))


FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    function.__name__: function
    for function in (relu, gelu, gelu_tanh, silu, tanh, erf, sigmoid, log, sin, cos)
} | {"exp": exp_to_infinity}


def halves(partial: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The sum of 16 partial sums [..., 16]: 0 with 8, 1 with 9, ... down to one."""
    while partial.shape[-1] > 1:
        half = partial.shape[-1] // 2
        partial = partial[..., :half] + partial[..., half:]
    return partial[..., 0]


def groups(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Rows [..., K] as groups of 16, [..., ceil(K / 16), 16], filled with zeros."""
    missing = -x.shape[-1] % LANES
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], missing), x.dtype)], -1)
    return padded.reshape(*x.shape[:-1], -1, LANES)


def total(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The sums of rows [..., K]."""
    grouped = groups(x)
    partial = np.zeros_like(grouped[..., 0, :])
    for k in range(grouped.shape[-2]):
        partial = partial + grouped[..., k, :]
    return halves(partial)


def dot(x: Floats, w: Floats) -> Floats:
    """x @ w.T of [M, K] and [N, K]."""
    left, right = groups(x)[:, None], groups(w)[None]
    partial = np.zeros((len(x), len(w), LANES), f32)
    for k in range(left.shape[-2]):
        partial = fma(left[..., k, :], right[..., k, :], partial)
    return halves(partial)


def layer_norm(x: Floats, gamma: Floats, beta: Floats, eps: float) -> Floats:
    """Layer norm of rows [..., D]."""
    size = f32(x.shape[-1])
    deviation = x - (total(x) / size)[..., None]
    factor = f32(1) / np.sqrt(total(deviation * deviation) / size + f32(eps))
    return deviation * factor[..., None] * gamma + beta


def rms_norm(x: Floats, gamma: Floats, eps: float) -> Floats:
    """RMS norm of rows [..., D]."""
    factor = f32(1) / np.sqrt(total(x * x) / f32(x.shape[-1]) + f32(eps))
    return x * factor[..., None] * gamma


def softmax(x: Floats) -> Floats:
    """Softmax of rows [..., T]."""
    weights = exp(x - x.max(-1, keepdims=True))
    units = (weights * f32(2**28)).astype(np.int64)
    return weights * (f32(1) / (units.sum(-1).astype(f32) * f32(2.0**-28)))[..., None]


def log_softmax(x: Floats) -> Floats:
    """Log-softmax of rows [..., V]."""
    peak = x.max(-1, keepdims=True)
    return x - peak - log(total(exp(x - peak)))[..., None]
