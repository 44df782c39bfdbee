"""Loops that several kernels share: over vectors, over chunks of rows, and over threads.

A loop is shared out among threads only when its work takes some 30 microseconds or more; starting the pool
costs a few. The choice is made at run time, and both forms are compiled, unless the sizes decide it already.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

_PARALLEL_WORDS = 1 << 19
_PARALLEL_MACS = 1 << 24
_PARALLEL_ELEMENTS = 1 << 17


def for_lanes(length: Expr | int, lanes: int, body: emit.Chunk) -> None:
    """Loops over the elements of a row: whole vectors, then single elements.

    Args:
        length: elements, perhaps known at run time only.
        lanes: elements of a vector.
        body: emits the work for elements k .. k + n - 1, `body(k, n)` with n = lanes or 1.
    """
    with emit.loop("group", length // lanes) as group:
        body(group * lanes, lanes)
    with emit.loop("rest", length % lanes) as rest:
        body(length // lanes * lanes + rest, 1)


def chunks(count: Expr, size: int, body: Callable[[Expr, Expr], None]) -> None:
    """Loops over chunks of rows.

    Args:
        count: rows, known at run time.
        size: rows of a chunk; the last one may have fewer.
        body: emits the work for rows first .. first + n - 1, `body(first, n)`.
    """
    with emit.loop("chunk", T.ceildiv(count, size)) as chunk:
        first = chunk * size
        body(first, emit.let(T.min(T.int64(size), count - first)))


def row_of(x: Buffer, *at: Expr) -> emit.Load:
    """The loader of one row of x."""
    return lambda k, lanes: emit.load(x, *at, k, lanes=lanes)


def parallel_columns(rows: Expr, max_rows: int, extent: int, ops_per_row: int, body: emit.Body) -> None:
    """Loops over groups of columns, on all threads if there are enough rows.

    Args:
        rows: rows that every iteration multiplies, known at run time.
        max_rows: the most that `rows` can be.
        extent: iterations.
        ops_per_row: operations on 64-bit words for one row and all iterations.
        body: emits the work of one iteration.
    """
    min_rows = -(-_PARALLEL_WORDS // max(1, ops_per_row))
    enough: Expr | bool = rows >= min_rows
    if extent == 1 or min_rows > max_rows:
        enough = False
    elif min_rows <= 1:
        enough = True
    _parallel_if(enough, extent, body)


def parallel_rows(rows: Expr, elements: Expr, body: emit.Body) -> None:
    """Loops over rows, on all threads if there are enough elements.

    Args:
        rows: iterations, known at run time.
        elements: elements of all rows together.
        body: emits the work of one row.
    """
    _parallel_if(elements >= _PARALLEL_ELEMENTS, rows, body)


def parallel_heads(macs: Expr, batch: Expr, heads: Expr, body: Callable[[Expr, Expr], None]) -> None:
    """Loops over batch and heads, on all threads if there is enough to multiply.

    Args:
        macs: multiplications of packed codes that all iterations make together, int64.
        batch: iterations of the outer loop.
        heads: iterations of the inner loop.
        body: emits the work of head h of item b, `body(b, h)`.
    """

    def threads() -> None:
        with emit.parallel("head", batch * heads) as head:
            body(head // heads, head % heads)

    def serial() -> None:
        with emit.loop("b", batch) as b, emit.loop("h", heads) as h:
            body(b, h)

    emit.branch(macs >= _PARALLEL_MACS, threads, serial)


def _parallel_if(condition: Expr | bool, extent: Expr | int, body: emit.Body) -> None:
    def threads() -> None:
        with emit.parallel("index", extent) as index:
            body(index)

    def serial() -> None:
        with emit.loop("index", extent) as index:
            body(index)

    emit.branch(condition, threads, serial)
