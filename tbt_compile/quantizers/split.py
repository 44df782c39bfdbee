"""BinaryBERT's ternary weight splitting: turns a ternary matrix into the sum of two binary ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, narrowed
from tbt_compile.quantizers.weights import StatefulWeightQuantizer, WeightQuantizer


def split_ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split a weight `[N, K]` into two whose binary forms (BWN) add up to its ternary form (TWN).

    Bai et al. 2021, BinaryBERT (arXiv:2012.15701), per row. Where the ternary code is not 0, the halves are
    `a w` and `(1 - a) w`. Where it is 0, they are `w + b` and `-b` for positive w, else `b` and `w - b`.
    Choosing a and b gives both halves a binary scale of half the ternary scale. The halves add up to w.

    Returns:
        Both halves, `[N, K]`, in the dtype of `weight`.
    """
    exact = weight.double()
    codes, scale = WeightQuantizer(Encoding.TERNARY, center=False, method="l2")(exact)
    magnitude, kept = exact.abs(), codes != 0
    zeros = (~kept).sum(-1, keepdim=True).clamp_min(1)

    def total(where: Tensor) -> Tensor:
        return (magnitude * where).sum(-1, keepdim=True)

    offset = (scale * weight.shape[-1] - magnitude.sum(-1, keepdim=True)) / (2 * zeros)
    negative, positive = ~kept & (exact < 0), ~kept & (exact > 0)
    share = (total(kept) + total(negative) - total(positive)) / (2 * total(kept)).clamp_min(1e-30)
    first = torch.where(kept, share * exact, torch.where(positive, exact + offset, offset))
    return first.to(weight.dtype), (exact - first).to(weight.dtype)


class SplitWeightQuantizer(StatefulWeightQuantizer):
    """Quantizes to the sum of two binary weights `[N, K]`, both BWN (Eq. 4-5) with separate scales.

    The value has four levels per row and no single set of codes: it is returned in full precision and cannot
    be packed.

    Parameters:
        second: float32 `[N, K]`, the latent weight of the second matrix; the module's weight is that of the
            first. Initially 0, which adds nothing; `split` sets both.
    """

    second: nn.Parameter

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(Encoding.BINARY, center=False, method="l2", ste="identity")
        self.second = nn.Parameter(torch.zeros(rows, columns))
        self.part = WeightQuantizer(Encoding.BINARY, center=False, method="l2", ste="identity")

    @property
    def packs(self) -> bool:
        return False

    @torch.no_grad()
    def split(self, weight: nn.Parameter) -> None:
        """Split the latent weight `[N, K]` of a ternary matrix; `weight` becomes the first half, in place."""
        first, second = split_ternary(weight)
        weight.copy_(first)
        self.second.copy_(second)

    def quantize(self, weight: Tensor) -> QuantTensor:
        return QuantTensor(narrowed(self.part(weight).value + self.part(self.second).value, weight), None)
