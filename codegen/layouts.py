"""Bit-plane layouts of codes, in numpy.

The stored layout ("planes") is independent of the instruction set: code k of a row is in bit k % 64 of word
k // 64 of each plane, and the padding bits of the last word are zero.

    BINARY      1 plane: sign (1 means -1)
    TERNARY     2 planes: nonzero, sign (set only where nonzero)
    BINARY01    1 plane: value
    TERNARY012  2 planes: bit 0 and bit 1 of the value

`interleave` converts stored weight planes to the layout that the kernels of one instruction set read. Some
layers with 8-bit activations read another layout, see `Layout`.
"""

from __future__ import annotations

import functools
from enum import Enum

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError
from tbt_compile.storage.aligned import aligned_copy

SCALE_BYTES = 4
"""Bytes at the end of a row of 8-bit codes that hold its float32 scale, little-endian."""

PLANES_PER_GROUP = 8
"""Blocks times planes per group in `Layout.QUARTERS`."""
_LOW_BITS = np.uint64(0x5555555555555555)  # the low bit of every pair

Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int8]


class Layout(Enum):
    """The layout in which the kernels of an instruction set read a weight.

    Attributes:
        PLANES: interleaved bit-planes.
        PAIRS: interleaved 2-bit codes, see `pair`; for ternary weights in byte dot products.
        QUARTERS: planes interleaved by 16 bits, with several blocks in a group, see `by_quarters`; for
            weights that index LUTs of sums by TBL.
        OCTETS: planes interleaved by 8 bits, see `by_octets`; for weights that index LUTs of sums by VPSHUFB.
    """

    PLANES = "planes"
    PAIRS = "pairs"
    QUARTERS = "quarters"
    OCTETS = "octets"


