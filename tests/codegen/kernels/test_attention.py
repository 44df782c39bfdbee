"""Attention kernels: packing, appending, scores and weighted sums against numpy."""

from __future__ import annotations

from dataclasses import replace

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
from tbt_compile.codegen.kernels.attention.attention import AttentionSpec, FusedSpec, attention, pv, qk
from tbt_compile.codegen.kernels.attention.pack_cache import (
    PackSpec,
    append_keys,
    append_values,
    pack_keys,
    pack_values,
)
from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax
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
    more = [x[:, :, past:], scalar(SCALE), past]
    grown = call(kernel(append_values, spec, HOST), more, planes.shape, np.uint64, old)
    np.testing.assert_array_equal(grown, planes)
    grown = call(kernel(append_keys, spec, HOST), more, keys.shape, np.uint64, keys[:, :, :past])
    np.testing.assert_array_equal(grown, keys)

    last, inputs[0], more[0] = replace(spec, heads_last=True), swapped(x), swapped(x[:, :, past:])
    for pack, packed in ((pack_keys, keys), (pack_values, planes)):
        found = call(kernel(pack, last, HOST), inputs, packed.shape, np.uint64)
        np.testing.assert_array_equal(found, packed)
    grown = call(kernel(append_values, last, HOST), more, planes.shape, np.uint64, old)
    np.testing.assert_array_equal(grown, planes)


def swapped(x: np.ndarray) -> np.ndarray:
    """Heads and tokens the other way round."""
    return np.ascontiguousarray(x.swapaxes(1, 2))


@pytest.mark.parametrize("encoding", DYNAMIC)
@pytest.mark.parametrize("d", DIMS)
def test_byte_rows_hold_codes_and_their_scale(encoding: Encoding, d: int) -> None:
    x = floats(1, 2, 3, 5, d)
    x[0, 0, 0] = 0
    x[0, 0, 1] = 1e-39  # its inverse scale would be infinite
    expected = byte_rows(*reference.quantize(x, encoding, SCALE))
    for pack in (pack_keys, pack_values):
        run = kernel(pack, PackSpec(d, encoding, True, isa_of(HOST)), HOST)
        np.testing.assert_array_equal(call(run, [x, scalar(SCALE)], expected.shape, np.int8), expected)
    append, past = kernel(append_keys, PackSpec(d, encoding, True, isa_of(HOST)), HOST), expected[:, :, :2]
    grown = call(append, [x[:, :, 2:], scalar(SCALE), 2], expected.shape, np.int8, past)
    np.testing.assert_array_equal(grown, expected)


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


PAIRS = (
    ((Encoding.BINARY, Encoding.BINARY), (Encoding.BINARY01, Encoding.BINARY)),
    ((Encoding.TERNARY, Encoding.TERNARY), (Encoding.TERNARY012, Encoding.TERNARY)),
    ((Encoding.INT8, Encoding.INT8), (Encoding.UINT8, Encoding.INT8)),
    ((Encoding.TERNARY, Encoding.BINARY), (Encoding.UINT8, Encoding.INT8)),
)


def packed_keys(
    seed: int, encoding: Encoding, shape: tuple[int, ...], cpu: str, *, infinite: bool = False
) -> np.ndarray:
    """Random keys [B, H, T, D] in packed form; one of the last of each head may be infinite."""
    width = shape[-1] + 4 if encoding.dynamic else encoding.planes * words_for(shape[-1])
    run = kernel(pack_keys, PackSpec(shape[-1], encoding, False, isa_of(cpu)), cpu)
    dtype = np.int8 if encoding.dynamic else np.uint64
    keys = floats(seed, *shape)
    if infinite:
        keys[:, :, -1, 0] = np.inf
    return call(run, [keys, scalar(SCALE)], (*shape[:-1], width), dtype)


