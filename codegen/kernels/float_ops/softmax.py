"""Softmax over the last dimension, of symbolic length.

    y[t] = exp(v[t] - max v) / sum exp(v - max v),      v = x * scale + mask

The exponentials are added as integers, truncated to multiples of 2^-28: their order does not matter. The
exponential of a masked position is an exact zero. So a row is the same with masked positions on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from tbt_compile.codegen.kernels.dsl import emit, float_math
from tbt_compile.codegen.kernels.dsl.loops import parallel_heads, row_of
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T

_UNIT_BITS = 28
_AT_ONCE = 4
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
    total = _Total(lanes)

    def weight(values: Expr) -> Expr:
        return emit.let(float_math.exp(values - emit.splat(peak, lanes), lanes, _UNIT_BITS))

    def weigh(first: Expr, count: int) -> None:
        places = [emit.let(first + n * lanes) for n in range(count)]
        weights = [weight(load(place, lanes)) for place in places]
        for place, values in zip(places, weights, strict=True):
            emit.store(y, values, *at, place, lanes=lanes)
        total.add(weights)

    with emit.loop("step", whole // _AT_ONCE) as step:
        weigh(step * (_AT_ONCE * lanes), _AT_ONCE)
    with emit.loop("group", whole // _AT_ONCE * _AT_ONCE, whole) as group:
        weigh(group * lanes, 1)
    with emit.when(rest > 0):
        last = weight(emit.load(tail, 0, lanes=lanes))
        total.add([last])
        emit.store(tail, last, 0, lanes=lanes)
    factor = emit.let(T.float32(1) / total.get())
    with emit.loop("group", whole) as group:
        value = emit.load(y, *at, group * lanes, lanes=lanes)
        emit.store(y, value * emit.splat(factor, lanes), *at, group * lanes, lanes=lanes)
    with emit.loop("k", rest) as k:
        emit.store(y, tail[k] * factor, *at, whole * lanes + k)


class _Total:
    """The sum of exponentials in units of 2^-28, as integers, or NaN if one is NaN, which has no integer."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.units = emit.Register("units", "int64", lanes, emit.splat(T.int64(0), lanes))
        self.floats = emit.Register("floats", "float32", lanes, emit.splat(T.float32(0), lanes))

    def add(self, weights: Sequence[Expr]) -> None:
        """Add up to `_AT_ONCE` vectors, whose sum an int32 holds."""
        self.floats.add(reduce(add, weights))
        units = emit.let(reduce(add, (emit.cast(values, "int32", self.lanes) for values in weights)))
        self.units.add(emit.cast(units, "int64", self.lanes))

    def get(self) -> Expr:
        """The total, float32."""
        units = T.cast(emit.reduce_lanes(self.units.get(), self.lanes, add), "float32")
        rounded = emit.reduce_lanes(self.floats.get(), self.lanes, add)
        return T.Select(float_math.is_nan(rounded, 1), rounded, units)
