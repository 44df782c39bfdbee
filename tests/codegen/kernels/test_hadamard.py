"""Rotations of rows, alone and before they are packed: the bits of sums and differences in a stated order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, call, codes, floats, isa_of, kernel, powers, runnable, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.dot.hadamard import HadamardSpec, hadamard
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.hadamard import block_size

CPUS = runnable("x86-64", "haswell", "skylake-avx512", "icelake-server")
# A block of every size; rows that are no multiple of 64, of a vector, or of a line; long ones.
LENGTHS = (2, 12, 24, 48, 96, 320, 384, 8640)
PAIRS = [
    (activation, weight)
    for activation in (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8)
    for weight in (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8)
    if weight is not Encoding.INT8 or activation is Encoding.INT8
]
SCALE = 0.5


def uneven(seed: int, *shape: int) -> np.ndarray:
    """Values whose sums are rounded."""
    return floats(seed, *shape) * np.float32(1.37) + np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("cpu", CPUS)
@settings(max_examples=25)
@given(seed=SEEDS, length=st.sampled_from(LENGTHS), rows=st.sampled_from((1, 2, 5)))
def test_rows_are_rotated_bit_for_bit(cpu: str, seed: int, length: int, rows: int) -> None:
    spec = HadamardSpec(length, block_size(length), isa_of(cpu))
    x = uneven(seed, rows, length)
    y = call(kernel(hadamard, spec, cpu), [x], x.shape, np.float32)
    assert np.array_equal(y, reference.hadamard(x, spec.block))


@pytest.mark.parametrize("cpu", CPUS)
def test_smaller_blocks_than_the_length_allows(cpu: str) -> None:
    x = uneven(1, 3, 256)
    for block in (2, 4, 8, 16, 32, 64, 128):
        y = call(kernel(hadamard, HadamardSpec(256, block, isa_of(cpu)), cpu), [x], x.shape, np.float32)
        assert np.array_equal(y, reference.hadamard(x, block)), block


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("activation", "weight"), PAIRS)
@settings(max_examples=8)
@given(seed=SEEDS, rows=st.sampled_from((1, 2, 3, 67, 130)), length=st.sampled_from((48, 200)))
def test_a_layer_rotates_as_it_packs(
    cpu: str, activation: Encoding, weight: Encoding, seed: int, rows: int, length: int
) -> None:
    """One row and many, with every kernel that multiplies them."""
    n, block = 50, block_size(length)
    spec = LinearSpec(n, length, activation, weight, True, False, isa_of(cpu), hadamard=block)
    x, stored, scale = uneven(seed, rows, length), codes(seed, weight, n, length), powers(seed, n)
    inputs = [x, scalar(SCALE), stored_weight(stored, spec), scale]
    y = call(kernel(linear, spec, cpu), inputs, (rows, n), np.float32)
    x_codes, x_scale = reference.quantize(reference.hadamard(x, block), activation, SCALE, True)
    assert np.array_equal(y, reference.linear(x_codes, x_scale, stored, scale))


def test_the_name_of_a_kernel_without_a_rotation_stays() -> None:
    from tbt_compile.codegen.importer.kernels import kernel_name

    isa = isa_of(CPUS[0])
    plain = LinearSpec(8, 64, Encoding.INT8, Encoding.TERNARY, False, False, isa)
    rotated = LinearSpec(8, 64, Encoding.INT8, Encoding.TERNARY, False, False, isa, hadamard=64)
    assert kernel_name("linear", plain) == "linear_8_64_int8_ternary_0_0"
    assert kernel_name("linear", rotated) == "linear_8_64_int8_ternary_0_0_64"
