"""The spec of a linear layer, shared by all its kernels."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dispatch import Strategy
from tbt_compile.codegen.kernels.strategy import strategy
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding

CHUNK_ROWS = 64
"""Rows per chunk of most kernels; the weights are streamed past a packed chunk."""
WORDS_PER_LINE = 8
"""Words in a cache line."""
_PREFETCH_BYTES = 8 << 10


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer.

    Attributes:
        n: output features.
        k: input features.
        activation: any quantized encoding; INT8 or UINT8 with 8-bit weights.
        weight: BINARY, TERNARY or INT8.
        center: whether to subtract the row mean, for signed 1 and 2 bit activations.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for; it also fixes the weight layout.
        function: one of `ACTIVATIONS`, applied in the epilogue; "" for none.
        floor: at 8 bits, the least that the largest magnitude of a row counts as; None for none.
        hadamard: size of the blocks by which a row is rotated before anything else; None for none.
    """

    n: int
    k: int
    activation: Encoding
    weight: Encoding
    center: bool
    has_bias: bool
    isa: Isa
    function: str = ""
    floor: float | None = None
    hadamard: int | None = None

    @property
    def strategy(self) -> Strategy:
        """The GEMV and GEMM kernels of the layer."""
        return strategy(self.activation, self.weight, self.isa, self.k)

    @property
    def layout(self) -> Layout:
        """The layout of the weights."""
        return self.strategy.layout

    @property
    def prefetch_distance(self) -> int:
        """Distance between a prefetch of weights and their use for few rows, in words of a block's columns.

        The hardware prefetcher stops at the end of a page.
        """
        return max(1, _PREFETCH_BYTES // (8 * self.weight.planes * self.isa.block))


def weight_layout(activation: Encoding, weight: Encoding, isa: Isa) -> Layout:
    """The layout in which linear layers read a weight; independent of their sizes.

    Args:
        activation: encoding of the layers' inputs.
        weight: encoding of the weight.
        isa: instruction set.

    Returns:
        The layout.
    """
    if activation is Encoding.FLOAT or not weight.planes:
        return Layout.PLANES
    return strategy(activation, weight, isa).layout
