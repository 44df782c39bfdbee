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
