"""x86 instructions that LLVM does not reliably select from generic vector code, for 256 and 512 bits."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Expr, T


def byte_shuffle(entries: Expr, indices: Expr, octets: int) -> Expr:
    """VPSHUFB: look up 16 bytes in each 128-bit lane.

    Args:
        entries: uint8, a table of 16 bytes in each 128-bit lane.
        indices: uint8, 0 .. 15 into the table of the same lane.
        octets: bytes of the vectors, 32 or 64.

    Returns:
        uint8, a vector of `octets`.
    """
    name = "llvm.x86.avx512.pshuf.b.512" if octets == 64 else "llvm.x86.avx2.pshuf.b"
    return T.call_llvm_pure_intrin(f"uint8x{octets}", name, entries, indices)


def multiply_bytes(unsigned: Expr, signed: Expr, octets: int) -> Expr:
    """VPMADDUBSW: the sums of two adjacent products each, which saturate.

    Args:
        unsigned: uint8.
        signed: int8.
        octets: bytes of the vectors, 32 or 64.

    Returns:
        int16, a vector of `octets / 2`.
    """
    name = "llvm.x86.avx512.pmaddubs.w.512" if octets == 64 else "llvm.x86.avx2.pmadd.ub.sw"
    return T.call_llvm_pure_intrin(f"int16x{octets // 2}", name, unsigned, signed)


def multiply_signed_bytes(left: Expr, right: Expr) -> Expr:
    """The sums of four adjacent products each of bytes from -127 to 127: VPSIGNB, VPMADDUBSW, VPMADDWD.

    Args:
        left: int8x32, of which the magnitudes are multiplied.
        right: int8x32, which takes over the signs.

    Returns:
        int32x8.
    """
    signs = T.call_llvm_pure_intrin("int8x32", "llvm.x86.avx2.psign.b", right, left)
    magnitudes = T.reinterpret("uint8x32", T.abs(left))
    # Two products are at most 2 * 127 * 127, which fits 16 bits.
    pairs = multiply_bytes(magnitudes, signs, 32)
    ones = emit.splat(T.int16(1), 16)
    return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", pairs, ones)
