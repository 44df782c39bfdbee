"""Float operators as others whose sums docs/numerics.md defines: products with one matrix, and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tbt_compile.ops.convolutions import convolved

ATEN = torch.ops.aten


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
