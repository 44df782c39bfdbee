"""Float operators defined by others, so that eager mode and compiled code compute the same bits.

Each function is written with operators that docs/numerics.md defines. `DEFINITIONS` has them by operator: the
importer decomposes a graph with it, and `exact()` runs it in place of PyTorch's kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.ops.convolutions import convolved

ATEN = torch.ops.aten


def group_normed(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Group norm: `(x - mean) / sqrt(var + eps) * weight + bias`, of the channels of each group.

    Args:
        x: `[N, C, ...]`.
        groups: number of groups of channels; C for instance norm.
        weight: `[C]` or None.
        bias: `[C]` or None.
        eps: added to the variance.

    Returns:
        `[N, C, ...]`.
    """
    rows = x.reshape(x.shape[0], groups, -1)
    centred = rows - rows.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    y = (centred / torch.sqrt(variance + eps)).reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x)
    return y if bias is None else y + _per_channel(bias, x)


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, _cudnn: bool = True
) -> Tensor:
    return group_normed(x, groups, weight, bias, eps)


def _native_group_norm(x: Tensor, weight: Any, bias: Any, *sizes_and_eps: Any) -> tuple[Tensor, ...]:
    *_, groups, eps = sizes_and_eps
    return group_normed(x, groups, weight, bias, eps), x.new_empty(0), x.new_empty(0)


def _instance_norm(
    x: Tensor,
    weight: Any,
    bias: Any,
    _mean: Any,
    _variance: Any,
    of_input: bool,
    _momentum: float,
    eps: float,
    *_: Any,
) -> Any:
    return group_normed(x, x.shape[1], weight, bias, eps) if of_input else NotImplemented


def _native_batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, _momentum: float, eps: float
) -> Any:
    """With running statistics; without, of an instance norm, which makes one row of its batch."""
    if training and mean is None and len(x) == 1:
        return group_normed(x, x.shape[1], weight, bias, eps), x.new_empty(0), x.new_empty(0)
    if training or mean is None or variance is None:
        return NotImplemented
    factor = torch.rsqrt(variance + eps)
    factor = factor if weight is None else factor * weight
    y = (x - _per_channel(mean, x)) * _per_channel(factor, x)
    return y if bias is None else y + _per_channel(bias, x), x.new_empty(0), x.new_empty(0)


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    """`[C]` as an operand of `[N, C, ...]`."""
    return value.reshape(-1, *(1 for _ in x.shape[2:]))


def _pooled(x: Tensor, output_size: Sequence[int]) -> Any:
    """A mean over as many last dimensions as `output_size` has, if every size is 1."""
    if any(size != 1 for size in output_size):
        return NotImplemented
    return x.mean([-1 - dim for dim in range(len(output_size))], keepdim=True)


