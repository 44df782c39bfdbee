"""Linear and embedding operators on packed weights, the targets of the lowering passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.ops.quantize import quantize, unpack
from tbt_compile.ops.schema import Operand, PackedWeight, Scale, declare
from tbt_compile.quantizers.hadamard import butterflies
from tbt_compile.quantizers.ops import QuantTensor, quantized_linear

_SAMPLING = ContextVar("sampling", default=False)
_SAMPLE = 64
"""Rows."""


@contextmanager
def sampled_rows() -> Iterator[None]:
    """Let `bit_linear` multiply with the first rows of a weight, and repeat their results for the others.

    It is for checks that two ways to run a model agree, or take the same branches: any function of its
    operands serves them, and unpacking the weights of a large model takes most of the time.
    """
    before = _SAMPLING.set(True)
    try:
        yield
    finally:
        _SAMPLING.reset(before)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}
"""Elementwise functions that fuse into the epilogue of a linear layer."""


@declare
def bit_linear(
    x: Annotated[Tensor, Operand("float32 [..., K]")],
    x_scale: Annotated[Tensor | None, Scale()],
    packed: Annotated[Tensor, PackedWeight(encoding="weight_encoding", columns="columns")],
    weight_scale: Annotated[Tensor, Scale("float32 [N, G]")],
    bias: Annotated[Tensor | None, Operand("float32 [N]")],
    x_encoding: str,
    weight_encoding: str,
    center: bool,
    columns: int,
    function: str = "",
    floor: float = 0.0,
    hadamard: int = 0,
) -> Tensor:
    """Rotate and quantize x, multiply by the weight, scale, add the bias and apply a function.

    If x is not quantized, the products are of floats, `x * (code * scale)`.

    Args:
        x: in full precision.
        x_scale: learned; ignored by 8-bit encodings, which are scaled per token; None if x is not quantized.
        packed: codes of the weight `[N, K]`.
        weight_scale: one per row of the weight, or per group of K / G columns if x is not quantized.
        bias: one per row of the weight, or None.
        x_encoding: an `Encoding` value; "float" if x is not quantized.
        weight_encoding: an `Encoding` value.
        center: subtract the mean of each row of x before quantizing.
        columns: K; rows of packed words are padded to whole words.
        function: a name in `FUNCTIONS`, or "" for none.
        floor: as for `quantize`.
        hadamard: size of the blocks by which x is rotated before anything else, see `tbt::hadamard`; 0 for
            no rotation. Only for x that is quantized.

    Returns:
        float32 `[..., N]`.
    """
    operand = QuantTensor(x, None)
    if x_scale is not None:
        rotated = butterflies(x, hadamard) if hadamard else x
        operand = QuantTensor(*quantize(rotated, x_scale, x_encoding, center, floor))
    rows = len(packed)
    if _SAMPLING.get():
        packed, weight_scale = packed[:_SAMPLE], weight_scale[:_SAMPLE]
    weight = QuantTensor(unpack(packed, weight_encoding, columns), weight_scale)
    y = quantized_linear(operand, weight, None)
    if len(packed) < rows:
        y = y.repeat(*[1] * (y.dim() - 1), -(-rows // len(packed)))[..., :rows]
    y = y if bias is None else y + bias
    return FUNCTIONS[function](y) if function else y


@bit_linear.fake
def _(call: SimpleNamespace) -> Tensor:
    return call.x.new_empty((*call.x.shape[:-1], call.packed.shape[0]))


@declare
def bit_embedding(
    ids: Annotated[Tensor, Operand("int64 [...]")],
    packed: Annotated[Tensor, PackedWeight(encoding="weight_encoding", columns="columns")],
    weight_scale: Annotated[Tensor, Scale("float32 [N, G]")],
    weight_encoding: str,
    columns: int,
) -> Tensor:
    """Look up rows of a packed weight and scale them to real values.

    Args:
        ids: row indices.
        packed: codes of the weight `[N, K]`.
        weight_scale: one per row, or per group of K / G columns.
        weight_encoding: an `Encoding` value.
        columns: K; rows of packed words are padded to whole words.

    Returns:
        float32 `[*ids.shape, K]`.
    """
    flat = ids.flatten()
    rows, scales = packed.index_select(0, flat), weight_scale.index_select(0, flat)
    return QuantTensor(unpack(rows, weight_encoding, columns), scales).value.reshape(*ids.shape, columns)


@bit_embedding.fake
def _(call: SimpleNamespace) -> Tensor:
    return call.weight_scale.new_empty((*call.ids.shape, call.columns))
