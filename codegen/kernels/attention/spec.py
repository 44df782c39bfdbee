"""What the attention kernels of all encodings have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.packed_rows import store_existing
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr
from tbt_compile.encoding import Encoding

Head = tuple[Expr, Expr]
"""Indices of a batch item and of a head of keys and values."""
Put = Callable[[Expr, Expr, int, Expr], None]
"""`put(row, column, lanes, values)`: stores float32 results of one row of a chunk."""


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


def put_existing(
    put: Put,
    row: Expr,
    t: Expr,
    lanes: int,
    tokens: Expr,
    total: Expr,
    scaled: Callable[[Expr, Expr | int, int], Expr],
) -> None:
    """Stores the scores of tokens t .. t + lanes - 1, as far as there are `tokens` of them.

    `scaled(sums, first, count)`: the scores of integer sums, of which `first` is the first lane's place.
    """
    store_existing(
        t + lanes <= tokens,
        lanes,
        tokens - t,
        total,
        lambda values: put(row, t, lanes, scaled(values, 0, lanes)),
        lambda lane, value: put(row, t + lane, 1, scaled(value, lane, 1)),
    )
