"""Ternary times ternary on AArch64, with a carry-save adder instead of a second popcount.

A product v of two codes is -1, 0 or 1, so v + 1 is the sum of two bits, which differ where v is 0. A full
adder adds both to a running sum bit per position:

    zero  = ~(x nonzero & w nonzero)       carry = zero ? sum : x sign == w sign       sum ^= zero

    sum(v + 1) = 2 popcount(carries) + popcount(final sum bits)

This takes six instructions per word; counting nonzero and negative products separately takes seven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tbt_compile.codegen.kernels.dot.popcount import Counter
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T


def carry_save_add(
    sums: Expr, inverted_x: Sequence[Expr], w: Sequence[Expr], let: Callable[[Expr], Expr] = emit.let
) -> tuple[Expr, Expr]:
    """Add 64 products v + 1 to the sum bit of each position.

    Args:
        sums: uint64, the sum bits so far.
        inverted_x: uint64, the complemented planes (nonzero, sign) of x.
        w: uint64, the planes of w.
        let: binds an intermediate value that is used several times.

    Returns:
        The carries and the new sum bits, uint64.
    """
    zero = let(inverted_x[0] | ~w[0])
    same = inverted_x[1] ^ w[1]
    return let((sums & zero) | (same & ~zero)), sums ^ zero


class CarrySaveAccumulator:
    """The accumulator of one row times one vector of columns.

    Attributes:
        carries: counter of the carries.
        parts: the terms `coefficient * counter` of the sum, valid after `end`; biased by 1 per position.
    """

    def __init__(self, lanes: int, isa: Isa) -> None:
        self.carries, self._final = Counter(lanes, isa), Counter(lanes, isa)
        self._sums = emit.Register("kept", "uint64", lanes, emit.splat(T.uint64(0), lanes))
        self.parts = ((2, self.carries), (1, self._final))

    def add(self, inverted_x: Sequence[Expr], w: Sequence[Expr]) -> None:
        """Accumulate one word; see `carry_save_add`."""
        carries, sums = carry_save_add(self._sums.get(), inverted_x, w)
        self.carries.count(carries)
        self._sums.set(sums)

    def end(self) -> None:
        """Count the final sum bits."""
        self._final.count(self._sums.get())
        self._final.widen()
