"""Tequila: weights in the dead zone of a ternary quantizer, those coded 0, act as a bias."""

from __future__ import annotations

import torch
from torch import Tensor

from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened


def dead_zone_bias(
    bias: Tensor | None, weight: Tensor | None, quantized: QuantTensor, share: float
) -> Tensor | None:
    """The bias of a linear layer, and a share of its dead weights: `b_n + share * sum_k [code_nk = 0] w_nk`.

    A weight that is coded 0 gets a gradient that says little (its input times the layer's) and stays where it
    is. As a part of the bias it gets that of the bias too (Tequila, arXiv:2509.23809; there the share is
    called lambda, 1e-3). The sum depends on weights alone: freezing folds it into the bias.

    Args:
        bias: float `[N]`, or None.
        weight: the latent weight, float `[N, K]`; None once it is packed.
        quantized: the same, quantized; without a scale while it is relaxed, when nothing is dead.
        share: of the sum, 0 or more.

    Returns:
        Float `[N]`, in the dtype of the weight, or None if there is neither a bias nor a share.
    """
    if not share or weight is None or quantized.scale is None:
        return bias
    dead = widened(weight) * quantized.codes.detach().eq(0)
    found = narrowed(share * dead.sum(-1, dtype=torch.float64), weight)
    return found if bias is None else bias + found
