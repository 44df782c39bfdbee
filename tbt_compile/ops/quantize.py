"""Quantize and unpack, the operators of a frozen model; `torch.export` keeps each call as one node.

A frozen model runs through them in eager mode; the lowering passes fuse them into the compiled operators.
Torch has no arithmetic on uint64, so packed words are stored as int64 with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tbt_compile.codegen import layouts
from tbt_compile.encoding import Encoding
from tbt_compile.ops.schema import Operand, PackedWeight, Scale, declare
from tbt_compile.quantizers.activations import quantize_dynamic
from tbt_compile.quantizers.learned_scale import round_activation
from tbt_compile.quantizers.ops import narrowed, widened
from tbt_compile.quantizers.weights import row_mean


@declare
def quantize(
    x: Annotated[Tensor, Operand("float [..., D]")],
    scale: Annotated[Tensor, Scale("float []")],
    encoding: str,
    center: bool,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantize x to codes and their scale.

    Args:
        x: in full precision.
        scale: learned; ignored by 8-bit encodings, which are scaled per token.
        encoding: an `Encoding` value.
        center: subtract the mean of each row before quantizing; ignored by 8-bit encodings.
        floor: at 8 bits, the least that the largest magnitude of a row counts as.

    Returns:
        Codes, integers in the dtype and shape of x, and the scale: a copy of `scale`, or `[..., 1]` at
        8 bits.
    """
    return quantize_with(row_mean, x, scale, Encoding(encoding), center, floor)


def quantize_with(
    mean: Callable[[Tensor], Tensor],
    x: Tensor,
    scale: Tensor,
    encoding: Encoding,
    center: bool,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`quantize` with another function for the mean of each row.

    Args:
        mean: from `[..., D]` to `[..., 1]`.
        x, scale, encoding, center, floor: as for `quantize`.

    Returns:
        As `quantize`.
    """
    if encoding.dynamic:
        return tuple(quantize_dynamic(x, encoding, floor))  # type: ignore[return-value]
    wide = widened(x)
    if center:
        wide = wide - mean(wide)
    return narrowed(round_activation(wide, scale, encoding), x), scale.clone()


@quantize.fake
def _(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    x = call.x
    dynamic = Encoding(call.encoding).dynamic
    scale = widened(x.new_empty((*x.shape[:-1], 1))) if dynamic else torch.empty_like(call.scale)
    return torch.empty_like(x), scale


@declare
def unpack(
    packed: Annotated[Tensor, PackedWeight(encoding="encoding", columns="columns")],
    encoding: str,
    columns: int,
) -> Tensor:
    """Unpack the codes of a weight, or convert one stored in half precision.

    Args:
        packed: codes of the weight `[N, K]`.
        encoding: an `Encoding` value.
        columns: K; rows of packed words are padded to whole words.

    Returns:
        Codes, float32 `[N, K]`.
    """
    kind = Encoding(encoding)
    if kind.half:
        return packed.view(getattr(torch, kind.value)).float()
    return packed.float() if kind is Encoding.INT8 else unpack_bits(packed, kind, columns)


@unpack.fake
def _(call: SimpleNamespace) -> Tensor:
    return call.packed.new_empty((call.packed.shape[0], call.columns), dtype=torch.float32)


def pack(codes: Tensor, encoding: Encoding) -> Tensor:
    """Pack codes `[N, K]`, integers of any dtype, into words or bytes; the inverse of `unpack`.

    Weights in half precision are stored as the int16 with their bits.

    >>> pack(torch.tensor([[-1.0, 0.0, 1.0]]), Encoding.TERNARY).tolist()
    [[[5], [1]]]
    """
    if encoding.half:
        return codes.to(getattr(torch, encoding.value)).view(torch.int16)
    return codes.to(torch.int8) if encoding is Encoding.INT8 else pack_bits(codes, encoding)


def pack_bits(codes: Tensor, encoding: Encoding) -> Tensor:
    """Pack codes `[..., K]` into bit-planes, int64 `[..., planes, ceil(K / 64)]` (see `codegen.layouts`)."""
    planes = layouts.pack_planes(codes.to(torch.int8).numpy(), encoding)
    return torch.from_numpy(planes.view(np.int64))


def unpack_bits(words: Tensor, encoding: Encoding, length: int) -> Tensor:
    """Unpack bit-planes; the inverse of `pack_bits`.

    Args:
        words: int64 `[..., planes, ceil(length / 64)]`.
        encoding: of the codes.
        length: codes per row.

    Returns:
        Codes, float32 `[..., length]`.
    """
    planes = words.contiguous().numpy().view(np.uint64)
    return torch.from_numpy(layouts.unpack_planes(planes, length, encoding)).float()
