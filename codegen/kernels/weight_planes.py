"""Weights as bit-planes, whichever of the two layouts they are stored in."""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.tvm_api import Expr, T


def unpaired(words: Sequence[Expr], lanes: int) -> list[Expr]:
    """The words of the planes (nonzero, sign) from those that `layouts.pair` made; `lanes` words each."""
    even, odd = (emit.let(word) for word in words)
    low, one = emit.splat(T.uint64(0x5555555555555555), lanes), emit.splat(T.uint64(1), lanes)
    zero = (even & low) | ((odd & low) << one)
    return [emit.let(~zero), emit.let(((even >> one) & low) | (odd & ~low))]
