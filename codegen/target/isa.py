"""Instruction sets as the kernels see them: which features a CPU has, and what follows for a schedule.

`VECTOR_SETS` is the one place where LLVM's feature names are read. To make the kernels aware of another
extension of a known vector set (i8mm, SVE), move its name from `unused` to `used` there, ask for it with
`Isa.has`, and add a row to the table of `kernels/strategy.py`. New vector registers are a new `VectorSet`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WORD_BITS = 64
_MIN_BLOCK_VECTORS = 4
_MIN_WIDE_BLOCK = 32


@dataclass(frozen=True)
class VectorSet:
    """Vector registers, and the extensions that matter on top of them.

    Attributes:
        requires: LLVM's features that bring the registers; all of them are features of the `Isa` too.
        arch: "x86_64" or "aarch64"; "any" for what needs no feature.
        vector_bits: width of a register.
        registers: how many there are.
        used: extensions that change how kernels are made.
        unused: extensions that are recognised but change no kernel yet.
    """

    requires: tuple[str, ...]
    arch: str
    vector_bits: int
    registers: int
    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


PORTABLE = VectorSet((), "any", 128, 16, unused=("ssse3",))
VECTOR_SETS = (
    VectorSet(("avx2", "avx512bw"), "x86_64", 512, 32, used=("avx512vpopcntdq", "avx512vnni")),
    VectorSet(("avx2",), "x86_64", 256, 16, used=("avxvnni",)),
    VectorSet(("neon",), "aarch64", 128, 32, used=("dotprod",), unused=("i8mm", "sve", "sve2")),
    PORTABLE,
)
"""Every vector set, the best first. A CPU is scheduled for the first one that it has, with the extensions of
that set only: AVX-VNNI is of no use to 512-bit vectors, nor VPOPCNTDQ without AVX-512BW."""

_ALIASES = {"avx512vpopcntdq": "vpopcntdq", "avx512vnni": "vnni"}
_DOT_INSTRUCTIONS = {"vnni": "vnni", "avxvnni": "vnni", "dotprod": "dotprod", "avx2": "maddubs"}


def _known_name(llvm: str) -> str:
    """Our name of a feature: LLVM's, without the prefix of two that are long."""
    return _ALIASES.get(llvm, llvm)


FEATURES = frozenset(_known_name(f) for v in VECTOR_SETS for f in (*v.requires, *v.used, *v.unused))
"""The names that `Isa.has` understands."""
_SCHEDULED = frozenset(_known_name(f) for v in VECTOR_SETS for f in (*v.requires, *v.used))


@dataclass(frozen=True)
class Isa:
    """A CPU's name and features; everything that a kernel asks for is derived from the features.

    Attributes:
        name: LLVM's name of the CPU.
        features: the CPU's names among `FEATURES`: "avx2", "avx512bw", "vpopcntdq", "vnni" (AVX-512 VNNI),
            "avxvnni", "neon", "dotprod", "i8mm", "sve", "sve2", "ssse3".
    """

    name: str
    features: frozenset[str] = frozenset()

    def has(self, feature: str) -> bool:
        """Whether the CPU has a feature of `FEATURES`.

        Raises:
            KeyError: no such feature is known.
        """
        if feature not in FEATURES:
            raise KeyError(f"unknown feature {feature!r}: expected one of {', '.join(sorted(FEATURES))}")
        return feature in self.features

    @property
    def vectors(self) -> VectorSet:
        """The vector registers that kernels use."""
        return next(v for v in VECTOR_SETS if self.features.issuperset(v.requires))

    @property
    def vector_bits(self) -> int:
        """Width of a vector register: 128, 256 or 512."""
        return self.vectors.vector_bits

    @property
    def registers(self) -> int:
        """Number of vector registers: 16 or 32."""
        return self.vectors.registers

    @property
    def has_popcount(self) -> bool:
        """Whether one instruction counts the bits of every 64-bit lane.

        Without it counts are kept per byte and widened rarely.
        """
        return self.has("vpopcntdq")

    @property
    def dot(self) -> str:
        """What multiplies bytes.

        "vnni" (VPDPBUSD) and "dotprod" (SDOT, UDOT) add four products to 32 bits, "maddubs" (VPMADDUBSW) two
        to 16 bits; "none" leaves widening multiplications.
        """
        return next((dot for name, dot in _DOT_INSTRUCTIONS.items() if self.has(name)), "none")

    @property
    def word_lanes(self) -> int:
        """64-bit lanes in a vector."""
        return self.vector_bits // WORD_BITS

    @property
    def float_lanes(self) -> int:
        """32-bit lanes in a vector."""
        return self.vector_bits // 32

    @property
    def block(self) -> int:
        """Weight columns stored next to each other by `layouts.interleave`.

        Four vectors of words, and 32 columns where the vectors are wide: two vectors of a table lookup.
        """
        columns = _MIN_BLOCK_VECTORS * self.word_lanes
        return columns if self.vector_bits < 256 else max(columns, _MIN_WIDE_BLOCK)

    @property
    def schedule(self) -> Isa:
        """What the kernels depend on: two CPUs with equal schedules get the same kernels.

        >>> graviton3 = Isa.from_features("neoverse-v1", ["neon", "dotprod", "i8mm", "sve"])
        >>> graviton3.schedule == Isa.from_features("neoverse-n1", ["neon", "dotprod"]).schedule
        True
        """
        return Isa("", self.features & _SCHEDULED)

    @classmethod
    def from_features(cls, name: str, features: Collection[str]) -> Isa:
        """The instruction set of a CPU with these LLVM features.

        >>> isa = Isa.from_features("haswell", ["avx2", "bmi", "fma"])
        >>> sorted(isa.features), isa.vector_bits, isa.dot
        (['avx2'], 256, 'maddubs')
        """
        has = frozenset(features)
        vectors = next(v for v in VECTOR_SETS if has.issuperset(v.requires))
        counted = (*vectors.requires, *vectors.used, *vectors.unused, *PORTABLE.unused)
        return cls(name, frozenset(_known_name(feature) for feature in counted if feature in has))
