"""Activation quantizers: learned scales (Eq. 11-14), 8-bit dynamic, and two baselines."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import LEAST_PEAK, Encoding
from tbt_compile.quantizers.first_batch import check_first_batch
from tbt_compile.quantizers.learned_scale import (
    SMALLEST_SCALE,
    least_squares_scale,
    quantize_learned,
    round_activation,
)
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.relaxation import Relaxation
from tbt_compile.quantizers.state import Float32State
from tbt_compile.quantizers.weights import indicator, l2_scale, l2_threshold, round_weight, row_mean


class _RoundDynamic(torch.autograd.Function):
    """8-bit codes `round_half_even(x * inverse)` of x `[..., D]`, with inverse scales `[..., 1]`.

    Straight-through estimator: the gradient of the value is 1 inside the range of the codes, else 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inverse: Tensor, encoding: Encoding) -> Tensor:
        codes = torch.round(widened(x) * inverse)
        ctx.save_for_backward(inverse)
        ctx.clipped_below = None
        if not encoding.signed:
            ctx.clipped_below = codes < 0
            codes = codes.clamp_min(0)
        return narrowed(codes, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        grad_x = widened(grad) * inverse
        return (grad_x if ctx.clipped_below is None else grad_x.masked_fill(ctx.clipped_below, 0)), None, None


def quantize_dynamic(x: Tensor, encoding: Encoding, floor: float = 0.0) -> QuantTensor:
    """Quantize x `[..., D]` to 8 bits, symmetrically, with one scale `[..., 1]` per token.

    Rows with no magnitude above `LEAST_PEAK` become zeros.

    Args:
        x: in full precision.
        encoding: INT8 or UINT8.
        floor: the least that the largest magnitude of a row counts as (BitNet's is 1e-5).

    Returns:
        Codes and scales.

    >>> quantize_dynamic(torch.tensor([[1.0, -0.5, 0.25]]), Encoding.INT8).codes
    tensor([[127., -64.,  32.]])
    """
    detached = widened(x.detach())
    peak = (detached.abs() if encoding.signed else detached.clamp_min(0)).amax(-1, keepdim=True)
    if floor:
        peak = peak.clamp_min(floor)
    # Not `maximum / peak`: PyTorch computes the reciprocal of a tensor first, and rounds twice.
    quotient = torch.full_like(peak, encoding.maximum) / peak
    inverse = torch.where(peak > LEAST_PEAK, quotient, torch.zeros_like(peak))
    return QuantTensor(_RoundDynamic.apply(x, inverse, encoding), peak / encoding.maximum)


class _QuantizeStatistical(torch.autograd.Function):
    """TWN and BWN, Eq. 1-5, with one threshold and scale `[..., 1]` per token of x `[..., D]`.

    Straight-through estimator: the gradient of the value is 1 everywhere.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
        wide = widened(x)
        codes = round_weight(wide, 2.0 * l2_threshold(wide), encoding)
        scale = l2_scale(wide, codes)
        ctx.save_for_backward(scale)
        ctx.mark_non_differentiable(scale)
        return narrowed(codes, x), scale

    @staticmethod
    def backward(ctx: Any, grad_codes: Tensor, _grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        return widened(grad_codes) / scale.clamp_min(torch.finfo(scale.dtype).tiny), None


class _QuantizeSign(torch.autograd.Function):
    """BiBERT's codes of x `[..., D]`: the sign, or for attention scores `bool(x)`, 1 where x >= 0, else 0.

    The gradient is 1 where `|x| <= 1`, else 0 (Qin et al. 2022).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, encoding: Encoding) -> Tensor:
        ctx.save_for_backward(x)
        return round_activation(x, x, encoding) if encoding is Encoding.BINARY else indicator(torch.ge, x, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return x.abs().le_(1).mul_(grad), None


class ActivationQuantizer(Float32State):
    """Quantizes an activation `[..., D]` to `QuantTensor(codes [..., D], scale [])`, Eq. 11-14.

    Ternary is Eq. 11 with the gradient of Eq. 12, binary Eq. 13 with that of Eq. 14. The gradient to x is 1
    inside the clipping range and 0 outside (`ste="trust"`: 1 within half a step of a level, as in QuEST,
    arXiv:2502.05003); the gradient to the scale is multiplied by `1 / sqrt(numel * maximum)`, as in LSQ.
    Signed activations are centered per token (`center`), which keeps results independent of the batch.

    8-bit encodings have no learned scale but one per token, `[..., 1]`. 32 bits return x itself.
    `method="statistical"` is the baseline TWN/BWN (Eq. 1-5 per token); `method="sign"` is BiBERT's sign
    without a scale.

    Parameters and buffers:
        scale: float32 `[1]`, positive; not a scalar, which cannot be sharded.
        offset: float32 `[1]`, initially 0, subtracted from x before it is rounded in place of the mean of the
            token, and not added again (BiT, Liu et al. 2022, arXiv:2205.13016, section 3.2); None without.
        initialized: bool scalar, saved with the model. Until it is set, the first tensor seen initializes
            the scale: ternary to `2 * mean|x| / sqrt(maximum)` (LSQ), binary to `mean|x|`; with
            `initial_scale="l2"`, `least_squares_scale` refines that.

    >>> quantizer = ActivationQuantizer(Encoding.TERNARY, center=False)
    >>> quantizer.set_scale(1.0)
    >>> quantizer(torch.tensor([[-2.0, -0.4, 0.6, 3.0]])).value
    tensor([[-1.,  0.,  1.,  1.]], grad_fn=<MulBackward0>)
    """

    scale: nn.Parameter
    offset: nn.Parameter | None
    initialized: Tensor
    relaxation: Relaxation | None = None  # what training uses in place of the levels, for a while
    reason = ""  # why its encoding is signed or not, as the plan says it
    hadamard = 0  # features that are rotated together before anything else; 0: none

    def __init__(
        self,
        encoding: Encoding,
        *,
        center: bool = True,
        method: str = "learned",
        initial_scale: str = "magnitude",
        ste: str = "clipped",
        offset: bool = False,
    ) -> None:
        super().__init__()
        self.encoding, self.method, self.initial_scale, self.ste = encoding, method, initial_scale, ste
        signed = encoding in (Encoding.BINARY, Encoding.TERNARY)
        self.center = center and method != "sign" and signed and not (offset and self.learned)
        if self.learned:
            self.scale = nn.Parameter(torch.ones(1))
            self.register_parameter("offset", nn.Parameter(torch.zeros(1)) if offset else None)
            self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
            # Mirrors `initialized`: reading that buffer in every forward pass would synchronize with a GPU.
            self._ready = False

    @property
    def learned(self) -> bool:
        """Whether the quantizer has a scale to train."""
        return self.encoding.quantized and not self.encoding.dynamic and self.method == "learned"

    @property
    def divided(self) -> list[nn.Parameter]:
        """What is learned, whose gradients are divided by the root of the number of values of x."""
        return [self.scale, *([] if self.offset is None else [self.offset])] if self.learned else []

    def forward(self, x: Tensor) -> QuantTensor:
        if not self.encoding.quantized:
            return QuantTensor(x, None)
        if self.encoding.dynamic:
            return quantize_dynamic(x, self.encoding)
        if self.method == "sign":
            return QuantTensor(_QuantizeSign.apply(x, self.encoding), widened(x.new_ones(())))
        if self.method == "statistical":
            wide = widened(x)
            if self.center:
                wide = wide - row_mean(wide)
            # The baseline has no encoding for non-negative values: it wastes a level, as in Fig. 2 (d).
            codes, scale = _QuantizeStatistical.apply(wide, Encoding.for_weight(self.encoding.bits))
            return QuantTensor(narrowed(codes, x), scale)
        if not self._ready:
            if not self.initialized:
                check_first_batch()
                self.initialize(x)
            self._ready = True
        quantized = quantize_learned(
            x, self.scale, self.offset, self.encoding, center=self.center, ste=self.ste
        )
        if self.relaxation is None:
            return quantized
        shift = self.offset if self.offset is not None else row_mean(x) if self.center else 0.0
        return self.relaxation(x - shift, quantized, self.encoding)

    @property
    def effective_scale(self) -> Tensor:
        """The scale `[]` that the forward pass uses: `scale`, clamped to be positive."""
        return self.scale.detach().clamp_min(SMALLEST_SCALE).reshape(())

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Initialize the scale from x `[..., D]`, ignoring exact zeros such as masked positions."""
        wide = widened(x)
        if self.center:
            wide = wide - row_mean(wide)
        seen = wide[wide != 0].float()
        scale = float(seen.abs().mean()) if seen.numel() else 1.0
        if self.encoding.bits != 1:
            scale *= 2.0 / math.sqrt(self.encoding.maximum)
        if self.initial_scale == "l2":
            scale = least_squares_scale(seen, scale, self.encoding)
        self.set_scale(scale)

    @torch.no_grad()
    def set_scale(self, value: float) -> None:
        """Set the scale to a positive number and mark it as initialized."""
        self.scale.fill_(max(float(value), SMALLEST_SCALE))
        self.initialized.fill_(True)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, center={self.center}, method={self.method!r}"
