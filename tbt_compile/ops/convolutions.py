"""Convolutions as matrix products, by im2col.

A convolution multiplies the window of its input at every position by one matrix. With the windows as rows it
is a product like any other: `windows(x) [..., *positions, K] @ weight.flatten(1).T`, K = C * prod(kernel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution lie; every attribute has one entry per spatial dimension.

    Attributes:
        kernel: sizes of a window.
        stride: steps from one window to the next.
        padding: zeros before and after the input.
        dilation: steps between the elements of a window.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Geometry:
        """The geometry that the arguments of a convolution describe.

        Args:
            kernel: sizes of the kernel.
            stride: one number for all dimensions, or one for each; None for 1.
            padding: as `stride`, or "same" or "valid"; None for 0.
            dilation: as `stride`.

        Returns:
            The geometry.
        """
        rank = len(kernel)
        stride, dilation = _each(stride, 1, rank), _each(dilation, 1, rank)
        if padding == "same":  # an odd number of zeros puts one more behind
            totals = [gap * (size - 1) for gap, size in zip(dilation, kernel, strict=True)]
            pads = tuple((total // 2, total - total // 2) for total in totals)
        else:
            pads = tuple((size, size) for size in _each(None if padding == "valid" else padding, 0, rank))
        return cls(tuple(kernel), stride, pads, dilation)

    @property
    def pointwise(self) -> bool:
        """Whether every window is one element of the input, so that the convolution is a linear layer."""
        return prod(self.kernel) == 1 and not any(map(any, self.padding))

    def windows(self, x: Tensor) -> Tensor:
        """Take the windows out of an input.

        Args:
            x: `[..., C, *sizes]`.

        Returns:
            `[..., *positions, C * prod(kernel)]`, contiguous; the elements of a window are in the order of a
            weight's, `[C, *kernel]`.
        """
        rank = len(self.kernel)
        if any(map(any, self.padding)):
            x = F.pad(x, [zeros for pair in reversed(self.padding) for zeros in pair])
        *lead, channel = range(x.dim() - rank)
        x = x.permute(*lead, *range(channel + 1, x.dim()), channel)
        for index, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = _unfold(x, channel + index, size, step, gap)
        # A mean over a strided dimension depends on how threads share the rows; one over the last does not.
        return x.flatten(channel + rank).contiguous()

    def image(self, rows: Tensor) -> Tensor:
        """Put features back in front of positions: `[..., *positions, N]` to `[..., N, *positions]`."""
        *lead, last = range(rows.dim())
        channel = last - len(self.kernel)
        return rows.permute(*lead[:channel], last, *lead[channel:]).contiguous()


def _each(value: Any, default: int, rank: int) -> tuple[int, ...]:
    """One number for each of `rank` dimensions."""
    value = default if value is None else value
    sizes = [value] if isinstance(value, int) else list(value)
    return tuple(map(int, sizes * rank if len(sizes) == 1 else sizes))


def _unfold(x: Tensor, dim: int, size: int, step: int, gap: int) -> Tensor:
    """Windows of one dimension, whose elements go to a new last one; a window of one element gets none."""
    if size == 1:
        return x[(slice(None),) * dim + (slice(None, None, step),)]
    return x.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap]


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution over one or two dimensions by im2col; NotImplemented of another dtype than float32.

    Args:
        x: `[N, C, *sizes]`, or without N.
        weight: `[O, C, *kernel]`.
        bias: `[O]` or None.
        stride: as for `torch.nn.functional.conv2d`.
        padding: as for `torch.nn.functional.conv2d`.
        dilation: as for `torch.nn.functional.conv2d`.
        groups: of channels.

    Returns:
        `[N, O, *positions]`.
    """
    if x.dtype is not torch.float32:
        return NotImplemented
    windows = Geometry.of(weight.shape[2:], stride, padding, dilation)
    rows = windows.windows(x)
    if groups == 1:
        return windows.image(F.linear(rows, weight.flatten(1), bias))
    split = rows.reshape(*rows.shape[:-1], groups, -1).flatten(-2 - len(windows.kernel), -3).transpose(-3, -2)
    product = split @ weight.reshape(groups, len(weight) // groups, -1).transpose(1, 2)
    product = product.transpose(-3, -2).reshape(*rows.shape[:-1], len(weight))
    return windows.image(product if bias is None else product + bias)


def geometry(name: str, operands: Sequence[Any]) -> Geometry | str:
    """The windows of a call of a convolution.

    Args:
        name: "conv1d", "conv2d" or "convolution".
        operands: of the call, from `products.operands_of`.

    Returns:
        The geometry; for a convolution that is no product with one matrix, the reason.
    """
    x, weight, _, stride, padding, dilation, *others = operands
    groups = others[-1] or 1
    rank = weight.dim() - 2
    if name == "convolution" and others[0]:
        return TRANSPOSED
    if rank not in (1, 2):
        return OTHER_RANKS
    if groups != 1:
        return DEPTHWISE if groups == x.shape[-rank - 1] else GROUPED
    return Geometry.of(weight.shape[2:], stride, padding, dilation)


TRANSPOSED = "transposed convolutions stay fp32: their windows overlap in the output, where im2col has none"
OTHER_RANKS = "convolutions over other than one or two dimensions stay fp32: they have no quantized form"
GROUPED = "grouped convolutions stay fp32: no single matrix multiplies all channels"
DEPTHWISE = "depthwise convolutions stay fp32: no single matrix multiplies all channels"
