"""Linear layers and embeddings on AArch64: exact integer sums for every encoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from arm.environment import Environment
from arm.kernels import B01, I8, T012, U8, B, Builder, Kernels, Pair, T, named
from arm.machine import Machine
from arm.machine_code import DOT_PRODUCTS, UNKNOWN, instructions
from kernel_tools import codes, floats, powers, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.dot.hadamard import HadamardSpec, hadamard
from tbt_compile.codegen.kernels.dot.stored_rows import StoredSpec
from tbt_compile.codegen.kernels.linear.embedding import embedding
from tbt_compile.codegen.kernels.linear.float32 import FloatLinearSpec, linear_float
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack, unpack
from tbt_compile.quantizers import QuantTensor
from tbt_compile.quantizers.hadamard import block_size

PAIRS = [*((left, weight) for weight in (B, T) for left in (B, T, B01, T012, I8, U8)), (I8, I8), (U8, I8)]
# N and K are no multiples of a word, a vector or a block. The long sums are as large as they get before a
# byte counter is emptied, and there are columns for several blocks at a time.
SMALL, LONG = (7, 63), (127, 33 * 64 + 53)
# Words in steps of four, in one run and in two.
STEPS = ((9, 4 * 64), (9, 48 * 64))
STEP_PAIRS = ((B, B), (T, T), (B01, T))
TABLE = (75, 100)
TABLES = [(B, Layout.PLANES), (T, Layout.PLANES), (T, Layout.PAIRS), (I8, Layout.PLANES)]
TABLES += [(B, Layout.QUARTERS), (T, Layout.QUARTERS)]
GROUPED = (39, 128)
HALVES = (Encoding.BFLOAT16, Encoding.FLOAT16)
STORED = [(B, 8), (T, 2), (T, 1), (I8, 4), *((half, 1) for half in HALVES)]
# Blocks of every size, and the inputs of rotated layers: blocks of 16, and words that are not full.
LENGTHS = (2, 12, 24, 48, 96, 320, 384)
ROTATED = (9, 48)
ROTATED_PAIRS = ((B, B), (T, T), (I8, B), (I8, T), (I8, I8))
ROWS = (1, 2, 3, 8, 67, 130)
SCALE = 0.5


def layer(pair: Pair, shape: tuple[int, int], isa: Isa) -> LinearSpec:
    """The small layers have a bias and centred activations."""
    return LinearSpec(*shape, *pair, center=shape == SMALL, has_bias=shape == SMALL, isa=isa)


def rotated_layer(pair: Pair, isa: Isa) -> LinearSpec:
    return LinearSpec(*ROTATED, *pair, center=True, has_bias=False, isa=isa, hadamard=block_size(ROTATED[1]))


def every_kernel(isa: Isa) -> Iterator[tuple[Builder, Any]]:
    for pair in PAIRS:
        for shape in (SMALL, LONG):
            yield linear, layer(pair, shape, isa)
    for pair in STEP_PAIRS:
        for shape in STEPS:
            yield linear, layer(pair, shape, isa)
    for weight, layout in TABLES:
        yield embedding, StoredSpec(*TABLE, weight, layout, isa)
    for weight, groups in STORED:
        yield embedding, StoredSpec(*GROUPED, weight, Layout.PLANES, isa, groups)
        yield linear_float, FloatLinearSpec(*GROUPED, False, isa, weight, groups)
    yield linear_float, FloatLinearSpec(*GROUPED, False, isa)
    for length in LENGTHS:
        yield hadamard, HadamardSpec(length, block_size(length), isa)
    for pair in ROTATED_PAIRS:
        yield linear, rotated_layer(pair, isa)


@pytest.fixture(scope="module")
def kernels(target: tuple[str, Machine]) -> Kernels:
    cpu, machine = target
    return Kernels(cpu, machine, every_kernel(parse_target(cpu).isa))


def check_linear(kernels: Kernels, spec: LinearSpec, x: np.ndarray, weight: np.ndarray, seed: int) -> None:
    """The exact sums; with a bias the last multiplication may be fused with the addition."""
    scale, bias = powers(seed, spec.n), floats(seed + 1, spec.n)
    inputs = [
        x,
        scalar(SCALE),
        stored_weight(weight, spec),
        scale,
        *([bias] if spec.has_bias else []),
    ]
    y = kernels.call(linear, spec, inputs, (len(x), spec.n), np.float32)
    x_codes, x_scale = reference.quantize(x, spec.activation, SCALE, spec.center)
    expected = reference.linear(x_codes, x_scale, weight, scale, bias if spec.has_bias else None)
    if spec.has_bias:
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("pair", PAIRS, ids=named)
@pytest.mark.parametrize("rows", ROWS)
def test_linear_sums_are_exact(kernels: Kernels, pair: Pair, rows: int) -> None:
    for seed, shape in enumerate((SMALL, SMALL, SMALL, LONG), start=10 * rows):
        n, k = shape
        spec = layer(pair, shape, kernels.isa)
        check_linear(kernels, spec, floats(seed, rows, k), codes(seed, pair[1], n, k), seed)


@pytest.mark.parametrize("pair", STEP_PAIRS, ids=named)
@pytest.mark.parametrize("shape", STEPS, ids=str)
def test_words_in_steps(kernels: Kernels, pair: Pair, shape: tuple[int, int]) -> None:
    n, k = shape
    spec = layer(pair, shape, kernels.isa)
    for rows in (1, 6):
        check_linear(kernels, spec, floats(rows, rows, k), codes(rows, pair[1], n, k), rows)
        check_linear(kernels, spec, np.ones((rows, k), np.float32), np.full((n, k), pair[1].minimum), rows)


@pytest.mark.parametrize("pair", PAIRS, ids=named)
@pytest.mark.parametrize("sign", (-1, 1))
def test_the_largest_sums_do_not_overflow(kernels: Kernels, pair: Pair, sign: int) -> None:
    """More than 33 words of K and extreme codes everywhere, in a few rows and in many."""
    n, k = LONG
    spec = layer(pair, LONG, kernels.isa)
    for rows, largest in ((5, pair[1].minimum), (5, pair[1].maximum), (9, pair[1].maximum)):
        x = np.full((rows, k), sign, np.float32)
        check_linear(kernels, spec, x, np.full((n, k), largest), seed=1)


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_no_rows_and_rows_of_zeros(kernels: Kernels, pair: Pair) -> None:
    n, k = SMALL
    spec = layer(pair, SMALL, kernels.isa)
    for rows in (0, 3):
        check_linear(kernels, spec, np.zeros((rows, k), np.float32), codes(1, pair[1], n, k), 1)


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_are_rotated_bit_for_bit(kernels: Kernels, length: int) -> None:
    spec = HadamardSpec(length, block_size(length), kernels.isa)
    for rows in (1, 5):
        x = floats(rows, rows, length) * np.float32(1.37)
        y = kernels.call(hadamard, spec, [x], x.shape, np.float32)
        np.testing.assert_array_equal(y, reference.hadamard(x, spec.block))


@pytest.mark.parametrize("pair", ROTATED_PAIRS, ids=named)
def test_a_layer_rotates_as_it_packs(kernels: Kernels, pair: Pair) -> None:
    spec = rotated_layer(pair, kernels.isa)
    weight, scale = codes(3, pair[1], spec.n, spec.k), powers(3, spec.n)
    for rows in (1, 2, 9, 67):
        x = floats(rows, rows, spec.k) * np.float32(1.37)
        inputs = [x, scalar(SCALE), stored_weight(weight, spec), scale]
        y = kernels.call(linear, spec, inputs, (rows, spec.n), np.float32)
        x_codes, x_scale = reference.quantize(reference.hadamard(x, 16), spec.activation, SCALE, True)
        np.testing.assert_array_equal(y, reference.linear(x_codes, x_scale, weight, scale))


@pytest.mark.parametrize(("weight", "layout"), TABLES, ids=str)
def test_embedding(kernels: Kernels, weight: Encoding, layout: Layout) -> None:
    n, k = TABLE
    table, scale = codes(1, weight, n, k), np.abs(floats(1, n))
    spec = StoredSpec(n, k, weight, layout, kernels.isa)
    stored = stored_weight(table, spec)
    for count in (1, 67):
        ids = np.random.default_rng(count).integers(0, n, count)
        y = kernels.call(embedding, spec, [ids, stored, scale], (count, k), np.float32)
        np.testing.assert_array_equal(y, table[ids].astype(np.float32) * scale[ids, None])


@pytest.mark.parametrize(("weight", "groups"), STORED, ids=str)
def test_weights_decoded_in_registers(kernels: Kernels, weight: Encoding, groups: int) -> None:
    n, k = GROUPED
    scale = np.abs(floats(1, n, groups))
    spec = StoredSpec(n, k, weight, Layout.PLANES, kernels.isa, groups)
    if weight.half:
        packed = pack(torch.from_numpy(floats(2, n, k)), weight)
        stored, values = packed.numpy(), unpack(packed, weight.value, k)
    else:
        drawn = codes(2, weight, n, k)
        stored, values = stored_weight(drawn, spec), torch.from_numpy(drawn.astype(np.float32))
    decoded = QuantTensor(values, torch.from_numpy(scale)).value.numpy()
    ids = np.random.default_rng(1).integers(0, n, 9)
    rows = kernels.call(embedding, spec, [ids, stored, scale.ravel()], (9, k), np.float32)
    np.testing.assert_array_equal(rows, decoded[ids])
    for count in (1, 5):
        x = floats(3, count, k)
        plain = FloatLinearSpec(n, k, False, kernels.isa)
        expected = kernels.call(linear_float, plain, [x, decoded], (count, n), np.float32)
        decoding = FloatLinearSpec(n, k, False, kernels.isa, weight, groups)
        found = kernels.call(linear_float, decoding, [x, stored, scale.ravel()], (count, n), np.float32)
        np.testing.assert_array_equal(found, expected)


def test_only_cpus_that_have_dot_products_get_them(kernels: Kernels, environment: Environment) -> None:
    counts = instructions(environment, kernels.library, kernels.isa.name)
    assert counts[UNKNOWN] == 0
    assert (sum(counts[name] for name in DOT_PRODUCTS) > 0) == (kernels.isa.dot == "dotprod")
