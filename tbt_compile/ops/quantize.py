"""The operators that a frozen model is made of; `torch.export` keeps each as one node.

A frozen model runs in eager mode through these, and the lowering passes fuse them into the compiled
operators. Torch has no arithmetic on uint64, so packed words travel as int64 with the same bits.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tbt_compile.codegen import layouts
from tbt_compile.encoding import Encoding
from tbt_compile.ops.schema import Operand, PackedWeight, Scale, declare
from tbt_compile.quantizers.activations import quantize_dynamic, round_activation
from tbt_compile.quantizers.weights import row_mean


@declare
def quantize(
    x: Annotated[Tensor, Operand("float [..., D]")],
    scale: Annotated[Tensor, Scale("float []")],
    encoding: str,
    center: bool,
) -> tuple[Tensor, Tensor]:
    """Codes of x and their scale.

    Args:
        scale: learned; ignored by 8-bit encodings, which find one per token.
        center: whether the mean of each row is subtracted first; 8-bit encodings never do.

    Returns:
        Integers in the dtype and shape of x, and the scale: a copy of `scale`, or `[..., 1]` at 8 bits.
    """
    kind = Encoding(encoding)
    if kind.dynamic:
        return tuple(quantize_dynamic(x, kind))  # type: ignore[return-value]
    if center:
        x = x - row_mean(x)
    return round_activation(x, scale, kind), scale.clone()


@quantize.fake
def _(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    x = call.x
    dynamic = Encoding(call.encoding).dynamic
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1)) if dynamic else torch.empty_like(call.scale)


@declare
def unpack(
    packed: Annotated[Tensor, PackedWeight(encoding="encoding", columns="columns")],
    encoding: str,
    columns: int,
) -> Tensor:
    """Codes of a packed weight.

    Args:
        columns: K; packed words are padded to whole ones.

    Returns:
        Integers, float32 `[N, K]`.
    """
    kind = Encoding(encoding)
    return packed.float() if kind is Encoding.INT8 else unpack_bits(packed, kind, columns)


@unpack.fake
def _(call: SimpleNamespace) -> Tensor:
    return call.packed.new_empty((call.packed.shape[0], call.columns), dtype=torch.float32)


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
