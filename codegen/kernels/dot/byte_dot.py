"""Byte dot products, four per 32-bit lane, with the best instruction of the CPU.

With weights in {-1, 0, 1}, 16-bit accumulators last for many steps before they must be widened. Some
instructions take one unsigned and one signed operand: the weights are then stored biased, as w + offset, and
the caller corrects by the row sum of x, since sum x * (w + offset) = sum x * w + offset * sum x.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.x86 import multiply_bytes, multiply_signed_bytes
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, T
from tbt_compile.encoding import Encoding

GROUP = 4
"""Adjacent elements of K that share a 32-bit lane."""


@dataclass(frozen=True)
class ByteDot:
    """How one instruction set multiplies 8-bit activations with weights in {-1, 0, 1}.

    Attributes:
        isa: instruction set.
        x: INT8 or UINT8.
        int8_weights: whether the weights have 8 bits, -127 .. 127, instead.
    """

    isa: Isa
    x: Encoding
    int8_weights: bool = False

    @property
    def instruction(self) -> str:
        """The instruction that multiplies: `Isa.dot`, but for 8-bit weights.

        There the sums of VPMADDUBSW overflow for UINT8, and fit 16 bits for INT8 if the signs are moved to
        the weights ("signed maddubs", AVX2 only).
        """
        if not self.int8_weights or self.isa.dot != "maddubs":
            return self.isa.dot
        return "signed maddubs" if self.x is Encoding.INT8 and self.isa.vector_bits == 256 else "none"

    @property
    def offset(self) -> int:
        """The bias of weights that are stored unsigned."""
        return 128 if self.int8_weights else 1

    @property
    def biased(self) -> bool:
        """Whether weights are stored unsigned, as w + offset."""
        if self.int8_weights and self.instruction in ("none", "signed maddubs"):
            return False
        x86 = self.instruction in ("vnni", "maddubs")
        return x86 == (self.x is Encoding.INT8)

    @property
    def weight_type(self) -> str:
        """The type of a stored weight byte."""
        return "uint8" if self.biased else "int8"

    @property
    def max_steps(self) -> int | None:
        """The number of steps before a 16-bit accumulator must be widened; None for 32-bit accumulators.

        A step adds at most 2 * 2 * 127 or 2 * 255 to an int16 (maddubs), else 127 to an int16 or 2 * 255 to
        a uint16. With 8-bit weights a step adds at most 127 * 127 or 255 * 127 to an int16.
        """
        if self.instruction in ("vnni", "dotprod", "signed maddubs"):
            return None
        if self.int8_weights:
            return 2 if self.x is Encoding.INT8 else 1
        return 64 if self.instruction == "maddubs" else 128

    def accumulator(self) -> Accumulator:
        """A new accumulator, one int32 lane per column."""
        return Accumulator(self)


class Accumulator:
    """The accumulator of one row times one vector of columns."""

    def __init__(self, dot: ByteDot) -> None:
        self.how = dot
        self.lanes = dot.isa.float_lanes
        self.total = emit.Register("total", "int32", self.lanes, emit.splat(T.int32(0), self.lanes))
        self.narrow: emit.Register | None = None
        if dot.max_steps is not None:
            self.narrow_type = "uint16" if dot.instruction == "none" and dot.biased else "int16"
            self.narrow_lanes = self.lanes * (2 if dot.instruction == "maddubs" else GROUP)
            self.narrow = emit.Register("narrow", self.narrow_type, self.narrow_lanes, self._narrow_zero())

    def step(self, weights: Expr, x: Expr) -> None:
        """Add four products per lane: a vector of bytes times an int32 of four codes, broadcast."""
        count = self.lanes * GROUP
        kind = "int8" if self.how.x is Encoding.INT8 else "uint8"
        self.multiply(weights, T.reinterpret(f"{kind}x{count}", emit.splat(x, self.lanes)))

    def multiply(self, weights: Expr, codes: Expr) -> None:
        """Add four products per lane of two vectors of bytes."""
        count = self.lanes * GROUP
        dot = self.how.instruction
        unsigned, signed = (weights, codes) if self.how.biased else (codes, weights)
        if dot == "vnni":
            name = f"llvm.x86.avx512.vpdpbusd.{self.how.isa.vector_bits}"
            self.total.set(self._intrinsic("int32", self.lanes, name, self.total.get(), unsigned, signed))
        elif dot == "dotprod":
            name = "llvm.aarch64.neon.udot" if self.how.biased else "llvm.aarch64.neon.sdot"
            self.total.set(self._intrinsic("int32", self.lanes, name, self.total.get(), weights, codes))
        elif dot == "signed maddubs":
            self.total.add(multiply_signed_bytes(codes, weights))
        elif dot == "maddubs":
            assert self.narrow is not None
            self.narrow.add(multiply_bytes(unsigned, signed, count))
        else:
            assert self.narrow is not None
            product = emit.cast(weights, self.narrow_type, count) * emit.cast(codes, self.narrow_type, count)
            self.narrow.add(product)

    def widen(self) -> None:
        """Add the 16-bit sums to the 32-bit sums and clear them; a no-op for 32-bit accumulators."""
        if self.narrow is None:
            return
        value, lanes = emit.let(emit.cast(self.narrow.get(), "int32", self.narrow_lanes)), self.narrow_lanes
        while lanes > self.lanes:
            even, odd = (emit.shuffle(value, range(first, lanes, 2)) for first in (0, 1))
            value, lanes = emit.let(even + odd), lanes // 2
        self.total.add(value)
        self.narrow.set(self._narrow_zero())

    def _narrow_zero(self) -> Expr:
        return emit.splat(T.cast(0, self.narrow_type), self.narrow_lanes)

    @staticmethod
    def _intrinsic(dtype: str, lanes: int, name: str, *operands: Expr) -> Expr:
        return T.call_llvm_pure_intrin(f"{dtype}x{lanes}", name, *operands)
