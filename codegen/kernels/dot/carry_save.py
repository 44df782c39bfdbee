"""Ternary times ternary on AArch64, with a carry-save adder instead of a second count.

A product v of two codes is -1, 0 or 1, so that v + 1 is the sum of two bits, and these differ where v is 0.
Added to a bit that is kept for every position, they give a carry and the bit for the next word:

    zero  = ~(x nonzero & w nonzero)       carry = zero ? kept : x sign == w sign       kept ^= zero

    sum(v + 1) = 2 popcount(carries) + popcount(kept at the end)

Six instructions for a word; counting products and negative products apart takes seven.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels.dot.popcount import Counter
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T


class CarrySaveAccumulator:
    """The products of one row and one vector of columns.

    Attributes:
        carries: counts them.
        parts: what is added up, `coefficient * counter`, once `end` was called; 1 too much for each position.
    """

    def __init__(self, lanes: int, isa: Isa) -> None:
        self.carries, self._rest = Counter(lanes, isa), Counter(lanes, isa)
        self._kept = emit.Register("kept", "uint64", lanes, emit.splat(T.uint64(0), lanes))
        self.parts = ((2, self.carries), (1, self._rest))

    def add(self, inverted_x: Sequence[Expr], w: Sequence[Expr]) -> None:
        """One more word."""
        zero = emit.let(inverted_x[0] | ~w[0])
        same = inverted_x[1] ^ w[1]
        self.carries.count(emit.let((self._kept.get() & zero) | (same & ~zero)))
        self._kept.set(self._kept.get() ^ zero)

    def end(self) -> None:
        """Counts what is kept."""
        self._rest.count(self._kept.get())
        self._rest.widen()
