"""Floating-point operators with fused kernels, which run between the quantized ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.ops.schema import Operand, declare


@declare
def masked_softmax(
    scores: Annotated[Tensor, Operand("float32 [B, H, Q, T]")],
    mask: Annotated[Tensor | None, Operand("float32 [B, 1, Q, T]")],
    scale: float,
) -> Tensor:
    """Softmax of `scores * scale + mask` over the last dimension.

    Args:
        scores: QK^T of every head.
        mask: additive, broadcast over the heads; None for no mask.
        scale: a constant, usually `D ** -0.5`.

    Returns:
        float32 `[B, H, Q, T]`.
    """
    scaled = scores * scale
    return torch.softmax(scaled if mask is None else scaled + mask, dim=-1)


@masked_softmax.fake
def _(call: SimpleNamespace) -> Tensor:
    return torch.empty_like(call.scores)


@declare
def add_layer_norm(
    x: Annotated[Tensor, Operand("float32 [..., D]")],
    residual: Annotated[Tensor, Operand("float32 [..., D]")],
    weight: Annotated[Tensor, Operand("float32 [D]")],
    bias: Annotated[Tensor, Operand("float32 [D]")],
    eps: float,
) -> Tensor:
    """Layer normalization of `x + residual` over the last dimension.

    Args:
        x: any leading dimensions.
        residual: same shape as x.
        weight: multiplies the normalized sum.
        bias: added last.
        eps: added to the variance.

    Returns:
        float32, same shape as x.
    """
    return F.layer_norm(x + residual, (x.shape[-1],), weight, bias, eps)


@add_layer_norm.fake
def _(call: SimpleNamespace) -> Tensor:
    return torch.empty_like(call.x)
