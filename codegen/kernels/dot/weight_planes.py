"""Read the bit-planes of weights from any layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.layouts import Layout, quarter_group
from tbt_compile.codegen.tvm_api import Buffer, Expr, T


def unpaired(words: Sequence[Expr], lanes: int) -> list[Expr]:
    """Convert words in `Layout.PAIRS` back to the planes (nonzero, sign), vectors of `lanes` words each."""
    even, odd = (emit.let(word) for word in words)
    low, one = emit.splat(T.uint64(0x5555555555555555), lanes), emit.splat(T.uint64(1), lanes)
    zero = (even & low) | ((odd & low) << one)
    return [emit.let(~zero), emit.let(((even >> one) & low) | (odd & ~low))]


def load_word(weights: Buffer, layout: Layout, column: Expr, word: Expr, plane: int) -> Expr:
    """Load one word of a column of arranged weights.

    Args:
        weights: uint64 [blocks, W, P, block].
        layout: layout of the weights.
        column: row of the stored weight matrix, 0 .. N - 1.
        word: 0 .. W - 1.
        plane: 0 .. P - 1; in `Layout.PAIRS`, 0 for even and 1 for odd elements.

    Returns:
        The word, uint64.
    """
    size = weights.shape[-1].value
    block, lane = column // size, column % size
    if layout is Layout.OCTETS:
        return _word_of_octets(weights, block, word, plane, lane)
    if layout is not Layout.QUARTERS:
        return weights[block, word, plane, lane]
    blocks, _, planes, _ = (extent.value for extent in weights.shape)
    group = quarter_group(planes)
    first = emit.let(block // group * group)
    pieces = emit.let(T.min(T.int64(group), blocks - first) * planes)
    result: Expr = T.uint64(0)
    shift = T.cast(lane % 4 * 16, "uint64")
    for quarter in range(4):
        piece = (word * 4 + quarter) * pieces + (block - first) * planes + plane
        bits = flat(weights)[quarter_start(weights, first) + piece * 2 + lane // 4] >> shift
        result = result | ((bits & T.uint64(0xFFFF)) << T.uint64(16 * quarter))
    return result


def _word_of_octets(weights: Buffer, block: Expr, word: Expr, plane: int, lane: Expr) -> Expr:
    _, words, planes, size = (extent.value for extent in weights.shape)
    result: Expr = T.uint64(0)
    # A code is nonzero if it is positive or negative.
    for stored in range(plane, planes):
        place = lane * planes + stored
        shift = T.cast(place % 8 * 8, "uint64")
        for octet in range(8):
            piece = (block * words + word) * 8 + octet
            bits = flat(weights)[piece * (size * planes // 8) + place // 8] >> shift
            result = result | ((bits & T.uint64(0xFF)) << T.uint64(8 * octet))
    return result


def flat(weights: Buffer) -> Buffer:
    """A view of all words in memory order, for the layouts that are not arrays of words of columns."""
    return T.decl_buffer(
        (reduce(mul, (extent.value for extent in weights.shape)),), weights.dtype, data=weights.data
    )


def words_per_block(weights: Buffer) -> int:
    """The number of words of a block."""
    return reduce(mul, (extent.value for extent in weights.shape[1:]))


def quarter_start(weights: Buffer, block: Expr) -> Expr:
    """The index of the first word of the group that begins with `block`, in `Layout.QUARTERS`."""
    return block * words_per_block(weights)
