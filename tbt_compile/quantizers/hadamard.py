"""Block Hadamard rotation of activations before they are quantized: BitNet v2.

Outputs of attention and of gated feed-forward layers have a few features that are much larger than the
others. At few bits, a scale that fits those leaves nothing of the rest. A rotation spreads every feature over
its block, and the values become alike (Wang et al. 2025, arXiv:2504.18415, Eq. 4 to 6):

    Y = Q(W') . Q(X'),    X' = H X / sqrt(B),    W' = W H / sqrt(B)

H is the matrix of Sylvester's construction, H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]]: symmetric, and
H H = B. Without quantization the layer is what it was, as W' X' = W H H X / B. BitNet v2 rotates rows of a
power of two; here a row is rotated in blocks, so that its length may be any even number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.activations import ActivationQuantizer
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened

LARGEST_BLOCK = 128


def block_size(features: int) -> int:
    """The size of the blocks that rows are rotated in: a power of two that divides `features`.

    The largest one up to `LARGEST_BLOCK`; 1 for an odd number, where a rotation changes nothing.

    >>> [block_size(features) for features in (768, 8640, 48, 2, 7)]
    [128, 64, 16, 2, 1]
    """
    return min(features & -features, LARGEST_BLOCK)


def butterflies(x: Tensor, block: int) -> Tensor:
    """`H x / sqrt(block)` for each block of x, by the fast Walsh-Hadamard transform.

    For h = 1, 2, 4, ..., block / 2: the elements i and i + h of every 2 h become their sum and difference.
    Then one multiplication by 1 / sqrt(block). Compiled code has the same order, and so the same bits.

    Args:
        x: float `[..., K]`; at least float32 is computed in.
        block: a power of two that divides K.

    Returns:
        `[..., K]`, in the dtype of x.

    >>> butterflies(torch.tensor([1.0, 2.0, 3.0, 4.0]), 4)
    tensor([ 5., -1., -2.,  0.])
    """
    # One row per position in a block: sums and differences are then of whole rows.
    y = widened(x).reshape(-1, block).t()
    half = 1
    while half < block:
        first, second = y.reshape(block // (2 * half), 2, half, -1).unbind(1)
        y = torch.stack([first + second, first - second], 1)
        half *= 2
    return narrowed((y.reshape(block, -1) * block**-0.5).t().reshape(x.shape), x)


class _Rotate(torch.autograd.Function):
    """`butterflies`, whose matrix is symmetric: the gradient is rotated in the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: int) -> Tensor:
        ctx.block = block
        return butterflies(x, block)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return butterflies(grad, ctx.block), None


def rotate(x: Tensor, block: int) -> Tensor:
    """`butterflies` with its gradient, which saves nothing; applied twice, it gives x but for rounding."""
    rotated: Tensor = _Rotate.apply(x, block)
    return rotated


class RotatedActivationQuantizer(ActivationQuantizer):
    """An `ActivationQuantizer` of `rotate(x, block)`: the rotation is what is centred and scaled.

    Args:
        encoding: signed: a rotation of values that are never negative has both signs.
        block: a power of two that divides the features of x.
        options: as for `ActivationQuantizer`.

    >>> quantizer = RotatedActivationQuantizer(Encoding.TERNARY, 4, center=False)
    >>> quantizer.set_scale(2.0)
    >>> quantizer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).codes
    tensor([[ 1.,  0., -1.,  0.]], grad_fn=<_QuantizeLearnedBackward>)
    """

    def __init__(self, encoding: Encoding, block: int, **options: Any) -> None:
        super().__init__(encoding, **options)
        self.hadamard = block

    def forward(self, x: Tensor) -> QuantTensor:
        return super().forward(rotate(x, self.hadamard))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hadamard={self.hadamard}"
