"""What the kernel schedules need to know about an instruction set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WORD_BITS = 64
_FEWEST_VECTORS = 4
_WIDE_BLOCK = 32


@dataclass(frozen=True)
class Isa:
    """Vector width, register count and the instructions that change a schedule.

    Attributes:
        name: LLVM's name of the CPU.
        vector_bits: width of the widest vector register (128, 256 or 512).
        registers: number of vector registers (16 or 32).
        has_popcount: whether one instruction counts the bits of every 64-bit lane (VPOPCNTDQ). Without it
            counts are kept per byte and widened rarely.
        dot: what multiplies bytes: "vnni" (VPDPBUSD), "maddubs" (VPMADDUBSW), "dotprod" (SDOT and UDOT), or
            "none" (widening multiplications).
    """

    name: str
    vector_bits: int
    registers: int
    has_popcount: bool
    dot: str = "none"

    @property
    def word_lanes(self) -> int:
        """64-bit lanes in a vector."""
        return self.vector_bits // WORD_BITS

    @property
    def float_lanes(self) -> int:
        """32-bit lanes in a vector."""
        return self.vector_bits // 32

    @property
    def neon(self) -> bool:
        """Whether these are the vectors of AArch64; x86 has 32 registers only for wider ones."""
        return self.vector_bits == 128 and self.registers == 32

    @property
    def looks_up(self) -> bool:
        """Whether products of 1 and 2 bit codes are looked up by byte shuffles: wide, and no popcount."""
        return self.vector_bits >= 256 and not self.has_popcount

    @property
    def block(self) -> int:
        """Weight columns stored next to each other by `layouts.interleave`.

        Four vectors of words, and 32 columns where the vectors are wide: two vectors of table look-ups.
        """
        columns = _FEWEST_VECTORS * self.word_lanes
        return columns if self.vector_bits < 256 else max(columns, _WIDE_BLOCK)

    @classmethod
    def from_features(cls, name: str, features: Collection[str]) -> Isa:
        """The schedule parameters for a CPU with these LLVM features.

        >>> Isa.from_features("haswell", ["avx2"]).vector_bits
        256
        """
        if "neon" in features:
            return cls(name, 128, 32, False, "dotprod" if "dotprod" in features else "none")
        if "avx2" not in features:
            return cls(name, 128, 16, False)
        wide = "avx512bw" in features
        vnni = "avx512vnni" in features if wide else "avxvnni" in features
        dot = "vnni" if vnni else "maddubs"
        return cls(
            name, 512 if wide else 256, 32 if wide else 16, wide and "avx512vpopcntdq" in features, dot
        )

    @classmethod
    def of(cls, cpu: str, triple: str) -> Isa:
        """The schedule parameters for an LLVM CPU name and target triple."""
        from tbt_compile.codegen.tvm_api import cpu_features

        return cls.from_features(cpu, cpu_features(cpu, triple))
