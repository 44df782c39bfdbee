"""Entropy of quantized weights per layer (Liu et al. 2023, Eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tbt_compile.modules import iter_quantized


def code_entropy(codes: Tensor) -> float:
    """Entropy in bits (Eq. 7): -sum p log2 p over the shares p of the levels among the codes.

    Codes may have any shape. The maximum is log2 3 = 1.585 for three levels and 1 for two.

    >>> round(code_entropy(torch.tensor([-1.0, 0.0, 1.0])), 3)
    1.585
    >>> code_entropy(torch.tensor([1.0, 1.0, -1.0, -1.0]))
    1.0
    """
    counts = torch.unique(codes, return_counts=True)[1].double()
    return share_entropy((counts / counts.sum()).tolist())


def share_entropy(shares: Sequence[float]) -> float:
    """Entropy in bits (Eq. 7) of shares that add up to 1.

    >>> share_entropy([0.5, 0.25, 0.25, 0.0])
    1.5
    """
    return -sum(share * math.log2(share) for share in shares if share)


@torch.no_grad()
def layer_entropies(model: nn.Module) -> dict[str, float]:
    """Entropy in bits of the weight codes of every linear layer of a prepared model, by module name."""
    return {
        name: code_entropy(module.weight_quantizer(module.weight_rows).codes)
        for name, module in iter_quantized(model)
        if hasattr(module, "input_quantizer") and module.weight_quantizer.encoding.quantized
    }
