"""Block movement pruning: keeps the blocks of a weight with the highest learned scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, narrowed
from tbt_compile.quantizers.weights import StatefulWeightQuantizer


def blocks_of(rows: int, columns: int, block: int) -> tuple[int, int]:
    """Return the number of blocks along both dimensions; blocks at the edge may be partial.

    Args:
        rows: N of the weight `[N, K]`.
        columns: K.
        block: side of a block.

    Returns:
        `(ceil(rows / block), ceil(columns / block))`.
    """
    return math.ceil(rows / block), math.ceil(columns / block)


def spread(blocks: Tensor, rows: int, columns: int, block: int) -> Tensor:
    """Repeat one value per block for every element of the block.

    Args:
        blocks: `[R, C]`, of the shape that `blocks_of` returns.
        rows: N of the weight `[N, K]`.
        columns: K.
        block: side of a block.

    Returns:
        `[rows, columns]`.
    """
    return blocks.repeat_interleave(block, 0)[:rows].repeat_interleave(block, 1)[:, :columns]


class _Prune(torch.autograd.Function):
    """`weight * mask(scores)` for weight `[N, K]` and scores `[R, C]`, with the `keep` best blocks unmasked.

    The gradient of a score is the sum of gradient times weight over its block.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, keep: int, block: int) -> Tensor:
        kept = torch.zeros_like(scores).view(-1)
        kept[scores.reshape(-1).topk(keep).indices] = 1
        rows, columns = weight.shape
        mask = narrowed(spread(kept.view_as(scores), rows, columns, block), weight)
        ctx.save_for_backward(weight, mask)
        ctx.block = block
        return weight * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask = ctx.saved_tensors
        rows, columns = weight.shape
        high, wide = blocks_of(rows, columns, ctx.block)
        moved = nn.functional.pad(grad * weight, (0, wide * ctx.block - columns, 0, high * ctx.block - rows))
        grad_scores = moved.view(high, ctx.block, wide, ctx.block).sum((1, 3))
        return grad * mask, grad_scores, None, None


class BlockPruner(StatefulWeightQuantizer):
    """Zeroes whole blocks of a weight `[N, K]` and keeps the others in full precision.

    Lagunas et al. 2021, Block Pruning For Faster Transformers (arXiv:2109.04838), after Sanh et al. 2020,
    Movement Pruning (arXiv:2005.07683). Each block has a score S with the straight-through gradient
    `dL/dS = sum over the block of dL/dW' * W`. The share `density` of blocks with the highest scores is
    kept, at least one block.

    Parameters and buffers:
        scores: float32 `[ceil(N / block), ceil(K / block)]`.
        density: float32 scalar, initially 1; the training schedule lowers it.
    """

    scores: nn.Parameter
    density: Tensor

    def __init__(self, rows: int, columns: int, block: int) -> None:
        super().__init__(Encoding.FLOAT, center=False, method="pruned")
        self.block = block
        self.scores = nn.Parameter(torch.zeros(blocks_of(rows, columns, block)))
        self.register_buffer("density", torch.ones(()))

    @property
    def kept(self) -> int:
        """Number of blocks that are kept."""
        return max(1, math.floor(float(self.density) * self.scores.numel() + 1e-6))

    def quantize(self, weight: Tensor) -> QuantTensor:
        return QuantTensor(_Prune.apply(weight, self.scores, self.kept, self.block), None)