def log1p(x: Tensor) -> Tensor:
    """log(1 + x); u = 1 + x has lost digits of x, which the quotient x / (u - 1) gives back (Kahan)."""
    u = 1 + x
    return torch.where(u == 1, x, torch.where(u == math.inf, u, torch.log(u) * (x / (u - 1))))


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, by the logarithm of the rounded exp(x) (Kahan)."""
    u = torch.exp(x)
    y = torch.where(u == math.inf, u, (u - 1) * (x / torch.log(u)))
    return torch.where(u == 1, x, torch.where(u == 0, -1.0, y))


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    scaled = x * beta
    return torch.where(scaled > threshold, x, log1p(torch.exp(scaled)) / beta)


def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.where(x > 20, x, log1p(torch.exp(x))))


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    return torch.where(x <= 0, expm1(x * input_scale) * (alpha * scale), x * scale)


def _celu(x: Tensor, alpha: float = 1) -> Tensor:
    return _elu(x, alpha, 1, 1 / alpha)


def _selu(x: Tensor) -> Tensor:
    return _elu(x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _log_sigmoid(x: Tensor) -> Tensor:
    return x.clamp(max=0) - log1p(torch.exp(-x.abs()))


def _log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return _log_sigmoid(x), x.new_empty(0)


def _logit(x: Tensor, eps: float | None = None) -> Tensor:
    x = x if eps is None else x.clamp(eps, 1 - eps)
    return torch.log(x / (1 - x))


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _hardswish(x: Tensor) -> Tensor:
    return x * F.hardsigmoid(x)


def _addcmul(x: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Tensor:
    product = first * second
    return x + (product if value == 1 else product * value)


def _lerp(x: Tensor, end: Tensor, weight: Any) -> Any:
    if not isinstance(weight, (int, float, Tensor)):
        weight = torch.scalar_tensor(weight)
    if isinstance(weight, Tensor):
        return torch.where(weight.abs() < 0.5, x + weight * (end - x), end - (end - x) * (1 - weight))
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


def _logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    largest = x.amax(dim, keepdim=True)
    largest = torch.where(largest.isinf(), 0.0, largest)
    total = torch.log(torch.exp(x - largest).sum(dim, keepdim=True)) + largest
    return total if keepdim else total.squeeze(tuple(dim))


def _vector_norm(
    x: Tensor,
    order: float | None = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    order = 2 if order is None else order
    if dtype is not None or order not in (1, 2) or x.dtype is not torch.float32:
        return NotImplemented
    dims = list(range(x.dim())) if not dim else list(dim)
    return x.abs().sum(dims, keepdim) if order == 1 else torch.sqrt((x * x).sum(dims, keepdim))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """PyTorch's own products and softmax, whichever of its kernels would run."""
    if dropout_p or query.dtype is not torch.float32:
        return NotImplemented
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, -math.inf)
    compose = composed(ATEN._scaled_dot_product_attention_math.default)
    return compose(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    found = _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    return found if found is NotImplemented else (found, query.new_empty(0))


def _safe_softmax(x: Tensor, dim: int, dtype: Any = None) -> Any:
    """Softmax of which a row of nothing but -inf is 0."""
    if dtype not in (None, torch.float32):
        return NotImplemented
    return torch.where(x.isneginf().all(dim, keepdim=True), 0.0, torch.softmax(x, dim))


def composed(target: Any) -> Callable[..., Any]:
    """PyTorch's own composition of an operator that has one, whatever decompositions are being run."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    in_python: Callable[..., Any] | None = target.py_kernels.get(key)
    return in_python or partial(target._op_dk, key)


DEFINITIONS: dict[Any, Callable[..., Any]] = {
    ATEN.conv1d.default: convolved,
    ATEN.conv1d.padding: convolved,
    ATEN.conv2d.default: convolved,
    ATEN.conv2d.padding: convolved,
    ATEN.adaptive_avg_pool1d.default: _pooled,
    ATEN.adaptive_avg_pool2d.default: _pooled,
    ATEN.adaptive_avg_pool3d.default: _pooled,
    ATEN.group_norm.default: _group_norm,
    ATEN.native_group_norm.default: _native_group_norm,
    ATEN.instance_norm.default: _instance_norm,
    ATEN.log1p.default: log1p,
    ATEN.expm1.default: expm1,
    ATEN.softplus.default: _softplus,
    ATEN.mish.default: _mish,
    ATEN.elu.default: _elu,
    ATEN.celu.default: _celu,
    ATEN.selu.default: _selu,
    ATEN.log_sigmoid.default: _log_sigmoid,
    ATEN.log_sigmoid_forward.default: _log_sigmoid_forward,
    ATEN.logit.default: _logit,
    ATEN.glu.default: _glu,
    ATEN.addcmul.default: _addcmul,
    ATEN.lerp.Scalar: _lerp,
    ATEN.lerp.Tensor: _lerp,
    ATEN.logsumexp.default: _logsumexp,
    ATEN.linalg_vector_norm.default: _vector_norm,
    ATEN.norm.Scalar: _vector_norm,
    ATEN.norm.ScalarOpt_dim: _vector_norm,
    ATEN.scaled_dot_product_attention.default: _attention,
    ATEN._safe_softmax.default: _safe_softmax,
    ATEN._scaled_dot_product_flash_attention_for_cpu.default: _flash_attention,
}
"""By operator, of graphs or of eager mode; NotImplemented where it stays as it is."""

EAGER: dict[Any, Callable[..., Any]] = {
    ATEN.native_batch_norm.default: _native_batch_norm,
    ATEN.hardswish.default: _hardswish,
}
"""Those that compiled code has a converter for, which computes the same."""
