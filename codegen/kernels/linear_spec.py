"""What the linear kernels of all weight encodings have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.isa import Isa
from tbt_compile.encoding import Encoding


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer.

    Attributes:
        n: output features.
        k: input features.
        activation: any quantized encoding; with 8-bit weights INT8 or UINT8.
        weight: BINARY, TERNARY or INT8.
        center: subtract the row mean of signed 1 and 2 bit activations.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for; it also fixes the weight layout.
    """

    n: int
    k: int
    activation: Encoding
    weight: Encoding
    center: bool
    has_bias: bool
    isa: Isa
