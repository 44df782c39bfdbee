"""Instructions of AArch64 that LLVM does not find by itself, or not always."""

from __future__ import annotations

from tbt_compile.codegen.tvm_api import Expr, T

OCTETS = "uint8x16"


def pair_sums(octets: Expr) -> Expr:
    """UADDLP: 16 bytes -> the sums of neighbours, uint16x8; with an addition it becomes UADALP."""
    return T.call_llvm_pure_intrin("uint16x8", "llvm.aarch64.neon.uaddlp", octets)


def wide_pair_sums(halves: Expr) -> Expr:
    """UADDLP: uint16x8 -> the sums of neighbours, uint32x4."""
    return T.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.uaddlp", halves)


def add_neighbours(left: Expr, right: Expr) -> Expr:
    """ADDP: two uint32x4 -> the sums of neighbours in the left one, then in the right one, uint32x4."""
    return T.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.addp", left, right)


def shift_insert(kept: Expr, octets: Expr) -> Expr:
    """SRI: replaces the lower half of every byte of `kept` by the upper half of that of `octets`."""
    return T.call_llvm_pure_intrin(OCTETS, "llvm.aarch64.neon.vsri", kept, octets, T.int32(4))


def table_lookup(first: Expr, second: Expr, numbers: Expr) -> Expr:
    """TBL: looks up 16 bytes in a table of 32.

    Args:
        first: uint8x16, table elements 0 .. 15.
        second: uint8x16, table elements 16 .. 31.
        numbers: uint8x16, which elements to take.
    """
    return T.call_llvm_pure_intrin(OCTETS, "llvm.aarch64.neon.tbl2", first, second, numbers)
