"""Loops that several kernels share: over vectors, over chunks of rows, and over threads.

A loop is shared out among threads only when its work takes some 30 microseconds or more; starting the pool
costs a few. The choice is made at run time, and both forms are compiled, unless the sizes decide it already.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

_PARALLEL_WORDS = 1 << 19
_PARALLEL_MULTIPLICATIONS = 1 << 24
_PARALLEL_ELEMENTS = 1 << 17


def for_lanes(length: Expr | int, lanes: int, body: emit.Chunk) -> None:
    """Runs `body(k, lanes)` over 0 .. length - 1: whole vectors, then single elements."""
    with emit.loop("group", length // lanes) as group:
        body(group * lanes, lanes)
    with emit.loop("rest", length % lanes) as rest:
        body(length // lanes * lanes + rest, 1)


def chunks(count: Expr, size: int, body: Callable[[Expr, Expr], None]) -> None:
    """Runs `body(first, rows)` for `count` rows, at most `size` at a time."""
    with emit.loop("chunk", T.ceildiv(count, size)) as chunk:
        first = chunk * size
        body(first, emit.let(T.min(T.int64(size), count - first)))


def row_of(x: Buffer, *at: Expr) -> emit.Load:
    """The loader of one row of x."""
    return lambda k, lanes: emit.load(x, *at, k, lanes=lanes)


def share_columns(rows: Expr, most_rows: int, extent: int, work_per_row: int, body: emit.Body) -> None:
    """Runs `body` for 0 .. extent - 1, on all threads if there are enough rows.

    `rows` is known at run time, at most `most_rows`; `work_per_row` is in operations on 64-bit words.
    """
    fewest = -(-_PARALLEL_WORDS // max(1, work_per_row))
    many: Expr | bool = rows >= fewest
    if extent == 1 or fewest > most_rows:
        many = False
    elif fewest <= 1:
        many = True
    _share(many, extent, body)


def share_rows(rows: Expr, elements: Expr, body: emit.Body) -> None:
    """Runs `body` for every row, on all threads if there are many elements."""
    _share(elements >= _PARALLEL_ELEMENTS, rows, body)


def share_heads(multiplications: Expr, batch: Expr, heads: Expr, body: Callable[[Expr, Expr], None]) -> None:
    """Runs `body(b, h)` for every head, on all threads if there is enough to multiply."""

    def threads() -> None:
        with emit.parallel("head", batch * heads) as head:
            body(head // heads, head % heads)

    def serial() -> None:
        with emit.loop("b", batch) as b, emit.loop("h", heads) as h:
            body(b, h)

    emit.branch(multiplications >= _PARALLEL_MULTIPLICATIONS, threads, serial)


def _share(many: Expr | bool, extent: Expr | int, body: emit.Body) -> None:
    def threads() -> None:
        with emit.parallel("index", extent) as index:
            body(index)

    def serial() -> None:
        with emit.loop("index", extent) as index:
            body(index)

    emit.branch(many, threads, serial)
