"""Products that stay in full precision: of rows with the rows of a weight, and batched ones.

A result depends neither on the batch nor on the CPU: products are added by FMA, those with a weight in the
order of `dsl.sums`, those of batched matrices one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add

from tbt_compile.codegen.kernels.dot.stored_rows import StoredRows, StoredSpec
from tbt_compile.codegen.kernels.dsl import emit, sums
from tbt_compile.codegen.kernels.dsl.loops import copy_row, for_lanes, parallel_columns, parallel_rows, row_of
from tbt_compile.codegen.kernels.float_ops.activations import ACTIVATIONS
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_LEAST_COLUMNS = 4
_ACCUMULATORS = 8
"""Vectors of partial sums: enough to hide the latency of FMA."""
_VECTORS = 4
_MAX_ROWS = 1 << 20


@dataclass(frozen=True)
class FloatLinearSpec:
    """A linear layer in float32.

    Attributes:
        n: output features.
        k: input features.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for.
        weight: how the weight is stored; decoded, it has the same products.
        groups: groups of columns of a stored weight with a scale each.
        function: one of `ACTIVATIONS`, applied in the epilogue; "" for none.
    """

    n: int
    k: int
    has_bias: bool
    isa: Isa
    weight: Encoding = Encoding.FLOAT
    groups: int = 1
    function: str = ""


def linear_float(spec: FloatLinearSpec) -> PrimFunc:
    """y = x @ w.T + bias for M rows, M symbolic.

    Arguments:
        x: float32 [M, K]
        w: float32 [N, K]; for another encoding w and w_scale of `StoredRows`
        bias: float32 [N], only if `spec.has_bias`
        y: float32 [M, N], the output
    """
    return emit.function("linear_float", lambda: _linear(spec))


def dot_float(spec: AnySize) -> PrimFunc:
    """y = x @ w.T, all sizes symbolic; the bits of `linear_float`.

    Arguments:
        x: float32 [M, K]
        w: float32 [N, K]
        y: float32 [M, N], the output
    """
    return emit.function("dot_float", lambda: _dot(spec))


def matmul_float(spec: AnySize) -> PrimFunc:
    """y[b] = x[b] @ w[b], all sizes symbolic.

    Arguments:
        x: float32 [B, M, K]
        w: float32 [B, K, N]
        y: float32 [B, M, N], the output
    """
    return emit.function("matmul_float", lambda: _matmul(spec))


def _linear(spec: FloatLinearSpec) -> None:
    rows = emit.symbol("m")
    x = emit.argument("x", (rows, spec.k), "float32")
    weight = _weight(spec)
    bias = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
    y = emit.argument("y", (rows, spec.n), "float32")

    def products(row: Expr, first: Expr, weights: list[emit.Load]) -> None:
        for c, total in enumerate(_dots(row_of(x, row), weights, spec.k)):
            value = total if bias is None else total + bias[first + c]
            if spec.function:
                value = ACTIVATIONS[spec.function](emit.let(value), 1)
            emit.store(y, value, row, first + c)

    def in_place(first: Expr, count: int) -> None:
        # The weights of a block of columns stay in the L1 cache from one row to the next.
        with emit.loop("row", rows) as row:
            products(row, first, [weight(first + c) for c in range(count)])

    def decoded(first: Expr, count: int) -> None:
        floats = emit.scratch("decoded", (count, spec.k), "float32")
        for c in range(count):
            copy_row(weight(first + c), spec.k, sums.LANES, floats, T.int64(c))
        with emit.loop("row", rows) as row:
            products(row, first, [row_of(floats, T.int64(c)) for c in range(count)])

    def block(first: Expr, count: int) -> None:
        if spec.weight is Encoding.FLOAT:
            in_place(first, count)
        else:
            emit.branch(rows > 1, lambda: decoded(first, count), lambda: in_place(first, count))

    columns = _columns(spec.isa)
    blocks, rest = divmod(spec.n, columns)
    if blocks:
        work = spec.n * spec.k // 2
        parallel_columns(rows, _MAX_ROWS, blocks, work, lambda index: block(index * columns, columns))
    if rest:
        block(T.int64(blocks * columns), rest)


def _weight(spec: FloatLinearSpec) -> Callable[[Expr], emit.Load]:
    """Declare the weight; returns what loads a row of it."""
    if spec.weight is Encoding.FLOAT:
        w = emit.argument("w", (spec.n, spec.k), "float32")
        return lambda n: row_of(w, n)
    return StoredRows(StoredSpec(spec.n, spec.k, spec.weight, Layout.PLANES, spec.isa, spec.groups)).row


def _dot(spec: AnySize) -> None:
    rows, size, length = (emit.symbol(name) for name in ("m", "n", "k"))
    x = emit.argument("x", (rows, length), "float32")
    w = emit.argument("w", (size, length), "float32")
    y = emit.argument("y", (rows, size), "float32")
    columns = _columns(spec.isa)

    def row(m: Expr) -> None:
        def block(first: Expr, count: int) -> None:
            weights = [row_of(w, first + c) for c in range(count)]
            for c, value in enumerate(_dots(row_of(x, m), weights, length)):
                emit.store(y, value, m, first + c)

        with emit.loop("block", size // columns) as index:
            block(index * columns, columns)
        with emit.loop("rest", size % columns) as index:
            block(size // columns * columns + index, 1)

    parallel_rows(rows, rows * size * length, row)


def _matmul(spec: AnySize) -> None:
    batch, rows, size, length = (emit.symbol(name) for name in ("b", "m", "n", "k"))
    x = emit.argument("x", (batch, rows, length), "float32")
    w = emit.argument("w", (batch, length, size), "float32")
    y = emit.argument("y", (batch, rows, size), "float32")

    def row(index: Expr) -> None:
        b, m = emit.let(index // rows), emit.let(index % rows)

        def columns(n: Expr, lanes: int) -> None:
            total = emit.Register("total", "float32", lanes, emit.constant(0.0, "float32", lanes))
            with emit.loop("k", length) as k:
                values = emit.splat(x[b, m, k], lanes)
                total.set(emit.fma(values, emit.load(w, b, k, n, lanes=lanes), total.get()))
            emit.store(y, total.get(), b, m, n, lanes=lanes)

        for_lanes(size, _VECTORS * spec.isa.float_lanes, columns)

    parallel_rows(batch * rows, batch * rows * size * length, row)


def _columns(isa: Isa) -> int:
    """Columns that are summed at a time."""
    return max(_LEAST_COLUMNS, _ACCUMULATORS * isa.float_lanes // sums.LANES)


def _dots(inputs: emit.Load, weights: Sequence[emit.Load], length: Expr | int) -> list[Expr]:
    """Dot products of one row with the rows of several columns."""
    lanes = sums.LANES
    zero = emit.constant(0.0, "float32", lanes)
    totals = [emit.Register("total", "float32", lanes, zero) for _ in weights]

    def step(values: Expr, others: Sequence[Expr]) -> None:
        values = emit.let(values)
        for total, other in zip(totals, others, strict=True):
            total.set(emit.fma(values, other, total.get()))

    with emit.loop("step", length // lanes) as index:
        step(inputs(index * lanes, lanes), [weight(index * lanes, lanes) for weight in weights])
    with emit.when(length % lanes > 0):
        step(_last(inputs, length), [_last(weight, length) for weight in weights])
    return [emit.reduce_lanes(total.get(), lanes, add) for total in totals]


def _last(load: emit.Load, length: Expr | int) -> Expr:
    """A vector of the last elements of a row, and zeros."""
    padded = emit.scratch("padded", (sums.LANES,), "float32")
    emit.store(padded, emit.constant(0.0, "float32", sums.LANES), 0, lanes=sums.LANES)
    with emit.loop("k", length % sums.LANES) as k:
        emit.store(padded, load(length // sums.LANES * sums.LANES + k, 1), k)
    return emit.load(padded, 0, lanes=sums.LANES)
