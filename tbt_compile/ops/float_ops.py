"""Operators between the quantized ones that have fused kernels in floating point."""

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
        mask: added to the scaled scores of every head.
        scale: one number, for instance `D ** -0.5`.

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
    """Layer normalisation of `x + residual` over the last dimension.

    Args:
        residual: of the shape of x.
        eps: added to the variance.

    Returns:
        float32, of the shape of x.
    """
    return F.layer_norm(x + residual, (x.shape[-1],), weight, bias, eps)


@add_layer_norm.fake
def _(call: SimpleNamespace) -> Tensor:
    return torch.empty_like(call.x)
