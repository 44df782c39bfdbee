"""ParetoQ's weight quantizer: one learned scale per row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.first_batch import check_first_batch
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.weights import (
    StatefulWeightQuantizer,
    gradient_mask,
    round_weight,
    stats_scale,
)

SMALLEST_SCALE = 1e-6


class _QuantizeRows(torch.autograd.Function):
    """Codes `[N, K]` and scale `[N, 1]` of a weight `[N, K]` with a scale `[N, 1]` that trains.

    `d value / d scale` is `code - w / scale` where w is within the levels, and the code elsewhere; of a sign
    it is the code. It is multiplied by `1 / sqrt(N K)`, as in LSQ.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, parameter: Tensor, encoding: Encoding, ste: str
    ) -> tuple[Tensor, Tensor]:
        wide, scale = widened(weight), parameter.clamp_min(SMALLEST_SCALE)
        ctx.save_for_backward(wide, scale)
        ctx.encoding, ctx.ste = encoding, ste
        return narrowed(round_weight(wide, scale, encoding), weight), scale

    @staticmethod
    def backward(ctx: Any, grad_codes: Tensor, grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        grad = widened(grad_codes) / scale
        if ctx.encoding is not Encoding.BINARY:
            within = weight.abs().le(1.5 * scale)
            grad_scale = grad_scale - (grad * within * weight).sum(-1, keepdim=True) / scale
        mask = gradient_mask(weight, scale, ctx.encoding, ctx.ste)
        if mask is not None:
            grad = grad.mul_(mask)
        return grad, grad_scale / math.sqrt(weight.numel()), None, None


class LearnedWeightQuantizer(StatefulWeightQuantizer):
    """Rounds a weight `[N, K]` to multiples of a learned scale per row (Liu et al. 2025, arXiv:2502.02631).

    ParetoQ's ternary levels are `a round(1.5 clip(w / a, -0.99, 0.99)) / 1.5`, which with `scale = a / 1.5`
    are -scale, 0 and scale, and thresholds of half a scale; its binary ones are `a sign(w)`. Its gradient to
    w is that of `ste="clipped"` up to 1.5 scale (ternary), which is `ste="trust"` here, and up to the scale
    (binary), `ste="clipped"`.

    Parameters and buffers:
        scale: float32 `[N, 1]`, positive; initially that of Eq. 8 or 9 without centering.
        initialized: bool scalar: whether the scale was set, which the first forward pass does.
    """

    scale: nn.Parameter
    initialized: Tensor

    def __init__(self, encoding: Encoding, rows: int, ste: str) -> None:
        super().__init__(encoding, center=False, method="learned", ste=ste)
        self.scale = nn.Parameter(torch.ones(rows, 1))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        # Mirrors `initialized`: reading that buffer in every forward pass would synchronize with a GPU.
        self._ready = False

    def quantize(self, weight: Tensor) -> QuantTensor:
        self._prepare(weight)
        return QuantTensor(*_QuantizeRows.apply(weight, self.scale, self.encoding, self.ste))

    def quantize_rows(self, weight: Tensor, rows: slice) -> QuantTensor:
        leader: Any = self.leader
        leader._prepare(weight)
        some = widened(weight[rows])
        return QuantTensor(*_QuantizeRows.apply(some, leader.scale[rows], self.encoding, self.ste))

    @torch.no_grad()
    def resize(self, weight: Tensor) -> None:
        """Follow a weight that got more or fewer rows at its end; new rows start from their statistics."""
        leader: Any = self.leader
        kept, rows = leader.scale[: len(weight)], len(leader.scale)
        if leader.initialized and len(weight) != rows:
            fresh = stats_scale(widened(weight[rows:]), self.encoding).clamp_min(SMALLEST_SCALE)
            leader.scale = nn.Parameter(torch.cat([kept, fresh]))
        elif len(weight) != rows:
            leader.scale = nn.Parameter(torch.ones(len(weight), 1, device=kept.device))

    @torch.no_grad()
    def _prepare(self, weight: Tensor) -> None:
        """Set the scale, unless it is set."""
        if self._ready:
            return
        if not self.initialized:
            check_first_batch()
            self.scale.copy_(stats_scale(widened(weight), self.encoding).clamp_min(SMALLEST_SCALE))
            self.initialized.fill_(True)
        self._ready = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*args, **kwargs)
