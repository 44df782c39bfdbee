"""Capture a frozen linear layer as the one operator that it is compiled to.

Traced through, it is ten operators, which the pass `fuse-linear` puts together again. To capture them takes
half of the time of an export.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight

_CAPTURING = ContextVar("capturing", default=False)


@contextmanager
def whole_operators() -> Iterator[None]:
    """Capture linear layers whole in the `with` block."""
    before = _CAPTURING.set(True)
    try:
        yield
    finally:
        _CAPTURING.reset(before)


def whole_linear(x: Tensor, activation: Any, weight: nn.Module, bias: Tensor | None) -> Tensor | None:
    """A linear layer as one operator, if it is being captured and is one; else None.

    Args:
        x: the input, [..., K].
        activation: the quantizer of the input.
        weight: the quantizer of the weight [N, K].
        bias: [N], or None.

    Returns:
        float32 [..., N], or None.
    """
    if torch.compiler.is_dynamo_compiling():  # which reads no context variable, and captures nothing here
        return None
    if not _CAPTURING.get() or x.dtype is not torch.float32 or x.dim() < 2:
        return None
    if not isinstance(weight, FrozenWeight):
        return None
    if x.shape[-1] != weight.columns:  # also fixes a size that is dynamic, as a product would
        return None
    frozen = isinstance(activation, FrozenActivation)
    if not frozen and getattr(activation, "encoding", None) is not Encoding.FLOAT:
        return None
    result: Tensor = torch.ops.tbt.bit_linear(
        activation.normalized(x) if frozen else x,
        activation.scale if frozen else None,
        weight.packed,
        weight.scale,
        bias,
        activation.encoding.value,
        weight.encoding.value,
        activation.center if frozen else False,
        weight.columns,
        floor=activation.floor if frozen else 0.0,
    )
    return result