def packed_values(
    seed: int, encoding: Encoding, shape: tuple[int, ...], cpu: str, *, infinite: bool = False
) -> np.ndarray:
    """Random values [B, H, T, D] in packed form; one of the last of each head may be infinite."""
    if encoding.dynamic:
        return packed_keys(seed, encoding, shape, cpu, infinite=infinite)
    batch, heads, tokens, d = shape
    run = kernel(pack_values, PackSpec(d, encoding, False, isa_of(cpu)), cpu)
    packed = (batch, heads, words_for(tokens), encoding.planes, d)
    return call(run, [floats(seed, *shape), scalar(SCALE)], packed, np.uint64)


# What hides a token from a query; what is merely low hides it too, but is added.
HIDDEN = (float(np.finfo(np.float32).min), -np.inf)


def mask_of(shape: str, hidden: float, seed: int, queries: int, tokens: int) -> np.ndarray:
    """A mask [2, 1, Q or 1, T]: of random tokens, of those after each query, or of those behind a length.

    Some rows see nothing.
    """
    rng = np.random.default_rng(seed)
    rows = 1 if shape == "padding" else queries
    if shape == "random":
        hides = rng.random((2, 1, rows, tokens)) < 0.3
    else:
        seen = rng.integers(0, tokens + 1, (2, 1, rows, 1))
        hides = np.arange(tokens) >= (seen if shape == "padding" else np.sort(seen, axis=2))
    return np.where(hides, np.float32(hidden), np.float32(0))


# A CPU, whether scores are masked, query heads for each head of keys, and whether heads come behind tokens.
FUSED = [(HOST, True, 1, False), (HOST, False, 2, True), *((cpu, True, 2, True) for cpu in OTHERS)]


@pytest.mark.parametrize(("cpu", "masked", "groups", "heads_last"), FUSED)
@pytest.mark.parametrize("pairs", PAIRS)
@settings(max_examples=8)
@given(
    seed=SEEDS,
    tokens=LENGTHS,
    queries=st.sampled_from((1, 3, 9, 20, 70)),
    hidden=st.sampled_from((*HIDDEN, -3e38)),
    shape=st.sampled_from(("random", "causal", "padding")),
    infinite=st.booleans(),
)
def test_one_kernel_gives_what_its_three_parts_give(
    cpu: str,
    masked: bool,
    groups: int,
    heads_last: bool,
    pairs: tuple[tuple[Encoding, Encoding], tuple[Encoding, Encoding]],
    seed: int,
    tokens: int,
    queries: int,
    hidden: float,
    shape: str,
    infinite: bool,
) -> None:
    """The same scores, probabilities and sums, bit for bit: no order of additions may differ."""
    (query_kind, key_kind), (weight_kind, value_kind) = pairs
    d, isa = 20, isa_of(cpu)
    first = AttentionSpec(d, query_kind, key_kind, True, isa, groups)
    second = AttentionSpec(d, weight_kind, value_kind, False, isa, groups)
    q = floats(seed, 2, 2 * groups, queries, d)
    k = packed_keys(seed + 1, key_kind, (2, 2, tokens, d), cpu, infinite=infinite and seed % 2 == 0)
    v = packed_values(seed + 2, value_kind, (2, 2, tokens, d), cpu, infinite=infinite)
    masks = [mask_of(shape, hidden, seed, queries, tokens)] if masked else []
    scale, weight_scale = scalar(SCALE), scalar(0.1)

    rows = (2, 2 * groups, queries, tokens)
    scores = call(kernel(qk, first, cpu), [q, scale, k, scale], rows, np.float32)
    weights = call(kernel(softmax, SoftmaxSpec(isa, 0.25, masked), cpu), [scores, *masks], rows, np.float32)
    expected = call(kernel(pv, second, cpu), [weights, weight_scale, v, scale], q.shape, np.float32)

    fused = kernel(attention, FusedSpec(first, second, 0.25, masked, heads_last), cpu)
    if heads_last:
        q, expected = swapped(q), swapped(expected)
    inputs = [q, scale, k, scale, *masks, weight_scale, v, scale]
    np.testing.assert_array_equal(call(fused, inputs, q.shape, np.float32), expected)
