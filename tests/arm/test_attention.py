"""Attention kernels on AArch64: packing, appending, scores and weighted sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from arm.kernels import B01, I8, T012, U8, B, Builder, Kernels, Pair, T, named
from arm.machine import Machine
from kernel_tools import byte_rows, codes, floats, scalar, value_planes

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.attention.attention import AttentionSpec, pv, qk
from tbt_compile.codegen.kernels.attention.pack_cache import (
    PackSpec,
    append_keys,
    append_values,
    pack_keys,
    pack_values,
)
from tbt_compile.codegen.layouts import pack_planes, words_for
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.encoding import Encoding

# Encodings of both operands: those that recipes give, and every other one once. All pairs would take minutes.
SCORES = [(T, T), (B, B), (T012, B01), (I8, I8), (U8, I8)]
CONTEXTS = [(T012, T), (B01, B), (T, T012), (B, B01), (I8, I8), (U8, I8)]
PACKED = (B, T, B01, T012)
LENGTHS = ((1, 1), (1, 33), (5, 64), (20, 130))  # of queries, and of keys or values
MANY = (2, 2100)  # as large as exact sums get before a byte counter is emptied
WIDTH, BYTE_WIDTH = 20, 100
SCALE, OTHER_SCALE = 0.5, 0.25


def product(pair: Pair, isa: Isa) -> AttentionSpec:
    """At 8 bits, two query heads share their keys."""
    dynamic = pair[0].dynamic
    return AttentionSpec(BYTE_WIDTH if dynamic else WIDTH, *pair, True, isa, groups=2 if dynamic else 1)


def every_kernel(isa: Isa) -> Iterator[tuple[Builder, Any]]:
    for builder, pairs in ((qk, SCORES), (pv, CONTEXTS)):
        for pair in pairs:
            yield builder, product(pair, isa)
    for encoding in PACKED:
        for pack in (pack_keys, pack_values, append_keys, append_values):
            yield pack, PackSpec(WIDTH, encoding, True, isa)
    for encoding in (I8, U8):
        yield pack_keys, PackSpec(BYTE_WIDTH, encoding, True, isa)


@pytest.fixture(scope="module")
def kernels(target: tuple[str, Machine]) -> Kernels:
    cpu, machine = target
    return Kernels(cpu, machine, every_kernel(parse_target(cpu).isa))


def lengths(spec: AttentionSpec) -> tuple[tuple[int, int], ...]:
    """So many values of 8 bits are left out: the order of a sum of floats then shows in its result."""
    return LENGTHS if spec.right.dynamic else (*LENGTHS, MANY)


@dataclass(frozen=True)
class Operand:
    """Keys or values: their codes and scale, one per query head, and what a kernel is given."""

    codes: np.ndarray
    scale: np.ndarray
    stored: np.ndarray


def operand(spec: AttentionSpec, length: int, pack: Callable[[np.ndarray], np.ndarray]) -> Operand:
    """Random codes [2, 3, T, D]; `pack` makes words of them, unless they are bytes."""
    if spec.right.dynamic:
        right, scale = reference.quantize(floats(length, 2, 3, length, spec.d), spec.right, SCALE)
        stored = byte_rows(right, scale)
        return Operand(np.repeat(right, spec.groups, 1), np.repeat(scale, spec.groups, 1), stored)
    right = codes(length, spec.right, 2, 3, length, spec.d)
    return Operand(np.repeat(right, spec.groups, 1), np.asarray(np.float32(OTHER_SCALE)), pack(right))


@pytest.mark.parametrize("pair", SCORES, ids=named)
def test_scores_are_exact(kernels: Kernels, pair: Pair) -> None:
    spec = product(pair, kernels.isa)
    for queries, length in lengths(spec):
        keys = operand(
            spec, length, lambda right: pack_planes(right, spec.right).reshape(*right.shape[:3], -1)
        )
        q = floats(queries, 2, 3 * spec.groups, queries, spec.d)
        inputs = [q, scalar(SCALE), keys.stored, scalar(OTHER_SCALE)]
        scores = kernels.call(qk, spec, inputs, (*q.shape[:3], length), np.float32)
        q_codes, q_scale = reference.quantize(q, spec.left, SCALE, spec.center_left)
        expected = reference.attention_scores(q_codes, q_scale, keys.codes, keys.scale)
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("pair", CONTEXTS, ids=named)
def test_contexts_are_exact(kernels: Kernels, pair: Pair) -> None:
    """But for 8-bit values: their scales are inside the sum, which is then one of floats."""
    spec = product(pair, kernels.isa)
    for queries, length in lengths(spec):
        values = operand(spec, length, lambda right: value_planes(right, spec.right))
        p = floats(queries, 2, 3 * spec.groups, queries, length)
        inputs = [p, scalar(SCALE), values.stored, scalar(OTHER_SCALE)]
        context = kernels.call(pv, spec, inputs, (*p.shape[:3], spec.d), np.float32)
        p_codes, p_scale = reference.quantize(p, spec.left, SCALE, spec.center_left)
        expected = reference.attention_context(p_codes, p_scale, values.codes, values.scale)
        if spec.right.dynamic:
            np.testing.assert_allclose(context, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(context, expected)


@pytest.mark.parametrize("encoding", PACKED, ids=named)
def test_packing_and_appending(kernels: Kernels, encoding: Encoding) -> None:
    spec = PackSpec(WIDTH, encoding, True, kernels.isa)
    for past, length in ((0, 1), (32, 33), (64, 70), (5, 130)):
        x = floats(length, 2, 3, length, spec.d)
        expected, _ = reference.quantize(x, encoding, SCALE, True)

        shape = (2, 3, length, encoding.planes * words_for(spec.d))
        keys = kernels.call(pack_keys, spec, [x, scalar(SCALE)], shape, np.uint64)
        np.testing.assert_array_equal(keys, pack_planes(expected, encoding).reshape(shape))

        planes = value_planes(expected, encoding)
        packed = kernels.call(pack_values, spec, [x, scalar(SCALE)], planes.shape, np.uint64)
        np.testing.assert_array_equal(packed, planes)

        old = value_planes(expected[:, :, :past], encoding)
        more = [x[:, :, past:], scalar(SCALE), past]
        grown = kernels.call(append_values, spec, more, planes.shape, np.uint64, old)
        np.testing.assert_array_equal(grown, planes)
        grown = kernels.call(append_keys, spec, more, shape, np.uint64, keys[:, :, :past])
        np.testing.assert_array_equal(grown, keys)


@pytest.mark.parametrize("encoding", (I8, U8), ids=named)
def test_byte_rows_hold_codes_and_their_scale(kernels: Kernels, encoding: Encoding) -> None:
    spec = PackSpec(BYTE_WIDTH, encoding, True, kernels.isa)
    x = floats(1, 2, 3, 5, spec.d)
    x[0, 0, 0] = 0
    expected = byte_rows(*reference.quantize(x, encoding, SCALE))
    packed = kernels.call(pack_keys, spec, [x, scalar(SCALE)], expected.shape, np.int8)
    np.testing.assert_array_equal(packed, expected)
