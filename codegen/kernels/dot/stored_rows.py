"""Rows of a stored weight as floats, decoded in registers: codes with a scale, or half precision.

w[n, k] = code[n, k] * scale[n, k // (K / G)]
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.weight_planes import load_word, unpaired
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.layouts import Layout, interleaved_shape
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


@dataclass(frozen=True)
class StoredSpec:
    """A stored weight.

    Attributes:
        n: rows.
        k: columns.
        weight: BINARY, TERNARY, INT8, BFLOAT16 or FLOAT16.
        layout: of bit-planes.
        isa: instruction set that fixes the block size.
        groups: groups of columns with a scale each; the columns of a group are a multiple of 16.
    """

    n: int
    k: int
    weight: Encoding
    layout: Layout
    isa: Isa
    groups: int = 1


class StoredRows:
    """The arguments of a stored weight and its scales.

    Arguments:
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block] from `layouts.arrange`; int8 [N, K] for
            8 bits; int16 [N, K] with the bits of floats for half precision
        w_scale: float32 [N * G]
    """

    def __init__(self, spec: StoredSpec) -> None:
        self.spec = spec
        if spec.weight.planes:
            shape = interleaved_shape(spec.n, spec.k, spec.weight, spec.isa)
            self.w: Buffer = emit.argument("w", shape, "uint64")
        else:
            self.w = emit.argument("w", (spec.n, spec.k), "int16" if spec.weight.half else "int8")
        self.scale: Buffer = emit.argument("w_scale", (spec.n * spec.groups,), "float32")

    def row(self, n: Expr) -> emit.Load:
        """The loader of one row, in float32; vectors start at multiples of their lanes."""
        size = self.spec.k // self.spec.groups

        def values(k: Expr, lanes: int) -> Expr:
            place = n if self.spec.groups == 1 else n * self.spec.groups + k // size
            return self._values(n, k, lanes, emit.splat(emit.let(self.scale[place]), lanes))

        return values

    def _values(self, n: Expr, k: Expr, lanes: int, scale: Expr) -> Expr:
        encoding = self.spec.weight
        if encoding.planes:
            return self._from_planes(n, k, lanes, scale)
        stored = emit.load(self.w, n, k, lanes=lanes)
        if encoding is Encoding.INT8:
            return emit.cast(emit.cast(stored, "int32", lanes), "float32", lanes) * scale
        if encoding is Encoding.FLOAT16:
            return emit.cast(T.reinterpret(emit.vector("float16", lanes), stored), "float32", lanes) * scale
        bits = emit.cast(stored, "int32", lanes) << emit.splat(T.int32(16), lanes)
        return T.reinterpret(emit.vector("float32", lanes), bits) * scale

    def _from_planes(self, n: Expr, k: Expr, lanes: int, scale: Expr) -> Expr:
        """Scales with the sign of the codes, and zeros: bits select, nothing is multiplied."""
        spec = self.spec
        words = [load_word(self.w, spec.layout, n, k // WORD_BITS, p) for p in range(spec.weight.planes)]
        if spec.layout is Layout.PAIRS:
            words = unpaired(words, 1)
        *nonzero, negative = (_bits(word, k % WORD_BITS, lanes) for word in words)
        signed = T.Select(negative, -scale, scale)
        return T.Select(nonzero[0], signed, emit.constant(0.0, "float32", lanes)) if nonzero else signed


def _bits(word: Expr, first: Expr, lanes: int) -> Expr:
    """Whether bits first .. first + lanes - 1 of a word are set; they do not cross the word."""
    low = emit.splat(T.cast(word >> T.cast(first, "uint64"), "int32"), lanes)
    lane = T.Ramp(T.int32(0), T.int32(1), lanes) if lanes > 1 else T.int32(0)
    mask = emit.splat(T.int32(1), lanes) << lane
    return (low & mask) != emit.splat(T.int32(0), lanes)
