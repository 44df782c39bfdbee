"""Counters of set bits, one per lane of a vector of words."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T


class Counter:
    """A counter of set bits per 64-bit lane.

    With a popcount instruction for 64-bit lanes it adds the counts directly. Otherwise it counts per byte,
    which is cheap on AVX2 and NEON, and `widen` adds the byte counters to wider ones: 64-bit lanes, or 32-bit
    halves on NEON, which adds adjacent lanes in one instruction.
    """

    def __init__(self, lanes: int, isa: Isa) -> None:
        self.lanes = lanes
        self.bytewise = not isa.has_popcount and lanes > 1
        self.in_halves = self.bytewise and isa.has("neon")
        self.total = (
            emit.Register("total", "uint32", 2 * lanes, emit.splat(T.uint32(0), 2 * lanes))
            if self.in_halves
            else emit.Register("total", "uint64", lanes, emit.splat(T.uint64(0), lanes))
        )
        if self.bytewise:
            octets = lanes * 8
            self.octets = emit.Register("octets", "uint8", octets, emit.splat(T.uint8(0), octets))

    def count(self, bits: Expr) -> None:
        """Add the number of set bits of every lane."""
        if self.bytewise:
            self.octets.add(T.popcount(T.reinterpret(f"uint8x{self.lanes * 8}", bits)))
        else:
            self.total.add(T.popcount(bits))

    def widen(self) -> None:
        """Add the byte counters to the wider counters and clear them."""
        if not self.bytewise:
            return
        if self.in_halves:
            self.total.add(neon.wide_pair_sums(neon.pair_sums(self.octets.get())))
        else:
            self.total.add(self._sums_of_octets())
        self.octets.set(emit.splat(T.uint8(0), self.lanes * 8))

    def _sums_of_octets(self) -> Expr:
        """The horizontal sum of the bytes of every 64-bit lane."""
        value = emit.let(T.reinterpret(f"uint64x{self.lanes}", self.octets.get()))
        for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            keep = emit.splat(T.uint64(mask), self.lanes)
            value = emit.let((value & keep) + ((value >> emit.splat(T.uint64(bits), self.lanes)) & keep))
        return value


def counted(counters: list[Counter]) -> Expr:
    """The counts of adjacent vectors, concatenated as int32 lanes."""
    lanes, totals = counters[0].lanes, [counter.total.get() for counter in counters]
    if not counters[0].in_halves:
        return emit.concat([emit.cast(total, "int32", lanes) for total in totals], lanes)
    sums = emit.let(T.reinterpret("int32x4", neon.add_neighbours(totals[0], totals[-1])))
    return sums if len(counters) > 1 else emit.shuffle(sums, range(lanes))
