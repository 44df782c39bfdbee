"""Weights that are decoded in registers have the bits of a float32 layer with the decoded weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, call, codes, floats, isa_of, kernel, runnable, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.dot.stored_rows import StoredSpec
from tbt_compile.codegen.kernels.linear.embedding import embedding
from tbt_compile.codegen.kernels.linear.float32 import FloatLinearSpec, linear_float
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack, quantize, unpack
from tbt_compile.quantizers import QuantTensor

CPUS = HOST, *_ = runnable("x86-64", "haswell", "skylake-avx512", "icelake-server")
WEIGHTS = (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8, Encoding.BFLOAT16, Encoding.FLOAT16)
# Rows, columns and groups: tails of words, of vectors and of blocks of columns.
SHAPES = ((1, 1, 1), (9, 16, 1), (7, 63, 1), (33, 96, 6), (50, 200, 1), (17, 256, 2), (5, 128, 8))


def _weight(encoding: Encoding, seed: int, spec: StoredSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A stored weight as the kernel takes it, its scales [N, G], and what it stands for, float32 [N, K]."""
    scale = np.abs(floats(seed, spec.n, spec.groups))
    if encoding.half:
        packed = pack(torch.from_numpy(floats(seed + 1, spec.n, spec.k)), encoding)
        stored, values = packed.numpy(), unpack(packed, encoding.value, spec.k)
    else:
        drawn = codes(seed + 1, encoding, spec.n, spec.k)
        stored, values = stored_weight(drawn, spec), torch.from_numpy(drawn.astype(np.float32))
    return stored, scale, QuantTensor(values, torch.from_numpy(scale)).value.numpy()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("encoding", WEIGHTS)
@settings(max_examples=12)
@given(seed=SEEDS, count=st.sampled_from((0, 1, 2, 5)), shape=st.sampled_from(SHAPES), biased=st.booleans())
def test_products_are_those_of_the_decoded_weight(
    cpu: str, encoding: Encoding, seed: int, count: int, shape: tuple[int, int, int], biased: bool
) -> None:
    n, k, groups = shape
    isa = isa_of(cpu)
    stored, scale, values = _weight(encoding, seed, StoredSpec(n, k, encoding, Layout.PLANES, isa, groups))
    x, bias = floats(seed + 2, count, k), [floats(seed + 3, n)] if biased else []
    plain = kernel(linear_float, FloatLinearSpec(n, k, biased, isa), cpu)
    expected = call(plain, [x, values, *bias], (count, n), np.float32)
    decoding = kernel(linear_float, FloatLinearSpec(n, k, biased, isa, encoding, groups), cpu)
    found = call(decoding, [x, stored, scale.ravel(), *bias], (count, n), np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("encoding", WEIGHTS)
@settings(max_examples=8)
@given(seed=SEEDS, count=st.sampled_from((0, 1, 5)), shape=st.sampled_from(SHAPES))
def test_rows_are_those_of_the_decoded_table(
    cpu: str, encoding: Encoding, seed: int, count: int, shape: tuple[int, int, int]
) -> None:
    n, k, groups = shape
    spec = StoredSpec(n, k, encoding, Layout.PLANES, isa_of(cpu), groups)
    stored, scale, values = _weight(encoding, seed, spec)
    ids = np.random.default_rng(seed).integers(0, n, count)
    y = call(kernel(embedding, spec, cpu), [ids, stored, scale.ravel()], (count, k), np.float32)
    np.testing.assert_array_equal(y, values[ids])


def test_a_function_in_the_epilogue() -> None:
    isa = isa_of(HOST)
    spec = StoredSpec(20, 48, Encoding.TERNARY, Layout.PLANES, isa)
    stored, scale, _ = _weight(Encoding.TERNARY, 1, spec)
    x = floats(2, 3, 48)
    plain, fused = (
        kernel(linear_float, FloatLinearSpec(20, 48, False, isa, Encoding.TERNARY, 1, function), HOST)
        for function in ("", "relu")
    )
    y = call(plain, [x, stored, scale.ravel()], (3, 20), np.float32)
    found = call(fused, [x, stored, scale.ravel()], (3, 20), np.float32)
    np.testing.assert_array_equal(found, np.maximum(y, 0))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("encoding", (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8))
def test_the_floor_of_eight_bit_scales(cpu: str, encoding: Encoding) -> None:
    """Rows whose largest magnitude is below the floor have the scale of the floor, in every kernel."""
    n, k, floor = 40, 100, 1e-2
    spec = LinearSpec(n, k, Encoding.INT8, encoding, False, False, isa_of(cpu), "", floor)
    drawn, scale = codes(1, encoding, n, k), np.abs(floats(2, n))
    run = kernel(linear, spec, cpu)
    for rows in (1, 2, 40):
        x = floats(3, rows, k) * np.float32(10.0) ** -np.arange(rows, dtype=np.float32)[:, None]
        x_codes, x_scale = quantize(torch.from_numpy(x), torch.ones(()), "int8", False, floor)
        arguments = [x, scalar(1.0), stored_weight(drawn, spec), scale]
        y = call(run, arguments, (rows, n), np.float32)
        whole = x_codes.numpy().astype(np.int64)
        np.testing.assert_array_equal(y, reference.linear(whole, x_scale.numpy(), drawn, scale))
