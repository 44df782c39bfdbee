"""The description of a linear layer that all its kernels share."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.strategy import Strategy, strategy
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding

CHUNK_ROWS = 64
"""Rows that most kernels pack before they stream the weights past them."""
WORDS_PER_LINE = 8
"""Words in a cache line."""
_PREFETCH_BYTES = 8 << 10


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
    def strategy(self) -> Strategy:
        """The kernels that multiply."""
        return strategy(self.activation, self.weight, self.isa, self.k)

    @property
    def layout(self) -> Layout:
        """How the weights lie."""
        return self.strategy.layout

    @property
    def prefetch_distance(self) -> int:
        """Words of a block's columns between a prefetch of weights and their use, for few rows.

        The processor's own prefetcher stops at the end of a page.
        """
        return max(1, _PREFETCH_BYTES // (8 * self.weight.planes * self.isa.block))


def weight_layout(activation: Encoding, weight: Encoding, isa: Isa) -> Layout:
    """How linear layers read a weight; it does not depend on their sizes.

    Args:
        activation: encoding of the layers' inputs.
        weight: encoding of the weight.
        isa: instruction set.
    """
    return strategy(activation, weight, isa).layout
