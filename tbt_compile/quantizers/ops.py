"""Products of quantized tensors: integer arithmetic on codes first, scales afterwards."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class QuantTensor(NamedTuple):
    """A quantized tensor: the value is `codes * scale`.

    Attributes:
        codes: integers held in the floating type of the original, same shape; or the original itself.
        scale: broadcastable to `codes`: a scalar, one per row of a weight `[N, 1]`, or one per token
            `[..., 1]`. None means that the tensor is not quantized and `codes` is its value.
    """

    codes: Tensor
    scale: Tensor | None

    @property
    def value(self) -> Tensor:
        """The real-valued tensor that the codes stand for."""
        return self.codes if self.scale is None else self.codes * self.scale


def quantized_linear(x: QuantTensor, weight: QuantTensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` for x `[..., K]` and weight `[N, K]`; returns `[..., N]`.

    With both operands quantized the sum runs over integers (exact in float32 up to 2**24, that is for K up
    to 65,536 at eight by eight bits less one, far more at fewer bits), and the scales are applied once.
    """
    if x.scale is None or weight.scale is None:
        return F.linear(x.value, weight.value, bias)
    output = F.linear(x.codes, weight.codes) * (x.scale * weight.scale.transpose(-1, -2))
    return output if bias is None else output + bias


def quantized_matmul(a: QuantTensor, b: QuantTensor, transpose_b: bool) -> Tensor:
    """`a @ b` or, with `transpose_b`, `a @ b.T`, for b `[..., T, D]` quantized along its last dimension.

    The attention scores QK^T use `transpose_b=True`; there a scale per token of b becomes one per column.
    In PV a scale per token of b lies along the summed dimension, so that it multiplies b before the sum.
    """
    if a.scale is None or b.scale is None:
        return a.value.matmul(b.value.transpose(-1, -2) if transpose_b else b.value)
    if transpose_b:
        scale = b.scale.transpose(-1, -2) if b.scale.dim() else b.scale
        return a.codes.matmul(b.codes.transpose(-1, -2)) * (a.scale * scale)
    if b.scale.dim():
        return a.codes.matmul(b.value) * a.scale
    return a.codes.matmul(b.codes) * (a.scale * b.scale)


def quantized_embedding(ids: Tensor, weight: QuantTensor, padding_idx: int | None = None) -> Tensor:
    """Rows `ids` (int64, any shape) of weight `[N, D]`, as real values `[*ids.shape, D]`."""
    rows = F.embedding(ids, weight.codes, padding_idx)
    if weight.scale is None:
        return rows
    return rows * F.embedding(ids, weight.scale, padding_idx)
