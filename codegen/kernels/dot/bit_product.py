"""Products of two bit-packed vectors as popcounts of planes.

A dot product of codes is a sum of `coefficient * popcount(word)` over words made of a few logical operations
on the planes of both operands. `x` is the operand whose words are broadcast (activations, queries,
probabilities), `w` the one whose neighbours fill the lanes of a vector (weights, keys, values). Padding bits
are zero in both and never count.

Write x = sum_i a_i x_i for the planes of a positional encoding (two's complement for INT8), A = sum_i a_i.
Flipping every plane bit gives A - x, so that -x = flip(x) - A. A ternary weight w = (nonzero m, sign s)
therefore costs no more than a binary one:

    x . w = sum_i a_i popcount((x_i ^ s) & m) - A popcount(s)

where the second term depends on the column only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tbt_compile.codegen.tvm_api import Expr
from tbt_compile.encoding import Encoding

Planes = Sequence[Expr]

PLANE_WEIGHTS = {
    Encoding.BINARY01: (1,),
    Encoding.TERNARY012: (1, 2),
    Encoding.INT8: (1, 2, 4, 8, 16, 32, 64, -128),
    Encoding.UINT8: (1, 2, 4, 8, 16, 32, 64, 128),
}


def plane_count(encoding: Encoding) -> int:
    """Planes of an operand inside a kernel; 8-bit codes are split into their bits."""
    return encoding.planes or len(PLANE_WEIGHTS[encoding])


@dataclass(frozen=True)
class PopcountTerm:
    """`coefficient * popcount(bits(x planes, w planes))`, summed over the words of K."""

    coefficient: int
    bits: Callable[[Planes, Planes], Expr]


@dataclass(frozen=True)
class BitProduct:
    """How to multiply one pair of encodings.

    dot = per_element * K + sum_i row[i] * popcount(x_i) + sum(columns) + sum(terms)

    Attributes:
        terms: needed for every (row, column).
        columns: depend on w only, computed once per column and shared by the rows of a tile.
        row: coefficient of the popcount of each plane of x; the sum is found while packing.
        per_element: added once for each of the K elements.
    """

    x: Encoding
    w: Encoding
    terms: tuple[PopcountTerm, ...]
    columns: tuple[PopcountTerm, ...] = ()
    row: tuple[int, ...] = ()
    per_element: int = 0

    @property
    def coefficients(self) -> tuple[int, ...]:
        """Distinct coefficients of `terms`, one accumulator each."""
        return tuple(dict.fromkeys(term.coefficient for term in self.terms))


def bit_product(x: Encoding, w: Encoding) -> BitProduct:
    """The popcount formula for x (any 1, 2 or 8 bit encoding) times w (any 1 or 2 bit encoding)."""
    if w is Encoding.BINARY:
        return _times_binary(x)
    if w is Encoding.TERNARY:
        return _times_ternary(x)
    return _times_positional(x, w)


def _times_binary(x: Encoding) -> BitProduct:
    w = Encoding.BINARY
    if x is Encoding.BINARY:
        return BitProduct(x, w, (PopcountTerm(-2, lambda a, b: a[0] ^ b[0]),), per_element=1)
    if x is Encoding.TERNARY:
        return BitProduct(x, w, (PopcountTerm(-2, lambda a, b: a[0] & (a[1] ^ b[0])),), row=(1, 0))
    weights = PLANE_WEIGHTS[x]
    terms = tuple(PopcountTerm(-2 * weight, _and(i, 0)) for i, weight in enumerate(weights))
    return BitProduct(x, w, terms, row=weights)


def _times_ternary(x: Encoding) -> BitProduct:
    w = Encoding.TERNARY
    if x is Encoding.BINARY:
        differ = PopcountTerm(-2, lambda a, b: b[0] & (a[0] ^ b[1]))
        return BitProduct(x, w, (differ,), columns=(PopcountTerm(1, _column(0)),))
    if x is Encoding.TERNARY:
        both = PopcountTerm(1, lambda a, b: a[0] & b[0])
        differ = PopcountTerm(-2, lambda a, b: (a[0] & b[0]) & (a[1] ^ b[1]))
        return BitProduct(x, w, (both, differ))
    weights = PLANE_WEIGHTS[x]
    terms = tuple(PopcountTerm(weight, _flip_where_negative(i)) for i, weight in enumerate(weights))
    return BitProduct(x, w, terms, columns=(PopcountTerm(-sum(weights), _column(1)),))


def _times_positional(x: Encoding, w: Encoding) -> BitProduct:
    terms: list[PopcountTerm] = []
    columns: list[PopcountTerm] = []
    for j, weight in enumerate(PLANE_WEIGHTS[w]):
        if x is Encoding.BINARY:
            columns.append(PopcountTerm(weight, _column(j)))
            terms.append(PopcountTerm(-2 * weight, _and(0, j)))
        elif x is Encoding.TERNARY:
            terms += [PopcountTerm(weight, _and(0, j)), PopcountTerm(-2 * weight, _and(1, j))]
        else:
            terms += [PopcountTerm(own * weight, _and(i, j)) for i, own in enumerate(PLANE_WEIGHTS[x])]
    return BitProduct(x, w, tuple(terms), columns=tuple(columns))


def _and(i: int, j: int) -> Callable[[Planes, Planes], Expr]:
    return lambda a, b: a[i] & b[j]


def _column(j: int) -> Callable[[Planes, Planes], Expr]:
    return lambda _, b: b[j]


def _flip_where_negative(i: int) -> Callable[[Planes, Planes], Expr]:
    return lambda a, b: (a[i] ^ b[1]) & b[0]
