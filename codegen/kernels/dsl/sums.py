"""The order of reductions over a row: the same on every instruction set.

Element k is combined with partial result k % 16; the partial results are combined in halves: 0 with 8, 1 with
9, ..., then 0 with 4, down to one. A vector of 16 lanes is one register with AVX-512, two with AVX2, and four
with NEON or SSE. What is appended to a row changes nothing if it is neutral: the order of the others stays.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Expr, T

LANES = 16
"""Partial results."""


def fold(
    load: emit.Load,
    length: Expr | int,
    dtype: str,
    combine: Callable[[Expr, Expr], Expr],
    neutral: float,
) -> Expr:
    """Reduce a row.

    Args:
        load: loads elements of the row, in `dtype`.
        length: number of elements, static or symbolic.
        dtype: of the elements and the result.
        combine: two vectors of partial results.
        neutral: the result for a row of no elements.

    Returns:
        A scalar.
    """
    start = emit.splat(T.cast(neutral, dtype), LANES)
    partial = emit.Register("partial", dtype, LANES, start)

    def take(values: Expr) -> None:
        partial.set(combine(partial.get(), values))

    with emit.loop("k", length // LANES) as k:
        take(load(k * LANES, LANES))
    with emit.when(length % LANES > 0):
        padded = emit.scratch("padded", (LANES,), dtype)
        emit.store(padded, start, 0, lanes=LANES)
        with emit.loop("k", length % LANES) as k:
            emit.store(padded, load(length // LANES * LANES + k, 1), k)
        take(emit.load(padded, 0, lanes=LANES))
    return emit.reduce_lanes(partial.get(), LANES, combine)


def total(load: emit.Load, length: Expr | int, dtype: str = "float32") -> Expr:
    """The sum of a row.

    Args:
        load: loads elements of the row, in `dtype`.
        length: number of elements, static or symbolic.
        dtype: of the elements and the result.

    Returns:
        A scalar.
    """
    return fold(load, length, dtype, add, 0.0)
