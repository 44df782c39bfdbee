"""QuantBart's module-wise dynamic scaling: clips weights at a learned multiple of their mean magnitude."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.weights import StatefulWeightQuantizer, indicator, round_weight, row_mean

SMALLEST_FACTOR = 1e-3
FIRST_FACTOR = {1: 1.0, 2: 1.0, 8: 4.0}
"""Initial factor by bits: 1 clips at the mean magnitude, 4 at about three standard deviations of a normal."""


class _QuantizeScaled(torch.autograd.Function):
    """Codes `[N, K]` and scale `[N, 1]` of a weight clipped at `alpha = factor * mean |w|`, per row.

    Gradients go to the weight and to the factor.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
        wide = widened(weight)
        magnitude = row_mean(wide.abs())
        alpha = magnitude * factor.clamp_min(SMALLEST_FACTOR)
        scale = alpha / encoding.maximum
        ctx.save_for_backward(wide, magnitude, alpha)
        ctx.encoding = encoding
        return narrowed(round_weight(wide, scale, encoding), weight), scale

    @staticmethod
    def backward(ctx: Any, grad_codes: Tensor, grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        weight, magnitude, alpha = ctx.saved_tensors
        safe = alpha.clamp_min(torch.finfo(alpha.dtype).tiny)
        grad_weight = indicator(torch.lt, weight.abs(), alpha).mul_(grad_codes)
        grad_weight = grad_weight.mul_(ctx.encoding.maximum).div_(safe)
        grad_alpha = grad_scale / ctx.encoding.maximum
        if ctx.encoding is not Encoding.BINARY:  # a sign does not move with the clip
            grad_alpha = grad_alpha - (grad_weight * weight).sum(-1, keepdim=True) / safe
        return grad_weight, (grad_alpha * magnitude).sum().reshape(1), None


class ScaledWeightQuantizer(StatefulWeightQuantizer):
    """Clips a weight `[N, K]` at `alpha = factor * mean |w|` and rounds it; the factor is learned.

    Tao et al. 2022, Compression of Generative Pre-trained Language Models via Quantization
    (arXiv:2203.10705). With Q rounding to the levels of the encoding, the value is
    `alpha Q(clip(w / alpha))`. `d value / d w` is 1 inside the clipping range and 0 outside.
    `d value / d alpha` is `Q(w / alpha) - w / alpha` inside and the sign of w outside; it reaches the factor
    only, not the mean. The mean is per row, as in all quantizers of this package; the factor is per module.

    Parameters:
        factor: float32 `[1]`, initially 1, or 4 at 8 bits.
    """

    factor: nn.Parameter

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding, center=False, method="scaled")
        if encoding.quantized:
            self.factor = nn.Parameter(torch.tensor([FIRST_FACTOR[encoding.bits]]))

    def quantize(self, weight: Tensor) -> QuantTensor:
        if not self.encoding.quantized:
            return QuantTensor(weight, None)
        return QuantTensor(*_QuantizeScaled.apply(weight, self.factor, self.encoding))
