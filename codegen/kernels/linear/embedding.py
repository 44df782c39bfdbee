"""Embedding lookup from packed weights: y[m, :] = codes[ids[m], :] * scale[ids[m]].

The kernel reads the weight layouts of `linear`: an embedding tied to the output projection is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.weight_planes import load_word, unpaired
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.layouts import Layout, interleaved_shape
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_LANES = 16


@dataclass(frozen=True)
class EmbeddingSpec:
    """An embedding table.

    Attributes:
        n: rows of the table.
        k: features.
        weight: BINARY, TERNARY or INT8.
        layout: layout of the weight, which a linear layer may share.
        isa: instruction set that fixes the block size; the same as for `linear`.
    """

    n: int
    k: int
    weight: Encoding
    layout: Layout
    isa: Isa


def embedding(spec: EmbeddingSpec) -> PrimFunc:
    """Look up M rows of a table, M symbolic.

    Arguments:
        ids: int64 [M], clipped to [0, N) to avoid reads out of bounds
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block] from `layouts.arrange`, or int8 [N, K] if
            the weight is INT8
        w_scale: float32 [N]
        y: float32 [M, K], the output
    """
    return emit.function("embedding", lambda: _embedding(spec))


def _embedding(spec: EmbeddingSpec) -> None:
    count = emit.symbol("m")
    ids = emit.argument("ids", (count,), "int64")
    packed = spec.weight is not Encoding.INT8
    shape = interleaved_shape(spec.n, spec.k, spec.weight, spec.isa) if packed else (spec.n, spec.k)
    w = emit.argument("w", shape, "uint64" if packed else "int8")
    w_scale = emit.argument("w_scale", (spec.n,), "float32")
    y = emit.argument("y", (count, spec.k), "float32")

    def codes(row: Expr, k: Expr, lanes: int) -> Expr:
        if not packed:
            return emit.cast(emit.load(w, row, k, lanes=lanes), "int32", lanes)
        words = [load_word(w, spec.layout, row, k // WORD_BITS, plane) for plane in range(spec.weight.planes)]
        if spec.layout is Layout.PAIRS:
            words = unpaired(words, 1)
        planes = [_bits(word, k % WORD_BITS, lanes) for word in words]
        if spec.weight is Encoding.TERNARY:
            return planes[0] - planes[1] * emit.splat(T.int32(2), lanes)
        return emit.splat(T.int32(1), lanes) - planes[0] * emit.splat(T.int32(2), lanes)

    with emit.loop("m", count) as m:
        row = emit.let(T.min(T.max(ids[m], T.int64(0)), T.int64(spec.n - 1)))
        scale = emit.let(w_scale[row])

        def write(k: Expr, lanes: int) -> None:
            values = emit.cast(codes(row, k, lanes), "float32", lanes) * emit.splat(scale, lanes)
            emit.store(y, values, m, k, lanes=lanes)

        with emit.loop("group", spec.k // _LANES) as group:
            write(group * _LANES, _LANES)
        with emit.loop("rest", spec.k % _LANES) as rest:
            write(spec.k // _LANES * _LANES + rest, 1)


def _bits(word: Expr, first: Expr, lanes: int) -> Expr:
    """Bits first .. first + lanes - 1 of a word as int32 lanes; they do not cross the word."""
    low = emit.splat(T.cast(word >> T.cast(first, "uint64"), "int32"), lanes)
    lane = T.Ramp(T.int32(0), T.int32(1), lanes) if lanes > 1 else T.int32(0)
    return (low >> lane) & emit.splat(T.int32(1), lanes)
