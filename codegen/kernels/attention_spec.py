"""What the attention kernels of all encodings have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.isa import Isa
from tbt_compile.encoding import Encoding


@dataclass(frozen=True)
class AttentionSpec:
    """One of the two products of attention.

    Attributes:
        d: head dimension.
        left: encoding of Q or P.
        right: encoding of K or V: both operands have 1 or 2 bits, or both have 8.
        center_left: subtract the mean of each row of Q or P (signed 1 and 2 bit encodings only).
        isa: instruction set to schedule for.
        groups: query heads that share one key and value head.
    """

    d: int
    left: Encoding
    right: Encoding
    center_left: bool
    isa: Isa
    groups: int = 1
