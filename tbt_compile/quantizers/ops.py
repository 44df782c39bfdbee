"""Products of quantized tensors: integer arithmetic on codes, scaled afterwards.

Products are computed in float32, which holds sums of codes exactly, also for half-precision operands and
under `torch.autocast`; results have the dtype of the operands.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.encoding import Encoding

BLOCK = 2**20
"""Elements scaled at a time: the broadcast scales of all logits would be as large as the logits."""
EXACT = 2**24
"""float32 holds all integers below it."""
LARGEST = Encoding.UINT8.maximum
"""The largest magnitude of a code."""


class QuantTensor(NamedTuple):
    """A quantized tensor with the value `codes * scale`.

    Attributes:
        codes: integers in the dtype and shape of the original; the original itself if not quantized. Half
            precision holds 8-bit integers exactly.
        scale: float32, or float64 for a float64 original. Broadcasts to `codes`: a scalar, `[N, 1]` per row
            of a weight, or `[..., 1]` per token. A weight `[N, K]` that only looks up rows or multiplies
            floats may have `[N, G]`, one per group of K / G columns. None if the tensor is not quantized.
    """

    codes: Tensor
    scale: Tensor | None

    @property
    def value(self) -> Tensor:
        """The real values that the codes stand for, at least float32 unless the tensor is not quantized."""
        if self.scale is None:
            return self.codes
        codes = widened(self.codes)
        groups = self.scale.shape[-1] if self.scale.dim() else 1
        if groups == 1 or self.scale.dim() != codes.dim():
            return codes * self.scale
        return (codes.unflatten(-1, (groups, -1)) * self.scale.unsqueeze(-1)).flatten(-2)


def widened(x: Tensor) -> Tensor:
    """Return x in float32 if it has fewer bits, else x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def narrowed(x: Tensor, like: Tensor) -> Tensor:
    """Return x in the dtype of `like`; x itself if it has that dtype."""
    return x if x.dtype == like.dtype else x.to(like.dtype)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Turn `torch.autocast` off on the device of x: its products would round sums of codes."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)  # not on every device
    return torch.autocast(kind, enabled=False) if known and torch.is_autocast_enabled(kind) else nullcontext()


def _multiply(a: Tensor, b: Tensor, transpose_b: bool) -> Tensor:
    a, b = widened(a), widened(b)
    if b.dim() == 2 and transpose_b:
        return F.linear(a, b)
    return a.matmul(b.transpose(-1, -2) if transpose_b else b)


def _scales(a: Tensor, b: Tensor, transpose_b: bool) -> Tensor:
    """Scales of a product, broadcastable to it."""
    return a * (b.transpose(-1, -2) if transpose_b and b.dim() else b)


