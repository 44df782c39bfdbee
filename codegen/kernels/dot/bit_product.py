"""Dot products of bit-plane operands as sums of popcounts.

A dot product of codes is a sum of `coefficient * popcount(word)`, where each word is a few logical operations
on the planes of both operands. The words of `x` (activations, queries, probabilities) are broadcast; adjacent
columns of `w` (weights, keys, values) fill the lanes of a vector. Padding bits are zero in both operands and
contribute nothing.

Write x = sum_i a_i x_i for the planes of a positional encoding (two's complement for INT8) and A = sum_i a_i.
Flipping every plane bit gives A - x, hence -x = flip(x) - A. A ternary weight w = (nonzero m, sign s) thus
costs no more than a binary one:

    x . w = sum_i a_i popcount((x_i ^ s) & m) - A popcount(s)

The second term depends on the column only.
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
    """Number of planes of an operand inside a kernel; 8-bit codes have eight."""
    return encoding.planes or len(PLANE_WEIGHTS[encoding])


@dataclass(frozen=True)
class PopcountTerm:
    """A term `coefficient * popcount(bits(x planes, w planes))`, summed over the words of K."""

    coefficient: int
    bits: Callable[[Planes, Planes], Expr]


@dataclass(frozen=True)
class BitProduct:
    """The popcount formula of the dot product for one pair of encodings.

    dot = per_element * K + sum_i row[i] * popcount(x_i) + sum(columns) + sum(terms)

    Attributes:
        x: encoding of the rows.
        w: encoding of the columns.
        terms: terms of every (row, column) pair.
        columns: terms that depend on w only, computed once per column and shared by the rows of a tile.
        row: coefficient of the popcount of each plane of x; `PackedRows` sums these while packing.
        per_element: constant for each of the K elements.
    """

    x: Encoding
    w: Encoding
    terms: tuple[PopcountTerm, ...]
    columns: tuple[PopcountTerm, ...] = ()
    row: tuple[int, ...] = ()
    per_element: int = 0

    @property
    def coefficients(self) -> tuple[int, ...]:
        """The distinct coefficients of `terms`; each gets one accumulator."""
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
