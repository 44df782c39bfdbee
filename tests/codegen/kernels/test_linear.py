"""Linear layers and embeddings: exact integer sums for every encoding, shape and instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, call, codes, floats, isa_of, kernel, powers, runnable, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.dot.stored_rows import StoredSpec
from tbt_compile.codegen.kernels.linear.embedding import embedding
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

ACTIVATIONS = [encoding for encoding in Encoding if encoding.quantized]
HOST, *OTHERS = runnable("x86-64", "haswell", "skylake-avx512", "icelake-server")
PAIRS = [(activation, weight) for activation in ACTIVATIONS for weight in (Encoding.BINARY, Encoding.TERNARY)]
# Those that only a recipe with different bits for weights and activations has.
MIXED = [pair for pair in PAIRS if not pair[0].dynamic and pair[0].planes != pair[1].planes]
BYTES = [(activation, Encoding.INT8) for activation in (Encoding.INT8, Encoding.UINT8)]
# Each pair of encodings takes two of these; every shape is taken by several pairs.
SHAPES = ((1, 1), (7, 63), (50, 65), (64, 100))
ROWS = st.sampled_from((1, 2, 3, 4, 5, 67, 130))
SCALE = 0.5


def check(spec: LinearSpec, cpu: str, x: np.ndarray, weight: np.ndarray, seed: int) -> None:
    weight_scale, bias = powers(seed, spec.n), floats(seed + 1, spec.n)
    inputs = [x, scalar(SCALE), stored_weight(weight, spec), weight_scale]
    y = call(kernel(linear, spec, cpu), inputs + [bias] * spec.has_bias, (len(x), spec.n), np.float32)
    x_codes, x_scale = reference.quantize(x, spec.activation, SCALE, spec.center)
    expected = reference.linear(x_codes, x_scale, weight, weight_scale, bias if spec.has_bias else None)
    if spec.has_bias:  # LLVM may fuse the last multiplication with the addition
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("weight", (Encoding.BINARY, Encoding.TERNARY))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=30)
@given(seed=SEEDS, rows=ROWS, small=st.booleans())
def test_sums_are_exact(activation: Encoding, weight: Encoding, seed: int, rows: int, small: bool) -> None:
    pair = ACTIVATIONS.index(activation) + (weight is Encoding.TERNARY)
    n, k = SHAPES[pair % 2 + (0 if small else 2)]
    spec = LinearSpec(n, k, activation, weight, bool(k % 2), n == 50, isa_of(HOST))
    check(spec, HOST, floats(seed, rows, k), codes(seed, weight, n, k), seed)


def elsewhere() -> Iterator[tuple[str, Encoding, Encoding]]:
    """Every CPU with every pair of encodings, but the mixed ones with one CPU each, in turn."""
    for index, cpu in enumerate(OTHERS):
        for pair in [*(pair for pair in PAIRS if pair not in MIXED), *BYTES, *MIXED[index :: len(OTHERS)]]:
            yield cpu, *pair


@pytest.mark.parametrize(("cpu", "activation", "weight"), list(elsewhere()))
@settings(max_examples=10)
@given(seed=SEEDS, rows=ROWS)
def test_other_instruction_sets_agree(
    cpu: str, activation: Encoding, weight: Encoding, seed: int, rows: int
) -> None:
    spec = LinearSpec(50, 165, activation, weight, True, False, isa_of(cpu))
    check(spec, cpu, floats(seed, rows, 165), codes(seed, weight, 50, 165), seed)


@pytest.mark.parametrize("cpu", [HOST, *OTHERS])
@pytest.mark.parametrize("activation", (Encoding.BINARY, Encoding.TERNARY012, Encoding.INT8, Encoding.UINT8))
@pytest.mark.parametrize("sign", (-1, 1))
def test_the_largest_sums_do_not_overflow(cpu: str, activation: Encoding, sign: int) -> None:
    """33 words of K and extreme codes everywhere: the most that a byte counter has to hold."""
    n, k, rows = 3, 33 * 64, 5
    x = np.full((rows, k), sign, np.float32)
    spec = LinearSpec(n, k, activation, Encoding.TERNARY, False, False, isa_of(cpu))
    for value in (-1, 1):
        check(spec, cpu, x, np.full((n, k), value), seed=1)


@pytest.mark.parametrize("cpu", [HOST, *OTHERS])
@pytest.mark.parametrize("activation", [encoding for encoding in ACTIVATIONS if encoding.signed])
@pytest.mark.parametrize("weight", (Encoding.BINARY, Encoding.TERNARY))
def test_sums_over_65536_elements_of_the_same_sign(cpu: str, activation: Encoding, weight: Encoding) -> None:
    """The longest rows: 65,536 times the largest product, alone and among many rows."""
    n, k = 3, 65536
    spec = LinearSpec(n, k, activation, weight, False, False, isa_of(cpu))
    for value in (-1, 1):
        for rows in (1, 8, 32):
            check(spec, cpu, np.full((rows, k), -1, np.float32), np.full((n, k), value), seed=1)


@pytest.mark.parametrize("activation", (Encoding.INT8, Encoding.UINT8))
@settings(max_examples=15)
@given(
    seed=SEEDS,
    rows=st.sampled_from((1, 2, 7, 8, 31, 32, 67)),
    shape=st.sampled_from(((1, 1), (7, 63), (50, 100))),
)
def test_bytes_times_bytes(activation: Encoding, seed: int, rows: int, shape: tuple[int, int]) -> None:
    n, k = shape
    spec = LinearSpec(n, k, activation, Encoding.INT8, True, n == 7, isa_of(HOST))
    check(spec, HOST, floats(seed, rows, k), codes(seed, Encoding.INT8, n, k), seed)


@pytest.mark.parametrize("cpu", [HOST, *OTHERS])
@pytest.mark.parametrize("activation", (Encoding.INT8, Encoding.UINT8))
@pytest.mark.parametrize("weight", (Encoding.BINARY, Encoding.TERNARY))
@settings(max_examples=8)
@given(seed=SEEDS, rows=st.sampled_from((1, 2, 3, 9)))
def test_sums_of_small_and_large_codes(
    cpu: str, activation: Encoding, weight: Encoding, seed: int, rows: int
) -> None:
    """Some rows have large codes throughout, others a few: all numbers of lookups that fit a byte."""
    n, k = 40, 1100
    spec = LinearSpec(n, k, activation, weight, False, False, isa_of(cpu))
    rng = np.random.default_rng(seed)
    x = floats(seed, rows, k) * rng.choice(np.float32([0.05, 0.5, 1.0, 20.0]), (rows, k))
    x[:, rng.integers(0, k, 3)] = 40.0
    x[0] = np.sign(x[0]) * 3
    check(spec, cpu, x, codes(seed, weight, n, k), seed)


@pytest.mark.parametrize("cpu", [HOST, *OTHERS])
@pytest.mark.parametrize("activation", (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8, Encoding.UINT8))
def test_rows_that_are_not_finite(cpu: str, activation: Encoding) -> None:
    """NaN reaches every output of an 8-bit row; 1 and 2 bits map it as the quantizers do, centred or not."""
    n, k = 40, 165
    x = np.abs(floats(1, 9, k)) if activation is Encoding.UINT8 else floats(1, 9, k)
    for row, value in enumerate((np.nan, -np.nan, np.inf, -np.inf)):
        x[row, 3 * row], x[4 + row, 164] = value, value
    for center in (True, False):
        spec = LinearSpec(n, k, activation, Encoding.TERNARY, center, False, isa_of(cpu))
        with np.errstate(invalid="ignore"):
            check(spec, cpu, x, codes(2, Encoding.TERNARY, n, k), 3)


def test_sums_that_32_bits_cannot_hold_are_refused() -> None:
    with pytest.raises(LoweringError, match="a sum of so many products does not fit 32 bits"):
        linear(LinearSpec(3, 66_313, Encoding.UINT8, Encoding.INT8, False, False, isa_of(HOST)))


def test_a_row_does_not_depend_on_the_rows_around_it() -> None:
    spec = LinearSpec(50, 100, Encoding.INT8, Encoding.TERNARY, True, True, isa_of(HOST))
    run = kernel(linear, spec, HOST)
    weight = stored_weight(codes(1, Encoding.TERNARY, 50, 100), spec)
    x, scale, bias = floats(2, 9, 100), powers(3, 50), floats(4, 50)
    together = call(run, [x, scalar(SCALE), weight, scale, bias], (9, 50), np.float32)
    for row in range(9):
        alone = call(run, [x[row : row + 1], scalar(SCALE), weight, scale, bias], (1, 50), np.float32)
        np.testing.assert_array_equal(alone[0], together[row])


def test_no_rows_and_rows_of_zeros() -> None:
    spec = LinearSpec(7, 63, Encoding.INT8, Encoding.TERNARY, True, False, isa_of(HOST))
    check(spec, HOST, np.zeros((0, 63), np.float32), codes(1, Encoding.TERNARY, 7, 63), 1)
    check(spec, HOST, np.zeros((3, 63), np.float32), codes(1, Encoding.TERNARY, 7, 63), 1)


def test_byte_weights_need_byte_activations() -> None:
    with pytest.raises(LoweringError, match="expected 8-bit activations"):
        linear(LinearSpec(4, 4, Encoding.TERNARY, Encoding.INT8, True, False, isa_of(HOST)))


@pytest.mark.parametrize("cpu", [HOST, *OTHERS])
@pytest.mark.parametrize("weight", (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8))
@settings(max_examples=15)
@given(
    seed=SEEDS,
    count=ROWS,
    shape=st.sampled_from(((1, 1), (50, 65), (33, 100))),
    other=st.sampled_from((Layout.PLANES, Layout.PAIRS, Layout.OCTETS)),
)
def test_embedding_reads_the_layouts_of_linear(
    cpu: str, weight: Encoding, seed: int, count: int, shape: tuple[int, int], other: Layout
) -> None:
    n, k = shape
    table, scale = codes(seed, weight, n, k), np.abs(floats(seed, n))
    ids = np.random.default_rng(seed).integers(0, n, count)
    layouts = [Layout.PLANES, Layout.OCTETS, Layout.PAIRS][: 1 + weight.planes]
    layout = other if other in layouts else Layout.PLANES
    spec = StoredSpec(n, k, weight, layout, isa_of(cpu))
    run = kernel(embedding, spec, cpu)
    y = call(run, [ids, stored_weight(table, spec), scale], (count, k), np.float32)
    np.testing.assert_array_equal(y, table[ids].astype(np.float32) * scale[ids, None])
