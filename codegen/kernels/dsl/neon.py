"""AArch64 instructions that LLVM does not reliably select from generic vector code."""

from __future__ import annotations

from tbt_compile.codegen.tvm_api import Expr, T

OCTETS = "uint8x16"


def pair_sums(octets: Expr) -> Expr:
    """UADDLP: uint8x16 -> the sums of adjacent lanes, uint16x8; with an addition it becomes UADALP."""
    return T.call_llvm_pure_intrin("uint16x8", "llvm.aarch64.neon.uaddlp", octets)


def wide_pair_sums(halves: Expr) -> Expr:
    """UADDLP: uint16x8 -> the sums of adjacent lanes, uint32x4."""
    return T.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.uaddlp", halves)


def add_neighbours(left: Expr, right: Expr) -> Expr:
    """ADDP: two uint32x4 -> the sums of adjacent lanes of `left`, then of `right`, uint32x4."""
    return T.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.addp", left, right)


def shift_insert(into: Expr, octets: Expr) -> Expr:
    """SRI: replace the low nibble of every byte of `into` by the high nibble of `octets`."""
    return T.call_llvm_pure_intrin(OCTETS, "llvm.aarch64.neon.vsri", into, octets, T.int32(4))


def dot_product(sums: Expr, left: Expr, right: Expr) -> Expr:
    """SDOT: four products in each lane.

    Args:
        sums: int32x4.
        left: int8x16.
        right: int8x16.

    Returns:
        `sums` and the products, int32x4.
    """
    return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot", sums, left, right)


def matrix_product(sums: Expr, rows: Expr, columns: Expr, *, unsigned: bool) -> Expr:
    """SMMLA, or USMMLA for unsigned rows: the products of two rows and two columns.

    Args:
        sums: int32x4: row 0 by column 0, row 0 by column 1, row 1 by column 0, row 1 by column 1.
        rows: int8x16, or uint8x16 if `unsigned`: eight bytes of each row.
        columns: int8x16, eight bytes of each column.
        unsigned: whether the rows are unsigned.

    Returns:
        `sums` and the products, int32x4.
    """
    name = "usmmla" if unsigned else "smmla"
    return T.call_llvm_pure_intrin("int32x4", f"llvm.aarch64.neon.{name}", sums, rows, columns)


def table_lookup(first: Expr, second: Expr, indices: Expr) -> Expr:
    """TBL: look up 16 bytes in a table of 32 bytes.

    Args:
        first: uint8x16, table elements 0 .. 15.
        second: uint8x16, table elements 16 .. 31.
        indices: uint8x16, the elements to look up.

    Returns:
        uint8x16, the selected elements.
    """
    return T.call_llvm_pure_intrin(OCTETS, "llvm.aarch64.neon.tbl2", first, second, indices)
