"""Keys and values packed for the cache, once, when they enter it.

Keys are packed along the features, `[B, H, T, planes * words]`. Values of learned encodings are packed along
the tokens, over which attention sums them: `[B, H, ceil(T / 64), planes, D]`. With 8-bit encodings a row of
either holds one byte per code and then the float32 scale of its token, `[B, H, T, D + 4]`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import torch
from torch import Tensor

from tbt_compile.codegen.layouts import SCALE_BYTES, words_for
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack_bits, quantize, unpack_bits
from tbt_compile.ops.schema import Heads, Operand, Past, Scale, declare
from tbt_compile.quantizers.ops import QuantTensor

ROWS = "int64 [B, H, T, planes * words] | int8 [B, H, T, D + 4]"
"""Forms of packed keys, and of 8-bit values."""
TOKEN_WORDS = "int64 [B, H, words, planes, D]"
"""Form of packed values of learned encodings."""


@declare
def pack_keys(
    keys: Annotated[Tensor, Heads()],
    scale: Annotated[Tensor, Scale()],
    encoding: str,
    center: bool,
    heads_last: bool = False,
) -> Tensor:
    """Quantize keys and pack each row.

    Args:
        scale: learned; ignored where `encoding` finds a scale per token.
        center: whether the mean of each row is subtracted first.
        heads_last: whether keys come as `[B, T, H, D]`.

    Returns:
        Packed rows, int64 `[B, H, T, planes * words]` or int8 `[B, H, T, D + 4]`.
    """
    codes, scales = quantize(reorder_heads(keys, heads_last), scale, encoding, center)
    kind = Encoding(encoding)
    return _byte_rows(codes, scales, kind) if kind.dynamic else pack_bits(codes, kind).flatten(-2)


@pack_keys.fake
def _(call: SimpleNamespace) -> Tensor:
    keys, kind = reorder_heads(call.keys, call.heads_last), Encoding(call.encoding)
    if kind.dynamic:
        return _empty_byte_rows(keys)
    return keys.new_empty((*keys.shape[:-1], kind.planes * words_for(keys.shape[-1])), dtype=torch.int64)


@declare
def pack_values(
    values: Annotated[Tensor, Heads()],
    scale: Annotated[Tensor, Scale()],
    encoding: str,
    center: bool,
    heads_last: bool = False,
) -> Tensor:
    """Quantize values and pack them along the tokens, or by rows at 8 bits.

    Args:
        scale: learned; ignored where `encoding` finds a scale per token.
        center: whether the mean of each row is subtracted first.
        heads_last: whether values come as `[B, T, H, D]`.

    Returns:
        Packed values, int64 `[B, H, words, planes, D]` or int8 `[B, H, T, D + 4]`.
    """
    codes, scales = quantize(reorder_heads(values, heads_last), scale, encoding, center)
    kind = Encoding(encoding)
    return _byte_rows(codes, scales, kind) if kind.dynamic else _token_words(codes.transpose(-1, -2), kind)


@pack_values.fake
def _(call: SimpleNamespace) -> Tensor:
    values, kind = reorder_heads(call.values, call.heads_last), Encoding(call.encoding)
    if kind.dynamic:
        return _empty_byte_rows(values)
    batch, heads, tokens, width = values.shape
    return values.new_empty((batch, heads, words_for(tokens), kind.planes, width), dtype=torch.int64)


@declare
def append_keys(
    past: Annotated[Tensor, Past(ROWS)],
    keys: Annotated[Tensor, Heads()],
    scale: Annotated[Tensor, Scale()],
    encoding: str,
    center: bool,
    heads_last: bool = False,
) -> Tensor:
    """`past` followed by `keys`, packed as `pack_keys` does; also for 8-bit values.

    Args:
        past: what `pack_keys` or `append_keys` returned, of the same encoding.
        scale, center, heads_last: as for `pack_keys`.

    Returns:
        Packed rows of all tokens.
    """
    return torch.cat([past, pack_keys(keys, scale, encoding, center, heads_last)], dim=2)


@append_keys.fake
def _(call: SimpleNamespace) -> Tensor:
    batch, heads, tokens, length = call.past.shape
    tokens = tokens + reorder_heads(call.keys, call.heads_last).shape[2]
    return call.past.new_empty((batch, heads, tokens, length))


@declare
def append_values(
    past: Annotated[Tensor, Past(TOKEN_WORDS)],
    past_keys: Annotated[Tensor, Operand(ROWS)],
    values: Annotated[Tensor, Heads()],
    scale: Annotated[Tensor, Scale()],
    encoding: str,
    center: bool,
    heads_last: bool = False,
) -> Tensor:
    """`past` followed by `values`, packed along the tokens.

    Args:
        past: what `pack_values` or `append_values` returned, of the same encoding.
        past_keys: the packed keys of the same cache; only their number is read, which `past` does not tell.
        scale, center, heads_last: as for `pack_values`.

    Returns:
        Packed values of all tokens, int64 `[B, H, words, planes, D]`.
    """
    kind = Encoding(encoding)
    codes, _ = quantize(reorder_heads(values, heads_last), scale, encoding, center)
    old = unpack_bits(past.permute(0, 1, 4, 3, 2), kind, past_keys.shape[2])
    return _token_words(torch.cat([old, codes.transpose(-1, -2)], dim=-1), kind)


@append_values.fake
def _(call: SimpleNamespace) -> Tensor:
    batch, heads, _, planes, width = call.past.shape
    tokens = call.past_keys.shape[2] + reorder_heads(call.values, call.heads_last).shape[2]
    return call.past.new_empty((batch, heads, words_for(tokens), planes, width))


def reorder_heads(x: Tensor, heads_last: bool) -> Tensor:
    """`[B, T, H, D]` as `[B, H, T, D]` and the other way round, with `heads_last`; otherwise x itself."""
    return x.transpose(1, 2) if heads_last else x


def unpack_keys(packed: Tensor, scale: Tensor, encoding: Encoding, width: int) -> QuantTensor:
    """Codes `[B, H, T, D]` of packed keys, D = `width`, with the given scale or one per token."""
    if encoding.dynamic:
        return _unpack_byte_rows(packed, encoding)
    return QuantTensor(unpack_bits(packed.unflatten(-1, (encoding.planes, -1)), encoding, width), scale)


def unpack_values(packed: Tensor, scale: Tensor, encoding: Encoding, tokens: int) -> QuantTensor:
    """Codes `[B, H, T, D]` of packed values, T = `tokens`, with the given scale or one per token."""
    if encoding.dynamic:
        return _unpack_byte_rows(packed, encoding)
    return QuantTensor(unpack_bits(packed.permute(0, 1, 4, 3, 2), encoding, tokens).transpose(-1, -2), scale)


def packed_width(values: Tensor, encoding: Encoding) -> int:
    """Features of packed values."""
    return values.shape[-1] - (SCALE_BYTES if encoding.dynamic else 0)


def _token_words(codes: Tensor, encoding: Encoding) -> Tensor:
    """Codes `[B, H, D, T]` packed along the tokens, `[B, H, words, planes, D]`."""
    return pack_bits(codes, encoding).permute(0, 1, 4, 3, 2).contiguous()


def _byte_rows(codes: Tensor, scales: Tensor, encoding: Encoding) -> Tensor:
    stored = codes.to(torch.int8 if encoding.signed else torch.uint8).view(torch.int8)
    return torch.cat([stored, scales.contiguous().view(torch.int8)], dim=-1)


def _empty_byte_rows(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] + SCALE_BYTES), dtype=torch.int8)


def _unpack_byte_rows(rows: Tensor, encoding: Encoding) -> QuantTensor:
    width = rows.shape[-1] - SCALE_BYTES
    scales = rows[..., width:].contiguous().view(torch.float32)
    codes = rows[..., :width].contiguous().view(torch.int8 if encoding.signed else torch.uint8)
    return QuantTensor(codes.float(), scales)
