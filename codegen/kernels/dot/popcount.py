"""Counters of set bits, one for each lane of a vector of words."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T


class Counter:
    """Counts set bits per 64-bit lane.

    With a popcount instruction for 64-bit lanes it adds those. Otherwise it counts per byte, which is what
    AVX2 and NEON can do cheaply, and `widen` moves the bytes into wider lanes: 64-bit ones, or on NEON, which
    adds neighbours in one instruction, the two halves of those.
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
        """Adds the set bits of every lane."""
        if self.bytewise:
            self.octets.add(T.popcount(T.reinterpret(f"uint8x{self.lanes * 8}", bits)))
        else:
            self.total.add(T.popcount(bits))

    def widen(self) -> None:
        """Empties the byte counters into the wider ones."""
        if not self.bytewise:
            return
        if self.in_halves:
            self.total.add(neon.wide_pair_sums(neon.pair_sums(self.octets.get())))
        else:
            self.total.add(self._sums_of_octets())
        self.octets.set(emit.splat(T.uint8(0), self.lanes * 8))

    def _sums_of_octets(self) -> Expr:
        """The bytes of every 64-bit lane, added."""
        value = emit.let(T.reinterpret(f"uint64x{self.lanes}", self.octets.get()))
        for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            keep = emit.splat(T.uint64(mask), self.lanes)
            value = emit.let((value & keep) + ((value >> emit.splat(T.uint64(bits), self.lanes)) & keep))
        return value


def counted(counters: list[Counter]) -> Expr:
    """The counts of neighbouring vectors as int32 lanes."""
    lanes, totals = counters[0].lanes, [counter.total.get() for counter in counters]
    if not counters[0].in_halves:
        return emit.concat([emit.cast(total, "int32", lanes) for total in totals], lanes)
    sums = emit.let(T.reinterpret("int32x4", neon.add_neighbours(totals[0], totals[-1])))
    return sums if len(counters) > 1 else emit.shuffle(sums, range(lanes))
