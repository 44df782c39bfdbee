"""Shared by the attention kernels: the spec of a product, its float operands, and the store of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.packed_rows import store_partial
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.layouts import SCALE_BYTES
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

Head = tuple[Expr, Expr]
"""Indices of a batch item and of a head of keys and values."""
Store = Callable[[Expr, Expr, int, Expr], None]
"""`store(row, column, lanes, values)`: stores adjacent float32 results of one row of a chunk."""


@dataclass(frozen=True)
class AttentionSpec:
    """One of the two products of attention.

    Attributes:
        d: head dimension.
        left: encoding of Q or P.
        right: encoding of K or V: both operands have 1 or 2 bits, or both have 8.
        center_left: whether to subtract the mean of each row of Q or P; signed 1 and 2 bit encodings only.
        isa: instruction set to schedule for.
        groups: query heads that share one key and value head.
    """

    d: int
    left: Encoding
    right: Encoding
    center_left: bool
    isa: Isa
    groups: int = 1


def stored_scale(rows: Buffer, spec: AttentionSpec, *at: Expr) -> Expr:
    """The scale of one 8-bit key or value, float32.

    Args:
        rows: int8 [B, H, T, D + 4].
        spec: the product.
        at: batch item, head and token.
    """
    return emit.let(T.reinterpret("float32", emit.load(rows, *at, spec.d, lanes=SCALE_BYTES)))


class Heads:
    """The next tensor argument: float32 queries, keys, values or outputs of attention, in either layout.

    Args:
        name: of the argument.
        batch: B.
        heads: H.
        tokens: T.
        width: D, features of a head.
        last: whether it is `[B, T, H, D]`, the layout of linear layers, instead of `[B, H, T, D]`.
    """

    def __init__(
        self, name: str, batch: Expr, heads: Expr, tokens: Expr, width: Expr | int, last: bool = False
    ) -> None:
        self.last = last
        rows = (tokens, heads) if last else (heads, tokens)
        self.buffer = emit.argument(name, (batch, *rows, width), "float32")

    def row(self, b: Expr, h: Expr, t: Expr) -> emit.Load:
        """The loader of one row.

        Args:
            b: batch item.
            h: head.
            t: token.

        Returns:
            A loader of float32 features.
        """
        return lambda d, lanes: emit.load(self.buffer, *self._at(b, h, t), d, lanes=lanes)

    def store(self, value: Expr, b: Expr, h: Expr, t: Expr, d: Expr, lanes: int) -> None:
        """Store adjacent features of one row.

        Args:
            value: float32, a vector of `lanes`.
            b: batch item.
            h: head.
            t: token.
            d: the first feature.
            lanes: number of features.
        """
        emit.store(self.buffer, value, *self._at(b, h, t), d, lanes=lanes)

    def _at(self, b: Expr, h: Expr, t: Expr) -> tuple[Expr, ...]:
        return (b, t, h) if self.last else (b, h, t)


def store_scores(
    store: Store,
    row: Expr,
    t: Expr,
    lanes: int,
    tokens: Expr,
    total: Expr,
    scaled: Callable[[Expr, Expr | int, int], Expr],
) -> None:
    """Store the scores of tokens t .. t + lanes - 1, as far as they exist.

    Args:
        store: stores the scores.
        row: row of the chunk.
        t: the first token.
        lanes: tokens in the vector.
        tokens: number of tokens, T.
        total: the integer sums, int32, a vector of `lanes`.
        scaled: `scaled(sums, first, count)`, the scores of `count` sums starting at lane `first`.
    """
    store_partial(
        t + lanes <= tokens,
        lanes,
        tokens - t,
        total,
        lambda values: store(row, t, lanes, scaled(values, 0, lanes)),
        lambda lane, value: store(row, t + lane, 1, scaled(value, lane, 1)),
    )
