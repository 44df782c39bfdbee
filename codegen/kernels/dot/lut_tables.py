"""The LUT of products of small groups of codes, for `linear/lut_gemm.py`."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

from tbt_compile.codegen.kernels.dot.bit_product import BitProduct, PopcountTerm, plane_count
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

COLUMNS = 16
"""Columns per vector of 4-bit weight groups, and the number of values of such a group."""
ENTRY = 2 * COLUMNS
"""Bytes per table entry."""


class ProductTable:
    """The products of all activation and weight groups for one pair of encodings, as unsigned bytes.

    Attributes:
        product: the pair of encodings, and its popcount formula.
        group: elements per group, as many as fit four bits of weights.
        unit: greatest common divisor of the products; a product is `unit * (entry + min_product)`.
        min_product: the smallest product, in units.
        max_entry: the largest entry.
    """

    def __init__(self, product: BitProduct) -> None:
        self.product = product
        self.group = 4 // product.w.planes
        products = self._products()
        self.unit = gcd(*products)
        self.min_product = min(products) // self.unit
        self.max_entry = max(products) // self.unit - self.min_product

    @property
    def shift(self) -> int:
        """log2 of the unit, which is 1 or 2."""
        return self.unit.bit_length() - 1

    @property
    def index_bits(self) -> int:
        """Bits of an index: two groups of each activation plane."""
        return plane_count(self.product.x) * 2 * self.group

    @property
    def indices_per_word(self) -> int:
        """Indices per 64 elements."""
        return WORD_BITS // (2 * self.group)

    def fill(self, table: Buffer) -> None:
        """Emit the computation of table[ENTRY * index ...], uint8, for every index."""
        mask = (1 << self.group) - 1
        nibble = emit.let(T.reinterpret(f"uint8x{COLUMNS}", lane_numbers()))
        w = [
            (nibble >> byte_splat(plane * self.group)) & byte_splat(mask)
            for plane in range(self.product.w.planes)
        ]
        with emit.loop("index", 1 << self.index_bits) as index:
            for half in range(2):
                shifts = [(plane * 2 + half) * self.group for plane in range(plane_count(self.product.x))]
                x = [
                    emit.splat(T.cast((index >> T.int64(shift)) & T.int64(mask), "uint8"), COLUMNS)
                    for shift in shifts
                ]
                total = byte_splat(-self.min_product * self.unit)
                for term, planes in self._terms(x):
                    total = total + T.popcount(term.bits(planes, w)) * byte_splat(term.coefficient)
                value = total >> byte_splat(self.shift)
                emit.store(table, value, index * ENTRY + half * COLUMNS, lanes=COLUMNS)

    def _products(self) -> list[int]:
        x_planes, w_planes = plane_count(self.product.x), self.product.w.planes
        return [
            sum(
                term.coefficient * term.bits(planes, self._split(w, w_planes)).bit_count()
                for term, planes in self._terms(self._split(x, x_planes))
            )
            for x in range(1 << x_planes * self.group)
            for w in range(16)
        ]

    def _split(self, bits: int, planes: int) -> list[int]:
        return [bits >> plane * self.group & (1 << self.group) - 1 for plane in range(planes)]

    def _terms(self, x: Sequence[Any]) -> list[tuple[PopcountTerm, Sequence[Any]]]:
        return [(term, x) for term in self.product.terms] + [(term, ()) for term in self.product.columns]


def byte_splat(value: int, lanes: int = COLUMNS) -> Expr:
    """Broadcast a byte to every lane; a negative value wraps around."""
    return emit.splat(T.uint8(value & 255), lanes)


def lane_numbers() -> Expr:
    """The bytes 0, 1, ... 15 as two uint64 lanes."""
    words = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    return T.Shuffle([T.uint64(word) for word in words], [T.int32(0), T.int32(1)])
