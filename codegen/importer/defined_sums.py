"""Float operators as others whose sums docs/numerics.md defines: products with one matrix, and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.ops.convolutions import Geometry

ATEN = torch.ops.aten


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution over one or two dimensions by im2col; NotImplemented if it has groups.

    Args:
        x: `[N, C, *sizes]`, or without N.
        weight: `[O, C, *kernel]`.
        bias: `[O]` or None.
        stride: as for `torch.nn.functional.conv2d`.
        padding: as for `torch.nn.functional.conv2d`.
        dilation: as for `torch.nn.functional.conv2d`.
        groups: of channels.

    Returns:
        `[N, O, *positions]`.
    """
    if groups != 1 or x.dtype is not torch.float32:
        return NotImplemented
    windows = Geometry.of(weight.shape[2:], stride, padding, dilation)
    return windows.image(F.linear(windows.windows(x), weight.flatten(1), bias))


def pooled(x: Tensor, output_size: Any) -> Any:
    """The mean over as many last dimensions as `output_size` has; NotImplemented if one is not 1."""
    if any(size != 1 for size in output_size):
        return NotImplemented
    return x.mean([-1 - dim for dim in range(len(output_size))], keepdim=True)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    ATEN.conv1d.default: convolved,
    ATEN.conv1d.padding: convolved,
    ATEN.conv2d.default: convolved,
    ATEN.conv2d.padding: convolved,
    ATEN.adaptive_avg_pool1d.default: pooled,
    ATEN.adaptive_avg_pool2d.default: pooled,
}
"""By operator; what a decomposition does not cover stays as it is."""
