"""What the attention kernels of all encodings have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.isa import Isa
from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

_PARALLEL_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class AttentionSpec:
    """One of the two products of attention.

    Attributes:
        d: head dimension.
        left: encoding of Q or P.
        right: encoding of K or V: both operands have 1 or 2 bits, or both have 8.
        center_left: subtract the mean of each row of Q or P (signed 1 and 2 bit encodings only).
        isa: instruction set to schedule for.
        groups: query heads that share one key and value head.
    """

    d: int
    left: Encoding
    right: Encoding
    center_left: bool
    isa: Isa
    groups: int = 1


def share_heads(work: Expr, batch: Expr, heads: Expr, body: Callable[[Expr, Expr], None]) -> None:
    """Runs `body(b, h)` for every head, on all threads if `work` (multiplications) is worth it."""

    def threads() -> None:
        with emit.parallel("head", batch * heads) as head:
            body(head // heads, head % heads)

    def serial() -> None:
        with emit.loop("b", batch) as b, emit.loop("h", heads) as h:
            body(b, h)

    emit.branch(work >= _PARALLEL_ELEMENTS, threads, serial)


def chunks(count: Expr, size: int, body: Callable[[Expr, Expr], None]) -> None:
    """Runs `body(first, rows)` for `count` rows, at most `size` at a time."""
    with emit.loop("chunk", T.ceildiv(count, size)) as chunk:
        first = chunk * size
        body(first, emit.let(T.min(T.int64(size), count - first)))


def row_of(x: Buffer, *at: Expr) -> emit.Load:
    """The loader of one row of x."""
    return lambda k, lanes: emit.load(x, *at, k, lanes=lanes)
