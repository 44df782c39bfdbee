"""Norms by the statistics of groups, as sums and single operations that docs/numerics.md defines."""

from __future__ import annotations

import torch
from torch import Tensor


def group_normed(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Group norm: `(x - mean) / sqrt(var + eps) * weight + bias`, of the channels of each group.

    Args:
        x: `[N, C, ...]`.
        groups: number of groups of channels; C for instance norm.
        weight: `[C]` or None.
        bias: `[C]` or None.
        eps: added to the variance.

    Returns:
        `[N, C, ...]`.
    """
    rows = x.reshape(x.shape[0], groups, -1)
    centred = rows - rows.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    y = (centred / torch.sqrt(variance + eps)).reshape(x.shape)
    channels = (-1, *(1 for _ in x.shape[2:]))
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)
