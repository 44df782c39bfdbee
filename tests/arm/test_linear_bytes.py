"""8-bit activations times 1 and 2 bit weights on AArch64: exact for every shape and size of activations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from arm.environment import Environment
from arm.kernels import I8, U8, B, Kernels, Pair, T, named
from arm.machine import Machine
from arm.machine_code import instructions
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, codes, powers, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tools.standalone import stored_weight

PAIRS = tuple(product((I8, U8), (B, T)))
# Blocks of 8 columns and of 64, words of 64 elements, and runs of some 1,000 are begun and not filled.
SHAPES = ((1, 1), (75, 130), (17, 1105))
ROWS = st.sampled_from((1, 2, 7, 9))


def specs(cpu: str) -> list[LinearSpec]:
    isa = parse_target(cpu).isa
    return [LinearSpec(*shape, *pair, False, False, isa) for pair in PAIRS for shape in SHAPES]


@pytest.fixture(scope="module")
def kernels(target: tuple[str, Machine]) -> Kernels:
    cpu, machine = target
    return Kernels(cpu, machine, [(linear, spec) for spec in specs(cpu)])


def activations(seed: int, rows: int, k: int, largest: float) -> np.ndarray:
    """Many large codes next to each other, or nothing but small ones beside a large one."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-largest, largest, (rows, k)).astype(np.float32)
    x[:, rng.integers(0, k)] = 1
    return x


@pytest.mark.parametrize("pair", PAIRS, ids=named)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=5)
@given(seed=SEEDS, rows=ROWS, largest=st.sampled_from((0.1, 0.5, 0.8, 1.0)))
def test_sums_are_exact(
    kernels: Kernels, pair: Pair, shape: tuple[int, int], seed: int, rows: int, largest: float
) -> None:
    n, k = shape
    spec = LinearSpec(n, k, *pair, False, False, kernels.isa)
    x, weight, scale = activations(seed, rows, k, largest), codes(seed, pair[1], n, k), powers(seed, n)
    y = kernels.call(
        linear, spec, [x, scalar(1.0), stored_weight(weight, spec), scale], (rows, n), np.float32
    )
    expected = reference.linear(*reference.quantize(x, pair[0], 1.0, False), weight, scale, None)
    np.testing.assert_array_equal(y, expected)


def test_sums_are_looked_up_without_byte_products(kernels: Kernels, environment: Environment) -> None:
    """SRI is in no other kernel, with 8 in the inner loop for whole groups of blocks."""
    counts = instructions(environment, kernels.library, kernels.isa.name)
    assert (counts["sri"] >= 8 * len(PAIRS)) == (kernels.isa.dot == "none")
    assert (counts["sri"] == 0) == (kernels.isa.dot != "none")
