"""What the linear kernels of all weight encodings have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding

WORDS_PER_LINE = 8
"""Words in a cache line."""
_BYTES_AHEAD = 8 << 10


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
        function: one of `ACTIVATIONS`, applied to the results; "" for none.
    """

    n: int
    k: int
    activation: Encoding
    weight: Encoding
    center: bool
    has_bias: bool
    isa: Isa
    function: str = ""

    @property
    def layout(self) -> Layout:
        """How the weights lie."""
        return weight_layout(self.activation, self.weight, self.isa)


def words_ahead(spec: LinearSpec) -> int:
    """How many words before they are read weights are asked for when a few rows pass by them.

    The processor's own prefetching stops at the end of a page.
    """
    return max(1, _BYTES_AHEAD // (8 * spec.weight.planes * spec.isa.block))


def multiplies_bytes(activation: Encoding, isa: Isa) -> bool:
    """Whether these activations have 8 bits, and bytes are multiplied into sums that do not overflow."""
    return activation.dynamic and isa.dot in ("vnni", "dotprod")


def looks_up_sums(activation: Encoding, weight: Encoding, isa: Isa) -> bool:
    """Whether 1 or 2 bit weights select from tables of sums of 8-bit activations."""
    return activation.dynamic and weight is not Encoding.INT8 and isa.neon and isa.dot == "none"


def weight_layout(activation: Encoding, weight: Encoding, isa: Isa) -> Layout:
    """How a layer reads its weights."""
    if looks_up_sums(activation, weight, isa):
        return Layout.QUARTERS
    if weight is Encoding.TERNARY and multiplies_bytes(activation, isa):
        return Layout.PAIRS
    return Layout.PLANES
