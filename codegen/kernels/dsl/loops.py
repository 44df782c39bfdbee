"""Loops that several kernels share: over vectors, over chunks of rows, and over threads.

A loop runs in parallel only if its work takes about 30 microseconds or more; waking the pool costs a few. The
choice is made at run time between two compiled versions, unless static sizes decide it.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

_PARALLEL_WORDS = 1 << 19
_PARALLEL_MACS = 1 << 24
_PARALLEL_ELEMENTS = 1 << 17


def for_lanes(length: Expr | int, lanes: int, body: emit.Chunk) -> None:
    """Loop over the elements of a row: full vectors, then a scalar tail.

    Args:
        length: number of elements, static or symbolic.
        lanes: lanes of a vector.
        body: emits the work for elements k .. k + n - 1, `body(k, n)` with n = lanes or 1.
    """
    with emit.loop("group", length // lanes) as group:
        body(group * lanes, lanes)
    with emit.loop("rest", length % lanes) as rest:
        body(length // lanes * lanes + rest, 1)


def chunks(count: Expr, size: int, body: Callable[[Expr, Expr], None]) -> None:
    """Loop over chunks of rows.

    Args:
        count: number of rows, symbolic.
        size: rows per chunk; the last chunk may have fewer.
        body: emits the work for rows first .. first + n - 1, `body(first, n)`.
    """
    with emit.loop("chunk", T.ceildiv(count, size)) as chunk:
        first = chunk * size
        body(first, emit.let(T.min(T.int64(size), count - first)))


def parallel_chunks(count: Expr, size: int, body: Callable[[Expr, Expr], None]) -> None:
    """As `chunks`, in parallel: an even number of chunks of about one size. Scratch is each thread's own.

    Args:
        count: number of rows, symbolic.
        size: the most rows per chunk.
        body: emits the work of a chunk.
    """
    height = emit.let(T.ceildiv(count, 2 * T.ceildiv(count, 2 * size)))
    with emit.parallel("chunk", T.ceildiv(count, height)) as chunk:
        first = emit.let(chunk * height)
        body(first, emit.let(T.min(height, count - first)))


def row_tiles(count: Expr, height: int, body: Callable[[Expr, int], None]) -> None:
    """Loop over tiles of rows; the rest in tiles of halving height.

    Not in a loop over single rows: LLVM would hoist the loads of all columns out of it and spill them.

    Args:
        count: number of rows, symbolic.
        height: rows of a whole tile, a power of two.
        body: emits the work for rows first .. first + n - 1, `body(first, n)`.
    """
    with emit.loop("tile", count // height) as index:
        body(index * height, height)
    while height > 1:
        twice, height = height, height // 2
        with emit.when(count % twice >= height):
            body(emit.let(count // twice * twice), height)


def row_of(x: Buffer, *at: Expr) -> emit.Load:
    """The loader of one row of x."""
    return lambda k, lanes: emit.load(x, *at, k, lanes=lanes)


def copy_row(load: emit.Load, length: Expr | int, lanes: int, out: Buffer, *at: Expr) -> None:
    """Store the elements of a row.

    Args:
        load: loads them.
        length: number of elements, static or symbolic.
        lanes: lanes of a vector.
        out: what they are stored in.
        at: indices of the row in `out`.
    """
    for_lanes(length, lanes, lambda k, count: emit.store(out, load(k, count), *at, k, lanes=count))


def parallel_columns(rows: Expr, max_rows: int, extent: int, ops_per_row: int, body: emit.Body) -> None:
    """Loop over groups of columns, in parallel if there are enough rows.

    Args:
        rows: rows that every iteration multiplies, symbolic.
        max_rows: upper bound of `rows`.
        extent: number of iterations.
        ops_per_row: operations on 64-bit words for one row, summed over all iterations.
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
    """Loop over rows, in parallel if there are enough elements.

    Args:
        rows: number of iterations, symbolic.
        elements: elements of all rows.
        body: emits the work of one row.
    """
    _parallel_if(elements >= _PARALLEL_ELEMENTS, rows, body)


def parallel_heads(macs: Expr, batch: Expr, heads: Expr, body: Callable[[Expr, Expr], None]) -> None:
    """Loop over batch and heads, in parallel if there is enough work.

    Args:
        macs: multiply-accumulates of packed codes, summed over all iterations, int64.
        batch: extent of the outer loop.
        heads: extent of the inner loop.
        body: emits the work of head h of batch item b, `body(b, h)`.
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
