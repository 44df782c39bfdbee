"""Convert the operators that quantize and pack keys and values, and append them to a cache.

A cache is `[B, H, T, ...]`. New tokens come heads first, `[B, H, T, D]`, or heads last, `[B, T, H, D]`. An
append kernel works in place and takes no past: its output aliases the past, which has room for more tokens,
and the kernel writes the new tokens only.
"""

from __future__ import annotations

from typing import Any

from tbt_compile.codegen.importer.registry import TBT, Call, converter
from tbt_compile.codegen.kernels.attention import pack_cache
from tbt_compile.codegen.kernels.attention.pack_cache import PackSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.tvm_api import Expr, relax
from tbt_compile.encoding import Encoding


@converter(TBT.pack_keys.default)
def convert_pack_keys(call: Call) -> Expr:
    """`tbt::pack_keys(keys, scale, ...)`: each key becomes a row of packed words, or of bytes and a scale."""
    return _pack_rows(call, call.operands.keys)


@converter(TBT.pack_values.default)
def convert_pack_values(call: Call) -> Expr:
    """`tbt::pack_values(values, scale, ...)` -> words along T, `[B, H, W, P, D]`; 8-bit values as keys."""
    values, spec = call.operands.values, _pack_spec(call, call.operands.values)
    if spec.encoding.dynamic:
        return _pack_rows(call, values)
    batch, heads, length, width = _heads_first(values, spec)
    shape = [batch, heads, words_for(length), spec.encoding.planes, width]
    return call.kernel(spec, pack_cache.pack_values, [values, call.operands.scale], shape, "uint64")


@converter(TBT.append_keys.default)
def convert_append_keys(call: Call) -> Expr:
    """`tbt::append_keys(past, keys, scale, ...)`: appends keys, or 8-bit values, in place."""
    keys, spec = call.operands.keys, _pack_spec(call, call.operands.keys)
    batch, heads, length, _ = _heads_first(keys, spec)
    past = call.operands.past.ty.shape[2]
    args = [keys, call.operands.scale, relax.prim_value(past)]
    shape = [batch, heads, past + length, spec.row_length]
    return call.kernel(spec, pack_cache.append_keys, args, shape, spec.row_type)


@converter(TBT.append_values.default)
def convert_append_values(call: Call) -> Expr:
    """`tbt::append_values(past, past_keys, values, scale, ...)`; the keys give the length of the past.

    Values are padded to whole words.
    """
    values, spec = call.operands.values, _pack_spec(call, call.operands.values)
    batch, heads, length, width = _heads_first(values, spec)
    past = call.operands.past_keys.ty.shape[2]
    args = [values, call.operands.scale, relax.prim_value(past)]
    shape = [batch, heads, words_for(past + length), spec.encoding.planes, width]
    return call.kernel(spec, pack_cache.append_values, args, shape, "uint64")


def _pack_rows(call: Call, x: Expr) -> Expr:
    spec = _pack_spec(call, x)
    batch, heads, length, _ = _heads_first(x, spec)
    shape = [batch, heads, length, spec.row_length]
    return call.kernel(spec, pack_cache.pack_keys, [x, call.operands.scale], shape, spec.row_type)


def _pack_spec(call: Call, x: Expr) -> PackSpec:
    op = call.operands
    return PackSpec(int(x.ty.shape[-1]), Encoding(op.encoding), op.center, call.isa, op.heads_last)


def _heads_first(x: Expr, spec: PackSpec) -> list[Any]:
    """The dimensions of `x` in the order [B, H, T, D]."""
    batch, *middle, width = x.ty.shape
    return [batch, *(reversed(middle) if spec.heads_last else middle), width]
