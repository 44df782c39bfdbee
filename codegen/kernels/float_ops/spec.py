"""The spec of float kernels that are specialised for nothing but the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.target.isa import Isa


@dataclass(frozen=True)
class AnySize:
    """A kernel whose sizes are all symbolic.

    Attributes:
        isa: instruction set to schedule for.
    """

    isa: Isa
