"""Instruction sets as the kernels see them: the features of a CPU, and the schedule parameters they imply.

`VECTOR_SETS` is the only place that reads LLVM's feature names. To use another extension of a known vector
set in kernels, move its name from `unused` to `used` there, test for it with `Isa.has`, and add a row to a
table in `kernels/strategy.py`. Wider registers (SVE of 256 bits) are a new `VectorSet`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WORD_BITS = 64
_MIN_BLOCK_VECTORS = 4
_MIN_WIDE_BLOCK = 32


@dataclass(frozen=True)
class VectorSet:
    """A set of vector registers, and the relevant extensions of it.

    Attributes:
        requires: LLVM features that imply the registers; all are features of the `Isa` too.
        arch: "x86_64" or "aarch64"; "any" for the portable set.
        vector_bits: width of a register.
        registers: number of registers.
        used: extensions that kernels are specialised for.
        unused: extensions that are recognised but that no kernel uses yet.
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
    VectorSet(("neon",), "aarch64", 128, 32, used=("dotprod", "i8mm"), unused=("sve", "sve2")),
    PORTABLE,
)
"""All vector sets, best first. Kernels are scheduled for the first set that a CPU has and for extensions of
that set only: AVX-VNNI does not help 512-bit vectors, nor VPOPCNTDQ without AVX-512BW."""

_ALIASES = {"avx512vpopcntdq": "vpopcntdq", "avx512vnni": "vnni"}
_DOT_INSTRUCTIONS = {"vnni": "vnni", "avxvnni": "vnni", "dotprod": "dotprod", "avx2": "maddubs"}


def _known_name(llvm: str) -> str:
    """The name of a feature here: LLVM's, except for two aliases."""
    return _ALIASES.get(llvm, llvm)


FEATURES = frozenset(_known_name(f) for v in VECTOR_SETS for f in (*v.requires, *v.used, *v.unused))
"""The features that `Isa.has` accepts."""
_SCHEDULED = frozenset(_known_name(f) for v in VECTOR_SETS for f in (*v.requires, *v.used))


@dataclass(frozen=True)
class Isa:
    """The name and features of a CPU; all schedule parameters are derived from the features.

    Attributes:
        name: LLVM's name of the CPU.
        features: a subset of `FEATURES`: "avx2", "avx512bw", "vpopcntdq", "vnni" (AVX-512 VNNI), "avxvnni",
            "neon", "dotprod", "i8mm", "sve", "sve2", "ssse3".
    """

    name: str
    features: frozenset[str] = frozenset()

    def has(self, feature: str) -> bool:
        """Whether the CPU has a feature of `FEATURES`.

        Raises:
            KeyError: the feature is unknown.
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
        """Whether there is a vector popcount of 64-bit lanes.

        Without one, popcounts accumulate per byte and are widened rarely.
        """
        return self.has("vpopcntdq")

    @property
    def dot(self) -> str:
        """The byte dot product.

        "vnni" (VPDPBUSD) and "dotprod" (SDOT, UDOT) sum four products in 32 bits, "maddubs" (VPMADDUBSW) two
        products in 16 bits; "none" means widening multiplications.
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
        """The number of weight columns that `layouts.interleave` stores next to each other.

        Four vectors of words; on AVX2 and AVX-512 at least 32 columns, which are two parts of a LUT GEMM.
        """
        columns = _MIN_BLOCK_VECTORS * self.word_lanes
        return columns if self.vector_bits < 256 else max(columns, _MIN_WIDE_BLOCK)

    @property
    def schedule(self) -> Isa:
        """The part of an instruction set that kernels depend on: CPUs with equal schedules share kernels.

        >>> graviton3 = Isa.from_features("neoverse-v1", ["neon", "dotprod", "i8mm", "sve"])
        >>> graviton3.schedule == Isa.from_features("cortex-x2", ["neon", "dotprod", "i8mm"]).schedule
        True
        """
        return Isa("", self.features & _SCHEDULED)

    @classmethod
    def from_features(cls, name: str, features: Collection[str]) -> Isa:
        """The instruction set of a CPU with the given LLVM features.

        >>> isa = Isa.from_features("haswell", ["avx2", "bmi", "fma"])
        >>> sorted(isa.features), isa.vector_bits, isa.dot
        (['avx2'], 256, 'maddubs')
        """
        has = frozenset(features)
        vectors = next(v for v in VECTOR_SETS if has.issuperset(v.requires))
        counted = (*vectors.requires, *vectors.used, *vectors.unused, *PORTABLE.unused)
        return cls(name, frozenset(_known_name(feature) for feature in counted if feature in has))