def _scale_gradient(grad_codes: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """d loss / d scale of `codes * scale`, from the gradient to the codes, which includes the scale."""
    products = grad_codes * widened(codes)
    if scale.dim() == 0:
        return products.sum() / scale
    return products.sum(-1, keepdim=True) / scale.clamp_min(torch.finfo(scale.dtype).tiny)


class _ScaledProduct(torch.autograd.Function):
    """`_multiply(a, b) * _scales(...)` without temporaries of the product's size, forward and backward.

    A product as large as the logits dominates memory. The forward pass scales it in place; the backward pass
    scales the operands instead of the gradient. If b has more than a scalar scale, it has one per row and
    `transpose_b` is set.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, transpose_b: bool
    ) -> Tensor:
        ctx.save_for_backward(a, a_scale, b, b_scale)
        ctx.transpose_b = transpose_b
        product = _multiply(a, b, transpose_b)
        if a_scale.dim() == 0:
            return product.mul_(_scales(a_scale, b_scale, transpose_b))
        count = max(1, BLOCK * len(product) // max(1, product.numel()))
        for start in range(0, len(product), count):
            part = slice(start, start + count)
            scale = b_scale[part] if b_scale.dim() > 2 else b_scale
            product[part].mul_(_scales(a_scale[part], scale, transpose_b))
        return product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, a_scale, b, b_scale = ctx.saved_tensors
        with without_autocast(grad):
            grad_a = _multiply(grad, widened(b) * b_scale, not ctx.transpose_b).mul_(a_scale)
            left, right = widened(a) * a_scale, grad
            if b.dim() == 2:
                left, right = left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])
            if ctx.transpose_b:
                left, right = right, left
            grad_b = left.transpose(-1, -2).matmul(right).mul_(b_scale)
        wants = ctx.needs_input_grad
        return (
            grad_a,
            _scale_gradient(grad_a, a, a_scale) if wants[1] else None,
            grad_b,
            _scale_gradient(grad_b, b, b_scale) if wants[3] else None,
            None,
        )


def _product(a: QuantTensor, b: QuantTensor, transpose_b: bool) -> Tensor:
    assert a.scale is not None
    assert b.scale is not None
    trains = torch.is_grad_enabled() and any(part.requires_grad for part in (*a, *b))  # type: ignore[union-attr]
    same_batch = a.codes.shape[:-2] == b.codes.shape[:-2]
    if trains and a.codes.dim() > 1 and (b.codes.dim() == 2 or same_batch):
        return _ScaledProduct.apply(a.codes, a.scale, b.codes, b.scale, transpose_b)
    return _sum_of_codes(a.codes, b.codes, transpose_b) * _scales(a.scale, b.scale, transpose_b)


def _sum_of_codes(a: Tensor, b: Tensor, transpose_b: bool) -> Tensor:
    """`_multiply` of codes; in float64, then rounded once, where float32 might not hold the sums exactly."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not a.numel() or not b.numel():
        return _multiply(a, b, transpose_b)
    length = a.shape[-1]
    if length * LARGEST**2 < EXACT or length * _magnitude(a) * _magnitude(b) < EXACT:
        return _multiply(a, b, transpose_b)
    return _multiply(a.double(), b.double(), transpose_b).to(widened(a).dtype)


def _magnitude(codes: Tensor) -> float:
    """The largest magnitude, without a copy of the codes."""
    low, high = torch.aminmax(codes)
    return max(-float(low), float(high))


def quantized_linear(x: QuantTensor, weight: QuantTensor, bias: Tensor | None) -> Tensor:
    """Compute `x @ weight.T + bias`.

    If both operands are quantized, the reduction over K adds integers, exactly, and the scales are applied
    once, to the sums. (In training, sums from 2**24 on are rounded as they are added.)

    Args:
        x: `[..., K]`.
        weight: `[N, K]`.
        bias: `[N]`, or None.

    Returns:
        Real values `[..., N]`, in the dtype of `x.codes`.
    """
    if x.scale is None and weight.scale is None:
        return F.linear(x.codes, weight.codes, bias)
    with without_autocast(x.codes):
        if x.scale is None or weight.scale is None:
            wide = None if bias is None else widened(bias)
            return narrowed(F.linear(widened(x.value), widened(weight.value), wide), x.codes)
        output = _product(x, weight, True)
        output = output.flatten() if x.codes.dim() == 1 else output  # the weight's scales are [1, N]
        return narrowed(output if bias is None else output + bias, x.codes)


def quantized_matmul(a: QuantTensor, b: QuantTensor, transpose_b: bool) -> Tensor:
    """Compute `a @ b`, or `a @ b.T` with `transpose_b`.

    In QK^T (`transpose_b`) the scales per token of b become scales per column of the product. In PV they lie
    along the reduction axis and have to multiply b before the sum.

    Args:
        a: `[..., Q, D]` with `transpose_b`, else `[..., Q, T]`.
        b: `[..., T, D]`, with one scale, or one per token `[..., T, 1]`.
        transpose_b: whether to transpose the last two dimensions of b.

    Returns:
        Real values, `[..., Q, T]` with `transpose_b`, else `[..., Q, D]`, in the dtype of `a.codes`.
    """
    if a.scale is None and b.scale is None:
        return a.codes.matmul(b.codes.transpose(-1, -2) if transpose_b else b.codes)
    with without_autocast(a.codes):
        if a.scale is None or b.scale is None:
            wide = widened(b.value)
            output = widened(a.value).matmul(wide.transpose(-1, -2) if transpose_b else wide)
        elif b.scale.dim() and not transpose_b:
            output = widened(a.codes).matmul(b.value) * a.scale
        else:
            output = _product(a, b, transpose_b)
        return narrowed(output, a.codes)


def quantized_embedding(ids: Tensor, weight: QuantTensor, padding_idx: int | None = None) -> Tensor:
    """Look up rows of a quantized weight.

    Args:
        ids: int64, any shape.
        weight: `[N, D]`.
        padding_idx: the row that gets no gradient, if any.

    Returns:
        Real values `[*ids.shape, D]`, in the dtype of `weight.codes`.
    """
    rows = F.embedding(ids, weight.codes, padding_idx)
    if weight.scale is None:
        return rows
    return narrowed(QuantTensor(rows, F.embedding(ids, weight.scale, padding_idx)).value, rows)
