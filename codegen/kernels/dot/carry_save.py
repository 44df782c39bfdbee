"""Ternary times ternary on AArch64, with a carry-save adder instead of a second count.

A product v of two codes is -1, 0 or 1, so that v + 1 is the sum of two bits, and these differ where v is 0.
Added to a bit that is kept for every position, they give a carry and the bit for the next word:

    zero  = ~(x nonzero & w nonzero)       carry = zero ? kept : x sign == w sign       kept ^= zero

    sum(v + 1) = 2 popcount(carries) + popcount(kept at the end)

Six instructions for a word; counting products and negative products apart takes seven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tbt_compile.codegen.kernels.dot.popcount import Counter
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T


def carry_save_add(
    kept: Expr, inverted_x: Sequence[Expr], w: Sequence[Expr], let: Callable[[Expr], Expr] = emit.let
) -> tuple[Expr, Expr]:
    """Adds 64 products v + 1 to a bit for each position.

    Args:
        kept: uint64, the bits so far.
        inverted_x: uint64, the planes (nonzero, sign) of x, every bit flipped.
        w: uint64, the planes of w.
        let: names an intermediate value, for it is used several times.

    Returns:
        The carries, and the bits to keep.
    """
    zero = let(inverted_x[0] | ~w[0])
    same = inverted_x[1] ^ w[1]
    return let((kept & zero) | (same & ~zero)), kept ^ zero


class CarrySaveAccumulator:
    """The products of one row and one vector of columns.

    Attributes:
        carries: counts them.
        parts: the terms `coefficient * counter` of the sum, valid after `end`; 1 too much for every position.
    """

    def __init__(self, lanes: int, isa: Isa) -> None:
        self.carries, self._rest = Counter(lanes, isa), Counter(lanes, isa)
        self._kept = emit.Register("kept", "uint64", lanes, emit.splat(T.uint64(0), lanes))
        self.parts = ((2, self.carries), (1, self._rest))

    def add(self, inverted_x: Sequence[Expr], w: Sequence[Expr]) -> None:
        """One more word; see `carry_save_add`."""
        carry, kept = carry_save_add(self._kept.get(), inverted_x, w)
        self.carries.count(carry)
        self._kept.set(kept)

    def end(self) -> None:
        """Counts what is kept."""
        self._rest.count(self._kept.get())
        self._rest.widen()
