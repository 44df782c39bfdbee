"""Relaxations: what training uses in place of quantized values while they harden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, widened

Relaxation: TypeAlias = Callable[[Tensor, QuantTensor, Encoding], QuantTensor]
"""(x after centering, x quantized, encoding) -> real values, as a `QuantTensor` without a scale."""


@dataclass(frozen=True)
class Blend:
    """A part of the way from a value to its level: `x + share * (Q(x) - x)`.

    Attributes:
        share: 0 leaves x as it is, 1 is quantized.

    >>> quantized = QuantTensor(torch.tensor([1.0, 0.0]), torch.tensor(2.0))
    >>> Blend(0.5)(torch.tensor([1.5, 0.5]), quantized, Encoding.TERNARY).codes
    tensor([1.7500, 0.2500])
    """

    share: float

    def __call__(self, x: Tensor, quantized: QuantTensor, encoding: Encoding) -> QuantTensor:  # noqa: ARG002
        wide = widened(x)
        return QuantTensor(wide + self.share * (quantized.value - wide), None)


@dataclass(frozen=True)
class SoftLevels:
    """The mean of the levels under a softmax of their distances, as in Hestia (arXiv:2601.20745).

    `scale * sum_c c p_c` with `p = softmax(-(x / scale - c)^2 / temperature)` over the codes c. It is
    differentiable, and tends to the nearest level as the temperature falls to 0. Hestia lowers it at a rate
    per tensor, by the trace of the Hessian; here all tensors have the same temperature.

    Attributes:
        temperature: above 0.

    >>> quantized = QuantTensor(torch.tensor([1.0, 0.0]), torch.tensor(2.0))
    >>> SoftLevels(1e-3)(torch.tensor([1.5, 0.5]), quantized, Encoding.TERNARY).codes
    tensor([2., 0.])
    """

    temperature: float

    def __call__(self, x: Tensor, quantized: QuantTensor, encoding: Encoding) -> QuantTensor:
        assert quantized.scale is not None
        scale = quantized.scale.detach().clamp_min(torch.finfo(torch.float32).tiny)
        codes = torch.tensor(encoding.levels, device=x.device, dtype=scale.dtype)
        distances = ((widened(x) / scale).unsqueeze(-1) - codes).square()
        return QuantTensor((distances / -self.temperature).softmax(-1).matmul(codes) * scale, None)
