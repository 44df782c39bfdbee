"""Float operators as others whose sums docs/numerics.md defines: products with one matrix, and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tbt_compile.ops.convolutions import convolved
from tbt_compile.ops.statistics import group_normed

ATEN = torch.ops.aten


def pooled(x: Tensor, output_size: Any) -> Any:
    """The mean over as many last dimensions as `output_size` has; NotImplemented if one is not 1."""
    if any(size != 1 for size in output_size):
        return NotImplemented
    return x.mean([-1 - dim for dim in range(len(output_size))], keepdim=True)


def instance_normed(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    _mean: Any,
    _variance: Any,
    use_input_stats: bool,
    _momentum: float,
    eps: float,
    _cudnn_enabled: bool,
) -> Any:
    """Instance norm; NotImplemented with running statistics."""
    return group_normed(x, x.shape[1], weight, bias, eps) if use_input_stats else NotImplemented


def _group_normed(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enabled: bool = True,
) -> Tensor:
    return group_normed(x, groups, weight, bias, eps)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    ATEN.conv1d.default: convolved,
    ATEN.conv1d.padding: convolved,
    ATEN.conv2d.default: convolved,
    ATEN.conv2d.padding: convolved,
    ATEN.group_norm.default: _group_normed,
    ATEN.instance_norm.default: instance_normed,
    ATEN.adaptive_avg_pool1d.default: pooled,
    ATEN.adaptive_avg_pool2d.default: pooled,
}
"""By operator; what a decomposition does not cover stays as it is."""
