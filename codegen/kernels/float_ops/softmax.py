"""Softmax over the last dimension, of symbolic length.

    y[t] = exp(v[t] - max v) / sum exp(v - max v),      v = x * scale + mask

The tail vector of a row is padded with -inf, whose exponential is an exact zero: the order of summation is
the same with and without masked positions at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit, float_math
from tbt_compile.codegen.kernels.dsl.loops import parallel_heads, row_of
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T

_COST = 32
"""Cost of one element, in multiply-accumulates of packed codes."""


@dataclass(frozen=True)
class SoftmaxSpec:
    """Softmax of attention scores.

    Attributes:
        isa: instruction set to schedule for.
        scale: constant factor of the scores.
        mask: whether a mask is added after scaling.
    """

    isa: Isa
    scale: float = 1.0
    mask: bool = False


def softmax(spec: SoftmaxSpec) -> PrimFunc:
    """Softmax of scaled and masked scores.

    Arguments:
        x: float32 [B, H, Q, T]
        mask: float32 [B, 1, Q or 1, T], only if `spec.mask`; masked positions hold -inf or the lowest
            float32. A row of -inf gives NaN.
        y: float32 [B, H, Q, T], the output
    """
    return emit.function("softmax", lambda: _softmax(spec))


def _softmax(spec: SoftmaxSpec) -> None:
    batch, heads, queries, tokens = (emit.symbol(name) for name in ("b", "h", "q", "t"))
    x = emit.argument("x", (batch, heads, queries, tokens), "float32")
    mask_rows = emit.symbol("mask_rows")
    mask = emit.argument("mask", (batch, 1, mask_rows, tokens), "float32") if spec.mask else None
    y = emit.argument("y", (batch, heads, queries, tokens), "float32")

    def head(b: Expr, h: Expr) -> None:
        with emit.loop("q", queries) as q:
            mask_row = emit.let(T.min(q, mask_rows - 1)) if spec.mask else T.int64(0)

            load = scaled_and_masked(row_of(x, b, h, q), spec.scale, mask, b, mask_row)
            softmax_row(spec.isa, load, tokens, y, b, h, q)

    parallel_heads(batch * heads * queries * tokens * _COST, batch, heads, head)


def scaled_and_masked(
    load: emit.Load, factor: float, mask: Buffer | None, batch: Expr, row: Expr
) -> emit.Load:
    """Scale and mask a row of scores on load.

    Args:
        load: loads the scores.
        factor: constant factor of the scores.
        mask: float32 [B, 1, rows, T], added after scaling; None for no mask.
        batch: batch item of the mask.
        row: row of the mask.

    Returns:
        The loader of the scaled and masked row.
    """

    def transformed(t: Expr, lanes: int) -> Expr:
        value = load(t, lanes)
        if factor != 1.0:
            value = value * emit.splat(T.float32(factor), lanes)
        return value if mask is None else value + emit.load(mask, batch, 0, row, t, lanes=lanes)

    return transformed


def softmax_row(isa: Isa, load: emit.Load, length: Expr, y: Buffer, *at: Expr) -> None:
    """Emit the softmax of one row.

    Args:
        isa: instruction set.
        load: loads the row; it may alias the result (in place).
        length: number of elements.
        y: float32; the result goes to y[at, 0 .. length - 1].
        at: indices of the row in `y`.
    """
    lanes = isa.float_lanes
    whole = emit.let(length // lanes)
    rest = emit.let(length % lanes)
    lowest = T.float32("-inf")
    tail = emit.scratch("tail", (lanes,), "float32")
    emit.store(tail, emit.splat(lowest, lanes), 0, lanes=lanes)
    with emit.loop("k", rest) as k:
        emit.store(tail, load(whole * lanes + k, 1), k)

    largest = emit.Register("largest", "float32", lanes, emit.load(tail, 0, lanes=lanes))
    with emit.loop("group", whole) as group:
        largest.set(T.max(largest.get(), load(group * lanes, lanes)))
    peak = emit.reduce_lanes(largest.get(), lanes, T.max)
    sums = emit.Register("sums", "float32", lanes, emit.splat(T.float32(0), lanes))

    def weight(values: Expr) -> Expr:
        result = emit.let(float_math.exp(values - emit.splat(peak, lanes), lanes))
        sums.add(result)
        return result

    with emit.loop("group", whole) as group:
        emit.store(y, weight(load(group * lanes, lanes)), *at, group * lanes, lanes=lanes)
    with emit.when(rest > 0):
        emit.store(tail, weight(emit.load(tail, 0, lanes=lanes)), 0, lanes=lanes)
    total = emit.reduce_lanes(sums.get(), lanes, lambda a, b: a + b)
    factor = emit.let(T.float32(1) / total)
    with emit.loop("group", whole) as group:
        value = emit.load(y, *at, group * lanes, lanes=lanes)
        emit.store(y, value * emit.splat(factor, lanes), *at, group * lanes, lanes=lanes)
    with emit.loop("k", rest) as k:
        emit.store(y, tail[k] * factor, *at, whole * lanes + k)
