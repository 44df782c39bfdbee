"""Activation functions in float32, as kernels and for the epilogues of linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit, float_math
from tbt_compile.codegen.kernels.dsl.loops import for_lanes, parallel_rows
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T
from tbt_compile.errors import LoweringError


@dataclass(frozen=True)
class ActivationSpec:
    """An elementwise function.

    Attributes:
        function: one of `ACTIVATIONS`.
        d: size of the last dimension.
        isa: instruction set to schedule for.
    """

    function: str
    d: int
    isa: Isa


def activation(spec: ActivationSpec) -> PrimFunc:
    """An elementwise function on M rows.

    Arguments:
        x: float32 [M, D]
        y: float32 [M, D], the output

    Raises:
        LoweringError: the function is not one of `ACTIVATIONS`.
    """
    if spec.function not in ACTIVATIONS:
        raise LoweringError(f"activation {spec.function!r}: expected one of {', '.join(ACTIVATIONS)}")
    return emit.function(spec.function, lambda: _activation(spec))


def _activation(spec: ActivationSpec) -> None:
    rows = emit.symbol("m")
    x = emit.argument("x", (rows, spec.d), "float32")
    y = emit.argument("y", (rows, spec.d), "float32")
    function = ACTIVATIONS[spec.function]

    def row(m: Expr) -> None:
        def write(k: Expr, lanes: int) -> None:
            emit.store(y, function(emit.let(emit.load(x, m, k, lanes=lanes)), lanes), m, k, lanes=lanes)

        for_lanes(spec.d, spec.isa.float_lanes, write)

    parallel_rows(rows, rows * spec.d, row)


def _gelu(x: Expr, lanes: int) -> Expr:
    half, one = emit.splat(T.float32(0.5), lanes), emit.splat(T.float32(1), lanes)
    return half * x * (one + float_math.erf(x * emit.splat(T.float32(0.7071067811865476), lanes), lanes))


def _gelu_tanh(x: Expr, lanes: int) -> Expr:
    cubic = emit.splat(T.float32(0.044715), lanes) * (x * x * x)
    inner = emit.splat(T.float32(0.7978845608028654), lanes) * (x + cubic)
    half, one = emit.splat(T.float32(0.5), lanes), emit.splat(T.float32(1), lanes)
    return half * x * (one + float_math.tanh(inner, lanes))


def _silu(x: Expr, lanes: int) -> Expr:
    y = x / (emit.splat(T.float32(1), lanes) + float_math.exp(-x, lanes))
    # PyTorch divides -inf by the exponential of inf; that of `float_math` is finite.
    lowest = emit.splat(T.float32("-inf"), lanes)
    return T.Select(x == lowest, emit.splat(T.float32("nan"), lanes), y)


def _relu(x: Expr, lanes: int) -> Expr:
    return T.max(emit.splat(T.float32(0), lanes), x)


def _exp(x: Expr, lanes: int) -> Expr:
    """e^x up to infinity; that of `float_math`, for softmax, ends at e^88."""
    root = emit.let(float_math.exp(emit.let(x * emit.splat(T.float32(0.5), lanes)), lanes))
    large = x > emit.splat(T.float32(float_math.EXP_MAX), lanes)
    return T.Select(large, root * root, float_math.exp(x, lanes))


def _sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e^-x), and 0 of -inf, which the exponential of `float_math` does not reach."""
    lowest, zero = (emit.splat(T.float32(value), lanes) for value in ("-inf", 0.0))
    return T.Select(x == lowest, zero, float_math.sigmoid(x, lanes))


def _or_nan(function: Callable[[Expr, int], Expr]) -> Callable[[Expr, int], Expr]:
    """The function, but NaN of NaN: the operands of a minimum, which LLVM may swap, decide about it."""

    def whole(x: Expr, lanes: int) -> Expr:
        x = emit.let(x)
        y = emit.let(function(x, lanes))
        return T.Select(float_math.is_nan(x, lanes), x, y)

    return whole


ACTIVATIONS: dict[str, Callable[[Expr, int], Expr]] = {
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "tanh": _or_nan(float_math.tanh),
    "exp": _or_nan(_exp),
    "erf": _or_nan(float_math.erf),
    "sigmoid": _or_nan(_sigmoid),
    "log": _or_nan(float_math.log),
    "sin": _or_nan(float_math.sin),
    "cos": _or_nan(float_math.cos),
}
