# ruff: noqa: ARG001 (a fake implementation takes every argument of its operator)
"""Torch operators that a frozen model is made of; each survives `torch.export` as one node.

A frozen model runs in eager mode through these (the reference), and the lowering passes fuse them into the
compiled operators. Torch has no arithmetic on uint64, so packed words travel as int64 with the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tbt_compile.codegen import layouts
from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.activations import quantize_dynamic, round_activation
from tbt_compile.quantizers.weights import row_mean


@torch.library.custom_op("tbt::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, encoding: str, center: bool) -> tuple[Tensor, Tensor]:
    """Codes of x `[..., D]` (float32 integers) and their scale.

    For learned encodings the scale is `scale` (0-d) itself; for 8-bit encodings it is found per token
    `[..., 1]` and `scale` is ignored. `center` subtracts the token mean first.
    """
    kind = Encoding(encoding)
    if kind.dynamic:
        return tuple(quantize_dynamic(x, kind))  # type: ignore[return-value]
    if center:
        x = x - row_mean(x)
    return round_activation(x, scale, kind), scale.clone()


@quantize.register_fake
def _(x: Tensor, scale: Tensor, encoding: str, center: bool) -> tuple[Tensor, Tensor]:
    if Encoding(encoding).dynamic:
        return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1))
    return torch.empty_like(x), torch.empty_like(scale)


@torch.library.custom_op("tbt::unpack", mutates_args=())
def unpack(packed: Tensor, encoding: str, columns: int) -> Tensor:
    """Codes `[N, columns]` (float32 integers) of a packed weight.

    Binary and ternary weights are int64 words `[N, planes, ceil(columns / 64)]`, 8-bit ones int8
    `[N, columns]`.
    """
    kind = Encoding(encoding)
    return packed.float() if kind is Encoding.INT8 else unpack_bits(packed, kind, columns)


@unpack.register_fake
def _(packed: Tensor, encoding: str, columns: int) -> Tensor:
    return packed.new_empty((packed.shape[0], columns), dtype=torch.float32)


def pack(codes: Tensor, encoding: Encoding) -> Tensor:
    """The inverse of `unpack`: codes `[N, K]` (integers of any dtype) to packed words or bytes.

    >>> pack(torch.tensor([[-1.0, 0.0, 1.0]]), Encoding.TERNARY).tolist()
    [[[5], [1]]]
    """
    return codes.to(torch.int8) if encoding is Encoding.INT8 else pack_bits(codes, encoding)


def pack_bits(codes: Tensor, encoding: Encoding) -> Tensor:
    """Codes `[..., K]` to bit-planes, int64 `[..., planes, ceil(K / 64)]` (see `codegen.layouts`)."""
    planes = layouts.pack_planes(codes.to(torch.int8).numpy(), encoding)
    return torch.from_numpy(planes.view(np.int64))


def unpack_bits(words: Tensor, encoding: Encoding, length: int) -> Tensor:
    """The inverse of `pack_bits`: float32 codes `[..., length]`."""
    planes = words.contiguous().numpy().view(np.uint64)
    return torch.from_numpy(layouts.unpack_planes(planes, length, encoding)).float()