def words_for(length: int) -> int:
    """The number of 64-bit words that hold `length` bits."""
    return -(-length // WORD_BITS)


def pack_planes(codes: npt.NDArray[np.integer], encoding: Encoding) -> Words:
    """Pack codes [..., K] of any integer dtype into uint64 planes [..., P, W], W = ceil(K / 64).

    Raises:
        LoweringError: the encoding has no bit-planes, or a code is not a level of it.
    """
    if encoding.planes == 0:
        raise LoweringError(f"{encoding.name} codes have no bit-planes: expected a 1 or 2 bit encoding")
    codes = np.asarray(codes)
    # Every value between the least and the largest level is one, but for 0 where codes are signs.
    outside = codes.size and (codes.min() < encoding.minimum or codes.max() > encoding.maximum)
    if outside or (encoding is Encoding.BINARY and not codes.all()):
        raise LoweringError(f"codes outside {encoding.name}: expected only {encoding.levels}")
    planes = {
        Encoding.BINARY: (codes < 0,),
        Encoding.TERNARY: (codes != 0, codes < 0),
        Encoding.BINARY01: (codes > 0,),
        Encoding.TERNARY012: ((codes & 1) != 0, (codes & 2) != 0),
    }[encoding]
    return _bits_to_words(np.stack(planes, axis=-2))


def unpack_planes(planes: Words, length: int, encoding: Encoding) -> Codes:
    """Unpack planes to codes; the inverse of `pack_planes`.

    Args:
        planes: uint64 [..., P, W].
        length: K.
        encoding: a 1 or 2 bit encoding.

    Returns:
        int8 [..., K].

    Raises:
        LoweringError: the number of planes or words does not match the encoding and length.
    """
    expected = (encoding.planes, words_for(length))
    if encoding.planes == 0 or planes.shape[-2:] != expected:
        raise LoweringError(
            f"planes of shape {planes.shape} cannot hold {length} {encoding.name} codes: "
            f"expected the last two dimensions to be {expected}"
        )
    octets = np.ascontiguousarray(planes).astype("<u8", copy=False).view(np.uint8)
    places = octets[..., 0, :].astype(np.uint16)
    if encoding.planes == 2:
        places |= octets[..., 1, :].astype(np.uint16) << 8
    codes = _codes_of_octets(encoding)[places].view(np.int8)
    return np.ascontiguousarray(codes[..., :length])


@functools.cache
def _codes_of_octets(encoding: Encoding) -> npt.NDArray[np.uint64]:
    """The 8 codes of every octet of a plane, or of every two of both planes, as one word."""
    octets = np.arange(256**encoding.planes, dtype="<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(octets, axis=-1, bitorder="little").reshape(-1, 4, 8).astype(np.int8)
    first, second = bits[:, 0], bits[:, 1]
    codes = {
        Encoding.BINARY: 1 - 2 * first,
        Encoding.TERNARY: first - 2 * second,
        Encoding.BINARY01: first,
        Encoding.TERNARY012: first + 2 * second,
    }[encoding]
    return np.ascontiguousarray(codes).view(np.uint64)[:, 0]


def pair(planes: Words) -> Words:
    """Convert ternary planes [..., 2, W] to 2-bit codes 1 - w, even elements in plane 0, odd in plane 1.

    The code of element k is in bits b and b + 1 of word k // 64 of plane k % 2, with b = k % 64 - k % 2.
    """
    zero, sign = ~planes[..., 0, :], planes[..., 1, :]
    one, low = np.uint64(1), _LOW_BITS
    even = (zero & low) | ((sign & low) << one)
    odd = ((zero >> one) & low) | (sign & ~low)
    return np.stack([even, odd], axis=-2)


def unpair(paired: Words) -> Words:
    """The inverse of `pair`."""
    even, odd = paired[..., 0, :], paired[..., 1, :]
    one, low = np.uint64(1), _LOW_BITS
    zero = (even & low) | ((odd & low) << one)
    sign = ((even >> one) & low) | (odd & ~low)
    return np.stack([~zero, sign], axis=-2)


def interleaved_shape(rows: int, length: int, encoding: Encoding, isa: Isa) -> tuple[int, int, int, int]:
    """The shape of an interleaved weight matrix.

    Args:
        rows: N.
        length: K.
        encoding: BINARY or TERNARY.
        isa: instruction set.

    Returns:
        [blocks, W, P, block].
    """
    return -(-rows // isa.block), words_for(length), encoding.planes, isa.block


def interleave(planes: Words, isa: Isa) -> Words:
    """Interleave weight planes [N, P, W] to [ceil(N / block), W, P, block], aligned; padding rows are zero.

    One vector load then reads the same word of adjacent output columns: dot products need no horizontal sums,
    and a block is one contiguous stream.
    """
    rows, count, words = planes.shape
    blocks = -(-rows // isa.block)
    padded = np.zeros((blocks * isa.block, count, words), np.uint64)
    padded[:rows] = planes
    return aligned_copy(padded.reshape(blocks, isa.block, count, words).transpose(0, 3, 2, 1))


def by_quarters(weights: Words) -> Words:
    """Reorder interleaved weights by groups of blocks: 16 bits of every column, then the next 16 bits.

    A vector of 128 bits then has the same two bytes of eight columns. A group has `quarter_group` blocks, the
    last group possibly fewer. Its dimensions, outermost first, are words, quarters, blocks, planes and
    columns: what a group multiplies with the same 16 activations is contiguous.
    """
    blocks, _, planes, _ = weights.shape
    quarters = weights.astype("<u8", copy=False).view("<u2").reshape(*weights.shape, 4).swapaxes(-1, -2)
    size = quarter_group(planes)
    groups = (quarters[first : first + size] for first in range(0, blocks, size))
    pieces = [group.transpose(1, 3, 0, 2, 4).reshape(-1) for group in groups]
    return aligned_copy(np.concatenate(pieces).view("<u8").reshape(weights.shape))


def quarter_group(planes: int) -> int:
    """The number of blocks per group in `Layout.QUARTERS`."""
    return PLANES_PER_GROUP // planes


def by_octets(weights: Words) -> Words:
    """Reorder interleaved weights by bytes: the first byte of every column and plane, then the next byte.

    Vectors of 32 bytes then have the same byte of adjacent columns. Dimensions, outermost first, are blocks,
    words, bytes, columns and planes. The planes of ternary weights become (positive, negative).
    """
    if weights.shape[2] == 2:
        nonzero, sign = weights[:, :, 0], weights[:, :, 1]
        weights = np.stack([nonzero & ~sign, sign], axis=2)
    octets = np.ascontiguousarray(weights).astype("<u8", copy=False).view(np.uint8)
    octets = octets.reshape(*weights.shape, 8).transpose(0, 1, 4, 3, 2)
    return aligned_copy(octets.reshape(-1)).view("<u8").reshape(weights.shape)


def arrange(planes: Words, layout: Layout, isa: Isa) -> Words:
    """Arrange weight planes in the layout that a kernel reads.

    Args:
        planes: uint64 [N, P, W].
        layout: the layout.
        isa: instruction set.

    Returns:
        uint64 [ceil(N / block), W, P, block], aligned.
    """
    weights = interleave(pair(planes) if layout is Layout.PAIRS else planes, isa)
    if layout is Layout.QUARTERS:
        return by_quarters(weights)
    return by_octets(weights) if layout is Layout.OCTETS else weights


def deinterleave(weights: Words, rows: int) -> Words:
    """The inverse of `interleave`: [blocks, W, P, block] -> planes [N, P, W] with N = `rows`."""
    blocks, words, count, block = weights.shape
    return np.ascontiguousarray(weights.transpose(0, 3, 2, 1).reshape(blocks * block, count, words)[:rows])


def _bits_to_words(bits: npt.NDArray[np.bool_]) -> Words:
    pad = -bits.shape[-1] % WORD_BITS
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, pad)])
    octets = np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little"))
    return octets.view("<u8").astype(np.uint64)
