"""Quantize a row of floats and pack it into bit-planes, 64 codes at a time.

Codes are defined by comparisons, on which every engine agrees bit for bit. With the learned scale a, and x'
the row minus its mean if the row is centred:

    BINARY      sign plane: x' < 0                         TERNARY     nonzero: |x'| > a/2, sign: x' < -a/2
    BINARY01    value plane: x > a/2                       TERNARY012  codes 1: x > a/2, 2: x >= 3a/2
    INT8        round half even of x * (127 / max|x|)      UINT8       of x * (255 / max(x, 0)), not below 0

The mask of a 64-lane comparison is a word of a plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tbt_compile.codegen.kernels.dot.bit_product import plane_count
from tbt_compile.codegen.kernels.dsl import emit, sums
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Expr, T
from tbt_compile.encoding import LEAST_PEAK, Encoding

StorePlanes = Callable[[Expr, list[Expr]], None]
"""`store(word, planes)`: stores word number `word` of every plane, uint64."""

_COPY_LANES = 8
_INFINITY = 0x7F800000  # the bits of a float32


@dataclass(frozen=True)
class RowFormat:
    """How to quantize the rows of one operand.

    Attributes:
        encoding: any quantized encoding.
        isa: instruction set.
        center: whether to subtract the row mean first; ignored unless BINARY or TERNARY.
        floor: at 8 bits, the least that the largest magnitude of a row counts as, if any.
    """

    encoding: Encoding
    isa: Isa
    center: bool = False
    floor: float | None = None

    @property
    def centred(self) -> bool:
        """Whether rows are centred; non-negative and 8-bit codes never are."""
        return self.center and self.encoding in (Encoding.BINARY, Encoding.TERNARY)


def mean_of_row(load: emit.Load, length: Expr | int) -> Expr:
    """The float32 mean of a row, summed in float64 in a fixed order."""
    total = sums.total(lambda k, lanes: emit.cast(load(k, lanes), "float64", lanes), length, "float64")
    return emit.let(T.cast(total / T.cast(length, "float64"), "float32"))


def row_scale(
    load: emit.Load, length: Expr | int, encoding: Encoding, floor: float | None = None
) -> tuple[Expr, Expr]:
    """The dynamic scale of an 8-bit row, and its reciprocal.

    Args:
        load: loads float32 elements of the row.
        length: number of elements.
        encoding: INT8 or UINT8.
        floor: the least that the maximum counts as, if any.

    Returns:
        The scale max / levels, and levels / max, or 0 for a row of zeros; float32. A row with NaN has the
        scale NaN and the codes 0.
    """
    levels = T.float32(127.0 if encoding is Encoding.INT8 else 255.0)
    # As integers, the bits of floats from 0 on are ordered, and NaN is the largest: it reaches the scale.
    magnitudes = lambda k, lanes: _magnitude_bits(load(k, lanes), lanes, encoding)  # noqa: E731
    least_bits = int(np.float32(floor or 0.0).view(np.int32))
    bits = sums.fold(magnitudes, length, "int32", T.max, least_bits)
    largest = emit.let(T.reinterpret("float32", bits))
    least = T.float32(LEAST_PEAK)
    inverse = emit.let(T.Select(largest > least, levels / T.max(largest, least), T.float32(0)))
    return emit.let(largest / levels), inverse


def _magnitude_bits(values: Expr, lanes: int, encoding: Encoding) -> Expr:
    """The bits of |x|, or for UINT8 those of x, where NaN loses its sign and negative floats are below 0."""
    bits = emit.let(T.reinterpret(emit.vector("int32", lanes), emit.let(values)))
    unsigned = emit.let(bits & emit.splat(T.int32(0x7FFFFFFF), lanes))
    if encoding is Encoding.INT8:
        return unsigned
    return T.Select(unsigned > emit.splat(T.int32(_INFINITY), lanes), unsigned, bits)


def code_bytes(values: Expr, lanes: int, inverse: Expr, encoding: Encoding) -> Expr:
    """Quantize float32 lanes to 8-bit codes.

    Args:
        values: float32, a vector of `lanes`.
        lanes: lanes of the vector.
        inverse: float32, the reciprocal of the scale.
        encoding: INT8 or UINT8.

    Returns:
        int8 or uint8, a vector of `lanes`.
    """
    scaled = T.nearbyint(values * emit.splat(inverse, lanes))
    if encoding is Encoding.UINT8:
        scaled = T.max(scaled, emit.splat(T.float32(0), lanes))
    whole = emit.cast(scaled, "int32", lanes)
    return emit.cast(whole, "int8" if encoding is Encoding.INT8 else "uint8", lanes)


def pack_row(
    load: emit.Load, length: Expr | int, scale: Expr, form: RowFormat, store: StorePlanes
) -> Expr | None:
    """Quantize a row and pack it into bit-planes; padding bits are zero.

    Args:
        load: loads float32 elements of the row.
        length: number of elements.
        scale: float32, the learned scale; unused by 8-bit encodings.
        form: the encoding, and whether the row is centred.
        store: stores the words of all planes, 64 elements at a time.

    Returns:
        The dynamic scale of an 8-bit row, float32; None for other encodings.
    """
    mean = mean_of_row(load, length) if form.centred else None
    dynamic, factor = None, scale
    if form.encoding.dynamic:
        dynamic, factor = row_scale(load, length, form.encoding, form.floor)

    def word(index: Expr, values: Expr, used: Expr | None = None) -> None:
        planes = _planes(emit.let(values), mean, factor, form)
        store(index, planes if used is None else [plane & used for plane in planes])

    with emit.loop("word", length // WORD_BITS) as index:
        word(index, load(index * WORD_BITS, WORD_BITS))
    with emit.when(length % WORD_BITS != 0):
        neutral = mean if mean is not None else T.float32(0)
        start = length // WORD_BITS * WORD_BITS
        padded = emit.scratch("padded", (WORD_BITS,), "float32")
        emit.store(padded, emit.splat(neutral, WORD_BITS), 0, lanes=WORD_BITS)

        def copy(k: Expr, lanes: int) -> None:
            emit.store(padded, load(start + k, lanes), k, lanes=lanes)

        for_lanes(length % WORD_BITS, _COPY_LANES, copy)
        # Where the mean is NaN, so is the centred padding.
        used = (T.uint64(1) << T.cast(length % WORD_BITS, "uint64")) - T.uint64(1)
        word(length // WORD_BITS, emit.load(padded, 0, lanes=WORD_BITS), emit.let(used))
    return dynamic


def plane_bits(values: Expr, lanes: int, mean: Expr | None, scale: Expr, encoding: Encoding) -> list[Expr]:
    """Quantize float32 lanes to the plane bits of 1 and 2 bit codes.

    Args:
        values: float32, a vector of `lanes`.
        lanes: lanes of the vector.
        mean: float32, subtracted first; None to subtract nothing.
        scale: float32, the learned scale.
        encoding: BINARY, TERNARY, BINARY01 or TERNARY012.

    Returns:
        A vector of `lanes` booleans for each plane.
    """
    if mean is not None:
        values = emit.let(values - emit.splat(mean, lanes))
    half = emit.splat(T.float32(0.5) * scale, lanes)
    if encoding is Encoding.BINARY:
        # Not `values < 0`: NaN is -1 as well.
        positive = values >= emit.splat(T.float32(0), lanes)
        negative = T.Select(positive, emit.splat(T.uint8(0), lanes), emit.splat(T.uint8(1), lanes))
        return [negative != emit.splat(T.uint8(0), lanes)]
    if encoding is Encoding.BINARY01:
        return [values > half]
    if encoding is Encoding.TERNARY:
        minus = emit.splat(T.float32(-0.5) * scale, lanes)
        return [T.abs(values) > half, values < minus]
    two = values >= emit.splat(T.float32(1.5) * scale, lanes)
    return [T.And(values > half, values < emit.splat(T.float32(1.5) * scale, lanes)), two]


def static_code_bytes(values: Expr, lanes: int, mean: Expr | None, scale: Expr, encoding: Encoding) -> Expr:
    """Quantize float32 lanes to 1 or 2 bit codes, stored as bytes.

    Args:
        values: float32, a vector of `lanes`.
        lanes: lanes of the vector.
        mean: float32, subtracted first; None to subtract nothing.
        scale: float32, the learned scale.
        encoding: BINARY, TERNARY, BINARY01 or TERNARY012.

    Returns:
        int8, a vector of `lanes`.
    """

    def where(truth: Expr, value: int) -> Expr:
        return T.Select(truth, emit.splat(T.int8(value), lanes), emit.splat(T.int8(0), lanes))

    first, *second = plane_bits(values, lanes, mean, scale, encoding)
    if encoding is Encoding.BINARY:
        return emit.splat(T.int8(1), lanes) + where(first, -2)
    return where(first, 1) + (where(second[0], -2 if encoding.signed else 2) if second else 0)


def _planes(values: Expr, mean: Expr | None, factor: Expr, form: RowFormat) -> list[Expr]:
    """One word of each plane from a vector of 64 elements."""
    encoding = form.encoding
    if not encoding.dynamic:
        bits = plane_bits(values, WORD_BITS, mean, factor, encoding)
    else:
        codes = emit.let(T.reinterpret(f"int8x{WORD_BITS}", code_bytes(values, WORD_BITS, factor, encoding)))
        zero = emit.splat(T.int8(0), WORD_BITS)
        masks = [1 << bit if bit < 7 else -128 for bit in range(plane_count(encoding))]
        bits = [(codes & emit.splat(T.int8(mask), WORD_BITS)) != zero for mask in masks]
    return [_pack_word(truth, form.isa) for truth in bits]


def _pack_word(truth: Expr, isa: Isa) -> Expr:
    """Pack 64 booleans into a word; on AVX2, where LLVM packs bit by bit, with explicit VPMOVMSKB."""
    if isa.vector_bits != 256:
        return emit.movemask(truth, WORD_BITS)
    octets = T.Select(truth, emit.splat(T.uint8(255), WORD_BITS), emit.splat(T.uint8(0), WORD_BITS))
    octets = emit.let(octets)
    low, high = (
        T.call_llvm_pure_intrin(
            "uint32", "llvm.x86.avx2.pmovmskb", emit.shuffle(octets, range(start, start + 32))
        )
        for start in (0, 32)
    )
    return T.cast(low, "uint64") | (T.cast(high, "uint64") << T.uint64(32))
