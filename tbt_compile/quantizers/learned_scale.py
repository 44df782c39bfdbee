"""Rounding to multiples of a learned scale, Eq. 11-14."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.weights import indicator, row_mean

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


def quantize_learned(
    x: Tensor,
    parameter: Tensor,
    offset: Tensor | None,
    encoding: Encoding,
    *,
    center: bool,
    ste: str,
) -> QuantTensor:
    """Quantize x to multiples of a scale that trains, Eq. 11 and 13 with the gradients of Eq. 12 and 14.

    Args:
        x: float `[..., D]`.
        parameter: the scale, `[1]`; it counts as positive.
        offset: `[1]`, subtracted from x in place of the mean of its row, or None.
        encoding: binary or ternary.
        center: whether to subtract the mean of each row of x; not with an offset.
        ste: as in `Recipe.activation_ste`.

    Returns:
        Codes `round(clip(x / scale))` `[..., D]` and the scale `[]`.
    """
    factor = 1.0 / math.sqrt(max(1, x.numel()) * encoding.maximum)
    return QuantTensor(*_QuantizeLearned.apply(x, parameter, offset, encoding, center, ste, factor))


class _QuantizeLearned(torch.autograd.Function):
    """Eq. 11 and 13 with their gradients, Eq. 12 and 14, for x `[..., D]`, a scale and maybe an offset `[1]`.

    Returns codes `round(clip(x' / scale))` `[..., D]` and the scale `[]`, where x' is x minus its row mean
    if `center`, or minus the offset. The backward pass yields the paper's gradient of `codes * scale`, with
    `ste="trust"` that of QuEST to x: 1 within half a step of a level. The scale is the parameter clamped to
    be positive; its gradient, and that of the offset, is multiplied by `factor`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        parameter: Tensor,
        offset: Tensor | None,
        encoding: Encoding,
        center: bool,
        ste: str,
        factor: float,
    ) -> tuple[Tensor, Tensor]:
        scale = parameter.clamp_min(SMALLEST_SCALE).reshape(())
        wide = widened(x)
        if center:
            wide = wide - row_mean(wide)
        if offset is not None:
            wide = wide - offset
        ctx.save_for_backward(wide, scale)
        ctx.encoding, ctx.center, ctx.ste, ctx.factor = encoding, center, ste, factor
        ctx.has_offset = offset is not None
        return narrowed(round_activation(wide, scale, encoding), x), scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        grad = widened(grad)
        low, high = ctx.encoding.minimum * scale, ctx.encoding.maximum * scale
        inside = indicator(torch.le, x, high).mul_(indicator(torch.ge, x, low))
        clipped = inside.mul_(grad).div_(scale)
        # d value / d scale is codes - x' / scale inside the clipping range and codes outside (Eq. 12, 14).
        # The product codes * scale contributes the codes. A sign does not depend on the scale.
        if ctx.encoding is not Encoding.BINARY:
            grad_scale = grad_scale - (clipped * x).sum() / scale
        if ctx.ste == "trust":
            half = scale if ctx.encoding is Encoding.BINARY else 0.5 * scale
            trusted = indicator(torch.le, x, high + half).mul_(indicator(torch.ge, x, low - half))
            grad_x = trusted.mul_(grad).div_(scale)
        else:
            grad_x = clipped
        grad_offset = -grad_x.sum().reshape(1) * ctx.factor if ctx.has_offset else None
        if ctx.center:
            grad_x = grad_x.sub_(grad_x.mean(-1, keepdim=True))
        # Straight through the clamp: a scale at the bound must be able to grow again.
        return grad_x, (grad_scale * ctx.factor).reshape(1), grad_offset, None, None, None, None
