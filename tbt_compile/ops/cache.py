"""KV-cache operators: keys and values are quantized and packed once, when they enter the cache.

Keys are packed along the features, `[B, H, T, planes * words]`. Values of learned encodings are packed along
the tokens, the reduction axis of PV: `[B, H, ceil(T / 64), planes, D]`. With 8-bit encodings, rows of both
hold one byte per code followed by the float32 scale of the token, `[B, H, T, D + 4]`.
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
"""Forms of packed keys and of 8-bit values."""
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
        keys: in full precision.
        scale: learned; ignored by 8-bit encodings, which are scaled per token.
        encoding: an `Encoding` value.
        center: subtract the mean of each row before quantizing.
        heads_last: whether `keys` is `[B, T, H, D]`.

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
        values: in full precision.
        scale: learned; ignored by 8-bit encodings, which are scaled per token.
        encoding: an `Encoding` value.
        center: subtract the mean of each row before quantizing.
        heads_last: whether `values` is `[B, T, H, D]`.

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
    """Pack new keys, or 8-bit values, and append them to a cache.

    Args:
        past: from `pack_keys` or `append_keys` with the same encoding.
        keys: as for `pack_keys`.
        scale: as for `pack_keys`.
        encoding: as for `pack_keys`.
        center: as for `pack_keys`.
        heads_last: as for `pack_keys`.

    Returns:
        Packed rows of all tokens, in the form of `past`.
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
    """Pack new values along the tokens and append them to a cache.

    Args:
        past: from `pack_values` or `append_values` with the same encoding.
        past_keys: the packed keys of the same cache. Only their number of tokens is read: `past` holds 64
            tokens per word and does not tell how many bits of the last word are used.
        values: as for `pack_values`.
        scale: as for `pack_values`.
        encoding: as for `pack_values`.
        center: as for `pack_values`.
        heads_last: as for `pack_values`.

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
    """Swap tokens and heads, `[B, T, H, D]` <-> `[B, H, T, D]`, if `heads_last`; else return x."""
    return x.transpose(1, 2) if heads_last else x


def unpack_keys(packed: Tensor, scale: Tensor, encoding: Encoding, width: int) -> QuantTensor:
    """Unpack keys, or 8-bit values.

    Args:
        packed: int64 `[B, H, T, planes * words]`, or int8 `[B, H, T, D + 4]`.
        scale: float32 scalar; ignored at 8 bits, where every row holds a scale.
        encoding: of the codes.
        width: D; packed words are padded.

    Returns:
        float32 codes `[B, H, T, D]` with `scale`, or at 8 bits with scales `[B, H, T, 1]`.
    """
    if encoding.dynamic:
        return _unpack_byte_rows(packed, encoding)
    return QuantTensor(unpack_bits(packed.unflatten(-1, (encoding.planes, -1)), encoding, width), scale)


def unpack_values(packed: Tensor, scale: Tensor, encoding: Encoding, tokens: int) -> QuantTensor:
    """Unpack values.

    Args:
        packed: int64 `[B, H, words, planes, D]`, or int8 `[B, H, T, D + 4]`.
        scale: float32 scalar; ignored at 8 bits, where every row holds a scale.
        encoding: of the codes.
        tokens: T; packed words are padded.

    Returns:
        float32 codes `[B, H, T, D]` with `scale`, or at 8 bits with scales `[B, H, T, 1]`.
    """
    if encoding.dynamic:
        return _unpack_byte_rows(packed, encoding)
    return QuantTensor(unpack_bits(packed.permute(0, 1, 4, 3, 2), encoding, tokens).transpose(-1, -2), scale)


def packed_width(values: Tensor, encoding: Encoding) -> int:
    """Return D, the number of features of packed values."""
    return values.shape[-1] - (SCALE_BYTES if encoding.dynamic else 0)


def _token_words(codes: Tensor, encoding: Encoding) -> Tensor:
    """Pack codes `[B, H, D, T]` along the tokens into int64 `[B, H, words, planes, D]`."""
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
