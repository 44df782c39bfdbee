"""Weight quantizers: from the statistics of each output row, and the base class of those with parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.ops import QuantTensor, narrowed, widened
from tbt_compile.quantizers.relaxation import Relaxation
from tbt_compile.quantizers.state import Float32State

_SMALLEST = torch.finfo(torch.float32).tiny
CACHED = 2**16
"""Elements that take all steps of a quantizer before the next ones do, so that they stay in a CPU's cache."""


def indicator(compare: Callable[..., Tensor], x: Tensor, bound: Tensor | float) -> Tensor:
    """Compare x with a bound; returns 0 and 1 in the dtype of x.

    Four times as fast as a bool tensor converted afterwards.

    Args:
        compare: `torch.gt` or another comparison with `out`.
        x: float, any shape.
        bound: broadcasts to x.

    Returns:
        Same dtype and shape as x.

    >>> indicator(torch.gt, torch.tensor([0.5, 1.5]), 1.0)
    tensor([0., 1.])
    """
    if torch.compiler.is_dynamo_compiling():  # takes no `out`; its compilers fuse the conversion
        return compare(x, bound).to(x.dtype)
    return compare(x, bound, out=torch.empty_like(x))


def row_blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the first dimension with about `CACHED` elements each.

    One of everything where that gains nothing: on a GPU, under a compiler, which fuses the steps, and for
    subclasses of tensors.

    >>> list(row_blocks(torch.empty(3, CACHED // 2)))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    plain = type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or x.numel() <= CACHED:
        yield slice(None)
        return
    rows = max(1, CACHED * len(x) // x.numel())
    yield from (slice(start, start + rows) for start in range(0, len(x), rows))


def row_mean(weight: Tensor) -> Tensor:
    """Mean over the last dimension, `[..., 1]`; float64 sums hide the summation order of the engine."""
    means = [weight[part].mean(-1, keepdim=True, dtype=torch.float64) for part in row_blocks(weight)]
    return (means[0] if len(means) == 1 else torch.cat(means)).to(weight.dtype)


def stats_scale(centered: Tensor, encoding: Encoding) -> Tensor:
    """Scale per row `[N, 1]`: 4/3 of the mean magnitude for ternary (Eq. 8), the mean for binary (Eq. 9).

    >>> stats_scale(torch.tensor([[1.0, -1.0, 2.0, -2.0]]), Encoding.TERNARY)
    tensor([[2.]])
    """
    magnitude = row_mean(centered.abs())
    return magnitude * (4.0 / 3.0) if encoding is Encoding.TERNARY else magnitude


def l2_threshold(weight: Tensor) -> Tensor:
    """TWN's threshold per row `[N, 1]`, Eq. 2: 0.7 of the mean magnitude."""
    return row_mean(weight.abs()) * 0.7


def l2_scale(weight: Tensor, codes: Tensor) -> Tensor:
    """Scale per row `[N, 1]`, Eq. 3 (TWN) and 5 (BWN): mean magnitude of the elements with nonzero codes."""
    kept = codes.abs()
    total = (weight.abs() * kept).sum(-1, keepdim=True, dtype=torch.float64)
    return (total / kept.sum(-1, keepdim=True).clamp_min(1)).to(weight.dtype)


def round_weight(weight: Tensor, scale: Tensor, encoding: Encoding) -> Tensor:
    """Round a weight to codes by comparison with multiples of its scale, Eq. 8 and 9; ternary ties go to 0.

    Args:
        weight: float `[N, K]`, after centering, if any.
        scale: float `[N, 1]`; ignored for binary codes, which are signs.
        encoding: binary, ternary or int8.

    Returns:
        Codes `[N, K]`, same dtype as the weight.
    """
    if encoding is Encoding.BINARY:
        return indicator(torch.ge, weight, 0).mul_(2).sub_(1)
    if encoding is Encoding.TERNARY:
        half = 0.5 * scale
        return indicator(torch.gt, weight, half).sub_(indicator(torch.lt, weight, -half))
    return torch.round(weight / scale.clamp_min(_SMALLEST)).clamp(encoding.minimum, encoding.maximum)


def gradient_mask(weight: Tensor, scale: Tensor, encoding: Encoding, ste: str) -> Tensor | None:
    """Where the gradient of a binary or ternary weight passes, 0 and 1; None: everywhere.

    "clipped" is Eq. 10, `|w| < scale`. "trust" is the trust estimator of QuEST (Panferov et al. 2025,
    arXiv:2502.05003), `|w - codes * scale| <= step / 2`, which for two levels is `|w| <= 2 scale` and for
    three `|w| <= 1.5 scale`.

    Args:
        weight: float `[N, K]`, after centering, if any.
        scale: float `[N, 1]`.
        encoding: of the codes.
        ste: as in `Recipe.ste`.
    """
    if ste == "identity" or encoding is Encoding.INT8:
        return None
    if ste == "clipped":
        return indicator(torch.lt, weight.abs(), scale)
    return indicator(torch.le, weight.abs(), scale * (2.0 if encoding is Encoding.BINARY else 1.5))


def _quantize_rows(
    weight: Tensor, encoding: Encoding, center: bool, method: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes `[N, K]` of a float weight, its scale `[N, 1]`, and what the codes were rounded from."""
    if encoding is Encoding.INT8:
        scale = weight.abs().amax(-1, keepdim=True) / encoding.maximum
        return round_weight(weight, scale, encoding), scale, weight
    centered = weight - row_mean(weight) if center else weight
    if method == "stats":
        scale = stats_scale(centered, encoding)
        codes = round_weight(centered, scale, encoding)
    elif method == "sign":
        # BiBERT: signs come from the centered weight, the scale from the weight itself.
        scale = row_mean(weight.abs())
        codes = round_weight(centered, scale, encoding)
    else:
        # Eq. 1 compares with Delta, round_weight with half a scale.
        codes = round_weight(centered, 2.0 * l2_threshold(centered), encoding)
        scale = l2_scale(centered, codes)
    return codes, scale, centered


class _QuantizeWeight(torch.autograd.Function):
    """Codes `[N, K]` and scale `[N, 1]` of a weight, with the straight-through estimator of `gradient_mask`.

    The backward pass treats the scale as a constant.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, encoding: Encoding, center: bool, method: str, ste: str
    ) -> tuple[Tensor, Tensor]:
        parts = list(row_blocks(weight))
        masked = ste != "identity" and encoding is not Encoding.INT8
        if len(parts) == 1:
            codes, scale, centered = _quantize_rows(widened(weight), encoding, center, method)
            codes = narrowed(codes, weight)
        else:
            wide = widened(weight[:1])
            codes, scale = torch.empty_like(weight), wide.new_empty(len(weight), 1)
            centered = torch.empty_like(weight, dtype=wide.dtype) if masked else wide
            for part in parts:
                rows = widened(weight[part])
                codes[part], scale[part], found = _quantize_rows(rows, encoding, center, method)
                if masked:
                    centered[part] = found
        ctx.save_for_backward(scale, *[centered] * masked)
        ctx.encoding, ctx.ste = encoding, ste
        ctx.mark_non_differentiable(scale)
        return codes, scale

    @staticmethod
    def backward(ctx: Any, grad_codes: Tensor, _grad_scale: Tensor) -> tuple[Tensor | None, ...]:
        scale, *centered = ctx.saved_tensors
        grad = widened(grad_codes) / scale.clamp_min(_SMALLEST)
        mask = gradient_mask(centered[0], scale, ctx.encoding, ctx.ste) if centered else None
        if mask is not None:
            grad.mul_(mask)
        return grad, None, None, None, None


class WeightQuantizer(Float32State):
    """Quantizes a weight `[N, K]` row by row to `QuantTensor(codes [N, K], scale [N, 1])`.

    Ternary is Eq. 8, binary Eq. 9. The straight-through estimator passes the gradient where
    `gradient_mask(weight - mean, ...)` says. `method="l2"` is TWN and BWN
    (Eq. 1-5); `method="sign"` is BiBERT's (Qin et al. 2022), Eq. 9 with the scale of Eq. 5. 8 bits scale by
    the largest magnitude of the row; 32 bits return the weight itself.

    >>> quantizer = WeightQuantizer(Encoding.TERNARY)
    >>> quantizer(torch.tensor([[1.0, -1.0, 2.0, -2.0, 0.0, 0.0]])).value
    tensor([[ 1.3333, -1.3333,  1.3333, -1.3333,  0.0000,  0.0000]])
    >>> WeightQuantizer(Encoding.BINARY)(torch.tensor([[3.0, 1.0, 0.0, 0.0]])).value
    tensor([[ 1.,  1., -1., -1.]])
    """

    relaxation: Relaxation | None = None  # what training uses in place of the levels, for a while
    dead_zone = 0.0  # see `dead_zone_bias`

    def __init__(
        self, encoding: Encoding, *, center: bool = True, method: str = "stats", ste: str = "identity"
    ) -> None:
        super().__init__()
        self.encoding, self.center, self.method, self.ste = encoding, center, method, ste

    @property
    def packs(self) -> bool:
        """Whether it returns codes with a scale per row, which can be packed."""
        return self.encoding.quantized

    def forward(self, weight: Tensor) -> QuantTensor:
        quantized = self.quantize(weight)
        if self.relaxation is None or quantized.scale is None:
            return quantized
        wide = widened(weight)
        return self.relaxation(wide - row_mean(wide) if self.center else wide, quantized, self.encoding)

    def quantize(self, weight: Tensor) -> QuantTensor:
        """Quantize a weight `[N, K]`, without a relaxation."""
        if not self.encoding.quantized:
            return QuantTensor(weight, None)
        return QuantTensor(*_QuantizeWeight.apply(weight, self.encoding, self.center, self.method, self.ste))

    def quantize_rows(self, weight: Tensor, rows: slice) -> QuantTensor:
        """Quantize some rows of a weight `[N, K]`, as float32.

        Args:
            weight: all of it.
            rows: to quantize.
        """
        return self.quantize(widened(weight[rows]))

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, center={self.center}, method={self.method!r}, ste={self.ste!r}"


class StatefulWeightQuantizer(WeightQuantizer, ABC):
    """A weight quantizer with parameters.

    The quantizers of a tied weight share the state of one of them, the leader; followers have no parameters.
    """

    def follow(self, leader: StatefulWeightQuantizer) -> None:
        """Delete this quantizer's state and use the leader's."""
        for name in list(self._parameters):
            del self._parameters[name]
        for name in list(self._buffers):
            del self._buffers[name]
        self.__dict__["leader"] = leader  # not a child module: its state would be saved twice

    def forward(self, weight: Tensor) -> QuantTensor:
        return super().forward(weight) if self.leader is self else self.leader.forward(weight)

    def quantize_rows(self, weight: Tensor, rows: slice) -> QuantTensor:
        return self.leader.quantize(widened(weight[rows]))

    @property
    def leader(self) -> StatefulWeightQuantizer:
        """The quantizer whose state this one uses: itself, unless it follows another."""
        leader: StatefulWeightQuantizer = self.__dict__.get("leader", self)
        return leader

    @abstractmethod
    def quantize(self, weight: Tensor) -> QuantTensor:
        """Quantize a weight `[N, K]` with this quantizer's state."""
