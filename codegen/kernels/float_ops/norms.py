"""LayerNorm and RMSNorm in float32, one row at a time, with sums in the order of `dsl.sums`."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit, sums
from tbt_compile.codegen.kernels.dsl.loops import for_lanes, parallel_rows
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T


@dataclass(frozen=True)
class NormSpec:
    """Normalisation over the last dimension.

    Attributes:
        d: size of the last dimension.
        eps: added to the variance or mean square.
        isa: instruction set to schedule for.
        residual: whether a residual input is added to x first.
    """

    d: int
    eps: float
    isa: Isa
    residual: bool = False


def layer_norm(spec: NormSpec) -> PrimFunc:
    """(x - mean) / sqrt(variance + eps) * gamma + beta for M rows.

    Arguments:
        x: float32 [M, D]
        residual: float32 [M, D], only if `spec.residual`; the norm is of x + residual
        gamma: float32 [D]
        beta: float32 [D]
        y: float32 [M, D], the output
    """
    return emit.function("layer_norm", lambda: _norm(spec, centred=True))


def rms_norm(spec: NormSpec) -> PrimFunc:
    """x / sqrt(mean of x^2 + eps) * gamma for M rows.

    Arguments: as `layer_norm`, without beta.
    """
    return emit.function("rms_norm", lambda: _norm(spec, centred=False))


def _norm(spec: NormSpec, centred: bool) -> None:
    rows = emit.symbol("m")
    x = emit.argument("x", (rows, spec.d), "float32")
    other = emit.argument("residual", (rows, spec.d), "float32") if spec.residual else None
    gamma = emit.argument("gamma", (spec.d,), "float32")
    beta = emit.argument("beta", (spec.d,), "float32") if centred else None
    y = emit.argument("y", (rows, spec.d), "float32")
    size = T.float32(spec.d)

    def row(m: Expr) -> None:
        source = _summed(spec, x, other, y, m)
        mean = emit.let(sums.total(source, spec.d) / size) if centred else T.float32(0)

        def deviation(k: Expr, lanes: int) -> Expr:
            return source(k, lanes) - emit.splat(mean, lanes) if centred else source(k, lanes)

        def square(k: Expr, lanes: int) -> Expr:
            value = emit.let(deviation(k, lanes))
            return value * value

        spread = sums.total(square, spec.d) / size
        factor = emit.let(T.float32(1) / T.sqrt(spread + T.float32(spec.eps)))

        def write(k: Expr, lanes: int) -> None:
            value = deviation(k, lanes) * emit.splat(factor, lanes) * emit.load(gamma, k, lanes=lanes)
            if beta is not None:
                value = value + emit.load(beta, k, lanes=lanes)
            emit.store(y, value, m, k, lanes=lanes)

        for_lanes(spec.d, spec.isa.float_lanes, write)

    parallel_rows(rows, rows * spec.d, row)


def _summed(spec: NormSpec, x: Buffer, other: Buffer | None, y: Buffer, m: Expr) -> emit.Load:
    """The loader of row m. With a residual, y holds the sum until the result overwrites it."""
    if other is None:
        return lambda k, lanes: emit.load(x, m, k, lanes=lanes)

    def add(k: Expr, lanes: int) -> None:
        total = emit.load(x, m, k, lanes=lanes) + emit.load(other, m, k, lanes=lanes)
        emit.store(y, total, m, k, lanes=lanes)

    for_lanes(spec.d, spec.isa.float_lanes, add)
    return lambda k, lanes: emit.load(y, m, k, lanes=lanes)
