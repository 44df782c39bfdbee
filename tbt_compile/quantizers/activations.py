"""Activation quantizers: learned scales (Eq. 11-14), 8-bit dynamic, and two baselines."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import LEAST_PEAK, Encoding
from tbt_compile.quantizers.first_batch import check_first_batch
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.state import Float32State
from tbt_compile.quantizers.weights import indicator, l2_scale, l2_threshold, round_weight, row_mean

SMALLEST_SCALE = 1e-6


def round_activation(x: Tensor, scale: Tensor, encoding: Encoding) -> Tensor:
    """Round x to codes by comparison with multiples of the scale: Eq. 11 (ternary) and Eq. 13 (binary).

    Ties round to the even code.

    Args:
        x: float `[..., D]`, after centering, if any.
        scale: float, broadcasts to x.
        encoding: binary or ternary.

    Returns:
        Codes, same dtype and shape as x.

    >>> round_activation(torch.tensor([-0.6, -0.5, 0.5, 0.6]), torch.tensor(1.0), Encoding.TERNARY)
    tensor([-1.,  0.,  0.,  1.])
    >>> round_activation(torch.tensor([0.5, 0.6, 1.4, 1.5]), torch.tensor(1.0), Encoding.TERNARY012)
    tensor([0., 1., 1., 2.])
    """
    if encoding is Encoding.BINARY:
        return indicator(torch.ge, x, 0).mul_(2).sub_(1)
    half = 0.5 * scale
    above = indicator(torch.gt, x, half)
    if encoding is Encoding.TERNARY:
        return above.sub_(indicator(torch.lt, x, -half))
    if encoding is Encoding.TERNARY012:
        return above.add_(indicator(torch.ge, x, 1.5 * scale))
    return above


def least_squares_scale(x: Tensor, start: float, encoding: Encoding, rounds: int = 20) -> float:
    """Find a scale near `start` that minimizes the squared error of `codes * scale` (Lloyd 1982).

    Each round computes the codes for the scale, then the optimal scale for the codes: the error never
    grows. If all codes are 0 the scale does not change.

    Args:
        x: float, any shape; one scale for all elements.
        start: the first scale.
        encoding: binary or ternary.
        rounds: number of iterations.

    Returns:
        The scale.

    >>> least_squares_scale(torch.tensor([-3.0, 0.1, 0.2, 5.0]), 2.0, Encoding.TERNARY)
    4.0
    """
    scale = x.new_tensor(start)
    for _ in range(rounds):
        codes = round_activation(x, scale, encoding)
        energy = codes.square().sum()
        if not energy:
            break
        scale = (x * codes).sum() / energy
    return float(scale)


class _QuantizeLearned(torch.autograd.Function):
    """Eq. 11 and 13 with their gradients, Eq. 12 and 14, for x `[..., D]` and a scale `[1]`.

    Returns codes `round(clip(x' / scale))` `[..., D]` and the scale `[]`, where x' is x minus its row mean
    if `center`, else x. The backward pass yields the paper's gradient of `codes * scale`. The scale is the
    parameter clamped to be positive; its gradient is multiplied by `factor`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, parameter: Tensor, encoding: Encoding, center: bool, factor: float
    ) -> tuple[Tensor, Tensor]:
        scale = parameter.clamp_min(SMALLEST_SCALE).reshape(())
        wide = widened(x)
        if center:
            wide = wide - row_mean(wide)
        ctx.save_for_backward(wide, scale)
        ctx.encoding, ctx.center, ctx.factor = encoding, center, factor
        return narrowed(round_activation(wide, scale, encoding), x), scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        grad = widened(grad)
        low, high = ctx.encoding.minimum, ctx.encoding.maximum
        inside = indicator(torch.le, x, high * scale).mul_(indicator(torch.ge, x, low * scale))
        grad_x = inside.mul_(grad).div_(scale)
        # d value / d scale is codes - x' / scale inside the clipping range and codes outside (Eq. 12, 14).
        # The product codes * scale contributes the codes. A sign does not depend on the scale.
        if ctx.encoding is not Encoding.BINARY:
            grad_scale = grad_scale - (grad_x * x).sum() / scale
        if ctx.center:
            grad_x = grad_x.sub_(grad_x.mean(-1, keepdim=True))
        # Straight through the clamp: a scale at the bound must be able to grow again.
        return grad_x, (grad_scale * ctx.factor).reshape(1), None, None, None


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
    inside the clipping range and 0 outside; the gradient to the scale is multiplied by
    `1 / sqrt(numel * maximum)`, as in LSQ. Signed activations are centered per token (`center`), which keeps
    results independent of the batch.

    8-bit encodings have no learned scale but one per token, `[..., 1]`. 32 bits return x itself.
    `method="statistical"` is the baseline TWN/BWN (Eq. 1-5 per token); `method="sign"` is BiBERT's sign
    without a scale.

    Parameters and buffers:
        scale: float32 `[1]`, positive; not a scalar, which cannot be sharded.
        initialized: bool scalar, saved with the model. Until it is set, the first tensor seen initializes
            the scale: ternary to `2 * mean|x| / sqrt(maximum)` (LSQ), binary to `mean|x|`; with
            `initial_scale="l2"`, `least_squares_scale` refines that.

    >>> quantizer = ActivationQuantizer(Encoding.TERNARY, center=False)
    >>> quantizer.set_scale(1.0)
    >>> quantizer(torch.tensor([[-2.0, -0.4, 0.6, 3.0]])).value
    tensor([[-1.,  0.,  1.,  1.]], grad_fn=<MulBackward0>)
    """

    scale: nn.Parameter
    initialized: Tensor
    reason = ""  # why its encoding is signed or not, as the plan says it
    hadamard = 0  # features that are rotated together before anything else; 0: none

    def __init__(
        self,
        encoding: Encoding,
        *,
        center: bool = True,
        method: str = "learned",
        initial_scale: str = "magnitude",
    ) -> None:
        super().__init__()
        self.encoding, self.method, self.initial_scale = encoding, method, initial_scale
        self.center = center and method != "sign" and encoding in (Encoding.BINARY, Encoding.TERNARY)
        if self.learned:
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
            # Mirrors `initialized`: reading that buffer in every forward pass would synchronize with a GPU.
            self._ready = False

    @property
    def learned(self) -> bool:
        """Whether the quantizer has a scale to train."""
        return self.encoding.quantized and not self.encoding.dynamic and self.method == "learned"

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
        factor = 1.0 / math.sqrt(max(1, x.numel()) * self.encoding.maximum)
        return QuantTensor(*_QuantizeLearned.apply(x, self.scale, self.encoding, self.center, factor))

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
