"""Attention kernels: packing, appending, scores and weighted sums against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import (
    SEEDS,
    byte_rows,
    call,
    codes,
    floats,
    isa_of,
    kernel,
    runnable,
    scalar,
    value_planes,
)

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.attention import AttentionSpec, pv, qk
from tbt_compile.codegen.kernels.attention_pack import PackSpec, append_values, pack_keys, pack_values
from tbt_compile.codegen.layouts import pack_planes, words_for
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

STATIC = (Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012)
DYNAMIC = (Encoding.INT8, Encoding.UINT8)
HOST, *OTHERS = runnable("x86-64", "haswell", "skylake-avx512")
SCALE = 0.5
DIMS = (64, 20, 100)
LENGTHS = st.sampled_from((1, 2, 31, 33, 64, 70, 130))


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("encoding", STATIC)
@settings(max_examples=15)
@given(seed=SEEDS, length=LENGTHS, past=st.integers(0, 130))
def test_packing_and_appending(encoding: Encoding, d: int, seed: int, length: int, past: int) -> None:
    spec = PackSpec(d, encoding, True, isa_of(HOST))
    x = floats(seed, 2, 3, length, d)
    expected, _ = reference.quantize(x, encoding, SCALE, True)
    inputs = [x, scalar(SCALE)]

    keys = call(
        kernel(pack_keys, spec, HOST), inputs, (2, 3, length, encoding.planes * words_for(d)), np.uint64
    )
    np.testing.assert_array_equal(keys, pack_planes(expected, encoding).reshape(keys.shape))

    planes = value_planes(expected, encoding)
    packed = call(kernel(pack_values, spec, HOST), inputs, planes.shape, np.uint64)
    np.testing.assert_array_equal(packed, planes)

    past = min(past, length)
    old = value_planes(expected[:, :, :past], encoding)
    append = kernel(append_values, spec, HOST)
    grown = call(append, [old, x[:, :, past:], scalar(SCALE), past], planes.shape, np.uint64)
    np.testing.assert_array_equal(grown, planes)


@pytest.mark.parametrize("encoding", DYNAMIC)
@pytest.mark.parametrize("d", DIMS)
def test_byte_rows_hold_codes_and_their_scale(encoding: Encoding, d: int) -> None:
    x = floats(1, 2, 3, 5, d)
    x[0, 0, 0] = 0
    expected = byte_rows(*reference.quantize(x, encoding, SCALE))
    for pack in (pack_keys, pack_values):
        run = kernel(pack, PackSpec(d, encoding, True, isa_of(HOST)), HOST)
        np.testing.assert_array_equal(call(run, [x, scalar(SCALE)], expected.shape, np.int8), expected)


@pytest.mark.parametrize("right", STATIC)
@pytest.mark.parametrize("left", STATIC)
@settings(max_examples=12)
@given(seed=SEEDS, queries=st.sampled_from((1, 3, 5, 20)), length=LENGTHS)
def test_static_products_are_exact(
    left: Encoding, right: Encoding, seed: int, queries: int, length: int
) -> None:
    d = DIMS[(len(left.name) + len(right.name)) % len(DIMS)]
    check_static(AttentionSpec(d, left, right, True, isa_of(HOST)), HOST, seed, queries, length)


@pytest.mark.parametrize("cpu", OTHERS)
@pytest.mark.parametrize("left", (Encoding.TERNARY, Encoding.BINARY01))
@settings(max_examples=10)
@given(seed=SEEDS, queries=st.sampled_from((1, 5)), length=st.sampled_from((1, 33, 70, 2100)))
def test_other_instruction_sets_agree(cpu: str, left: Encoding, seed: int, queries: int, length: int) -> None:
    check_static(AttentionSpec(20, left, Encoding.TERNARY, True, isa_of(cpu)), cpu, seed, queries, length)


def test_heads_wider_than_the_shuffles() -> None:
    check_static(AttentionSpec(300, Encoding.TERNARY, Encoding.TERNARY, True, isa_of(HOST)), HOST, 3, 5, 70)


def test_query_heads_can_share_keys_and_values() -> None:
    spec = AttentionSpec(64, Encoding.TERNARY, Encoding.BINARY, True, isa_of(HOST), groups=2)
    check_static(spec, HOST, 5, 3, 40)


def check_static(spec: AttentionSpec, cpu: str, seed: int, queries: int, length: int) -> None:
    right = codes(seed, spec.right, 2, 3, length, spec.d)
    repeated = np.repeat(right, spec.groups, 1)
    heads = 3 * spec.groups
    q = floats(seed + 1, 2, heads, queries, spec.d)
    keys = pack_planes(right, spec.right).reshape(2, 3, length, -1)
    inputs = [q, scalar(SCALE), keys, scalar(0.25)]
    scores = call(kernel(qk, spec, cpu), inputs, (2, heads, queries, length), np.float32)
    q_codes = reference.quantize(q, spec.left, SCALE, spec.center_left)
    np.testing.assert_array_equal(
        scores, reference.attention_scores(*q_codes, repeated, np.asarray(np.float32(0.25)))
    )

    p = floats(seed + 2, 2, heads, queries, length)
    inputs = [p, scalar(SCALE), value_planes(right, spec.right), scalar(0.25)]
    context = call(kernel(pv, spec, cpu), inputs, (2, heads, queries, spec.d), np.float32)
    p_codes = reference.quantize(p, spec.left, SCALE, spec.center_left)
    np.testing.assert_array_equal(
        context, reference.attention_context(*p_codes, repeated, np.asarray(np.float32(0.25)))
    )


@pytest.mark.parametrize("right", DYNAMIC)
@pytest.mark.parametrize("left", DYNAMIC)
@settings(max_examples=12)
@given(seed=SEEDS, queries=st.sampled_from((1, 3, 11)), length=LENGTHS)
def test_byte_products(left: Encoding, right: Encoding, seed: int, queries: int, length: int) -> None:
    d = 20 if left is right else 64
    spec = AttentionSpec(d, left, right, True, isa_of(HOST), groups=2)
    right_codes, right_scale = reference.quantize(floats(seed, 1, 2, length, d), right, SCALE)
    rows = byte_rows(right_codes, right_scale)
    right_codes, right_scale = np.repeat(right_codes, 2, 1), np.repeat(right_scale, 2, 1)

    q = floats(seed + 1, 1, 4, queries, d)
    scores = call(
        kernel(qk, spec, HOST), [q, scalar(9), rows, scalar(9)], (1, 4, queries, length), np.float32
    )
    left_codes = reference.quantize(q, left, SCALE)
    expected = reference.attention_scores(*left_codes, right_codes, right_scale)
    np.testing.assert_array_equal(scores, expected)

    p = floats(seed + 2, 1, 4, queries, length)
    context = call(kernel(pv, spec, HOST), [p, scalar(9), rows, scalar(9)], (1, 4, queries, d), np.float32)
    expected = reference.attention_context(*reference.quantize(p, left, SCALE), right_codes, right_scale)
    np.testing.assert_allclose(context, expected, rtol=1e-5, atol=1e-5)


def test_mixed_operands_are_refused() -> None:
    with pytest.raises(LoweringError, match="both operands at 8 bits, or neither"):
        qk(AttentionSpec(64, Encoding.INT8, Encoding.TERNARY, True, isa_of(HOST)))
    with pytest.raises(LoweringError, match="both operands at 8 bits, or neither"):
        pv(AttentionSpec(64, Encoding.BINARY01, Encoding.INT8, True, isa_of(HOST)))
