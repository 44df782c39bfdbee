"""Weight quantizers: by statistics of each output row, and the base of those with parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor

_SMALLEST = torch.finfo(torch.float32).tiny


def indicator(compare: Callable[..., Tensor], x: Tensor, bound: Tensor | float) -> Tensor:
    """`compare(x, bound)` as numbers 0 and 1 of x's type; a tensor of bools in between takes four times as
    long.

    >>> indicator(torch.gt, torch.tensor([0.5, 1.5]), 1.0)
    tensor([0., 1.])
    """
    return compare(x, bound, out=torch.empty_like(x))


def row_mean(weight: Tensor) -> Tensor:
    """Mean over the last dimension `[..., 1]`, summed in float64 so that no engine's order shows."""
    return weight.mean(-1, keepdim=True, dtype=torch.float64).to(weight.dtype)


def stats_scale(centered: Tensor, encoding: Encoding) -> Tensor:
    """Scale per row `[N, 1]` of Eq. 8 (ternary, 4/3 of the mean magnitude) or Eq. 9 (binary, the mean).

    >>> stats_scale(torch.tensor([[1.0, -1.0, 2.0, -2.0]]), Encoding.TERNARY)
    tensor([[2.]])
    """
    magnitude = row_mean(centered.abs())
    return magnitude * (4.0 / 3.0) if encoding is Encoding.TERNARY else magnitude


def l2_threshold(weight: Tensor) -> Tensor:
    """TWN's threshold, Eq. 2: 0.7 of the mean magnitude of the row `[N, 1]`."""
    return row_mean(weight.abs()) * 0.7


def l2_scale(weight: Tensor, codes: Tensor) -> Tensor:
    """Scale of Eq. 3 and 5: the mean magnitude of what is not coded as zero, `[N, 1]`."""
    kept = codes.abs()
    total = (weight.abs() * kept).sum(-1, keepdim=True, dtype=torch.float64)
    return (total / kept.sum(-1, keepdim=True).clamp_min(1)).to(weight.dtype)


def round_weight(weight: Tensor, scale: Tensor, encoding: Encoding) -> Tensor:
    """Codes of a (centred) weight by comparison with multiples of its scale; ties go to zero."""
    if encoding is Encoding.BINARY:
        return indicator(torch.ge, weight, 0).mul_(2).sub_(1)
    if encoding is Encoding.TERNARY:
        half = 0.5 * scale
        return indicator(torch.gt, weight, half).sub_(indicator(torch.lt, weight, -half))
    return torch.round(weight / scale.clamp_min(_SMALLEST)).clamp(encoding.minimum, encoding.maximum)


class _QuantizeWeight(torch.autograd.Function):
    """Codes with the straight-through gradient of Eq. 10; the scale is a constant of the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, encoding: Encoding, center: bool, method: str, clipped: bool
    ) -> tuple[Tensor, Tensor]:
        centered = weight - row_mean(weight) if center and encoding is not Encoding.INT8 else weight
        if encoding is Encoding.INT8:
            scale = weight.abs().amax(-1, keepdim=True) / encoding.maximum
            codes = round_weight(weight, scale, encoding)
        elif method == "stats":
            scale = stats_scale(centered, encoding)
            codes = round_weight(centered, scale, encoding)
        elif method == "sign":
            # BiBERT: the zero-mean weight gives the signs, the weight itself the scale.
            scale = row_mean(weight.abs())
            codes = round_weight(centered, scale, encoding)
        else:
            # Eq. 1 compares with Delta where Eq. 8 compares with half a scale.
            codes = round_weight(centered, 2.0 * l2_threshold(centered), encoding)
            scale = l2_scale(centered, codes)
        ctx.save_for_backward(centered, scale)
        ctx.clipped = clipped and encoding is not Encoding.INT8
        ctx.mark_non_differentiable(scale)
        return codes, scale

    @staticmethod
    def backward(ctx: Any, grad_codes: Tensor, _grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        centered, scale = ctx.saved_tensors
        grad = grad_codes / scale.clamp_min(_SMALLEST)
        if ctx.clipped:
            grad.mul_(centered.abs().lt_(scale))
        return grad, None, None, None, None


class WeightQuantizer(nn.Module):
    """Quantizes a weight `[N, K]` row by row to `QuantTensor(codes [N, K], scale [N, 1])`.

    Ternary is Eq. 8, binary Eq. 9. The gradient `d value / d weight` is 1, and with `ste="clipped"` that of
    Eq. 10: 1 where `|weight - mean| < scale` and 0 elsewhere. `method="l2"` gives TWN and
    BWN (Eq. 1-5), `method="sign"` BiBERT's (Qin et al. 2022): Eq. 9 with the scale of Eq. 5. Eight bits
    use the largest magnitude of the row, 32 bits return the weight itself.

    >>> quantizer = WeightQuantizer(Encoding.TERNARY)
    >>> quantizer(torch.tensor([[1.0, -1.0, 2.0, -2.0, 0.0, 0.0]])).value
    tensor([[ 1.3333, -1.3333,  1.3333, -1.3333,  0.0000,  0.0000]])
    >>> WeightQuantizer(Encoding.BINARY)(torch.tensor([[3.0, 1.0, 0.0, 0.0]])).value
    tensor([[ 1.,  1., -1., -1.]])
    """

    def __init__(
        self, encoding: Encoding, *, center: bool = True, method: str = "stats", ste: str = "identity"
    ) -> None:
        super().__init__()
        self.encoding, self.center, self.method, self.ste = encoding, center, method, ste

    @property
    def packs(self) -> bool:
        """Whether what it returns is codes and a scale per row, which can be packed."""
        return self.encoding.quantized

    def forward(self, weight: Tensor) -> QuantTensor:
        if not self.encoding.quantized:
            return QuantTensor(weight, None)
        codes, scale = _QuantizeWeight.apply(
            weight, self.encoding, self.center, self.method, self.ste == "clipped"
        )
        return QuantTensor(codes, scale)

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, center={self.center}, method={self.method!r}, ste={self.ste!r}"


class StatefulWeightQuantizer(WeightQuantizer, ABC):
    """A weight quantizer with parameters. The quantizer of a tied weight follows that of its first owner.

    The state is then kept once, by the leader: a follower has no parameters.
    """

    def follow(self, leader: StatefulWeightQuantizer) -> None:
        """Give up the own state for the leader's."""
        for name in list(self._parameters):
            del self._parameters[name]
        for name in list(self._buffers):
            del self._buffers[name]
        self.__dict__["leader"] = leader  # no child: its state would be saved twice

    def forward(self, weight: Tensor) -> QuantTensor:
        return self.__dict__.get("leader", self).quantize(weight)

    @abstractmethod
    def quantize(self, weight: Tensor) -> QuantTensor:
        """The quantized weight `[N, K]`, by the own state."""
