"""The block Hadamard rotation of a frozen model, as one operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import torch
from torch import Tensor

from tbt_compile.ops.schema import Operand, declare
from tbt_compile.quantizers.hadamard import butterflies


@declare
def hadamard(x: Annotated[Tensor, Operand("float [..., K]")], block: int) -> Tensor:
    """Rotate each block of x: `H x / sqrt(block)`, in the order of `quantizers.hadamard.butterflies`.

    Args:
        x: in full precision.
        block: a power of two that divides K.

    Returns:
        Same dtype and shape as x.
    """
    return butterflies(x, block)


@hadamard.fake
def _(call: SimpleNamespace) -> Tensor:
    return torch.empty_like(call.x)
