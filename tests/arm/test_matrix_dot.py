"""8-bit activations by SMMLA and USMMLA: exact for every number of rows, every tile and every encoding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from arm.environment import Environment
from arm.kernels import I8, U8, B, Kernels, Pair, T, named
from arm.machine import Machine
from arm.machine_code import UNKNOWN, instructions
from kernel_tools import codes, floats, powers, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.dispatch import matrix_key
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.target.host import missing_features
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.tiles import Tile, use
from tbt_compile.codegen.tools.standalone import stored_weight

CPU = "neoverse-v1"
PAIRS = tuple(product((I8, U8), (B, T, I8)))
# Blocks of 8 columns, pairs of columns and words of 64 elements are begun and not filled.
SHAPES = ((1, 1), (75, 130), (17, 1105))
# Up to 7 one by one, from 8 in whole tiles, from 16 with shared columns; odd ones have half a pair.
ROWS = (1, 2, 3, 6, 7, 8, 9, 15, 16, 19, 67)
TILES = (Tile(2, 1), Tile(2, 2), Tile(4, 4))


def spec(pair: Pair, shape: tuple[int, int]) -> LinearSpec:
    return LinearSpec(*shape, *pair, False, False, parse_target(CPU).isa)


@pytest.fixture(scope="module")
def kernels(environment: Environment, machine: Callable[[str], Machine]) -> Kernels:
    if environment.emulator is None and missing_features(parse_target(CPU)):
        pytest.skip(f"this machine cannot run code for {CPU}")
    return Kernels(
        CPU, machine("max"), [(linear, spec(pair, shape)) for pair, shape in product(PAIRS, SHAPES)]
    )


def check(kernels: Kernels, layer: LinearSpec, x: np.ndarray, weight: np.ndarray) -> None:
    scale = powers(len(x), layer.n)
    inputs = [x, scalar(1.0), stored_weight(weight, layer), scale]
    y = kernels.call(linear, layer, inputs, (len(x), layer.n), np.float32)
    quantized = reference.quantize(x, layer.activation, 1.0, False)
    np.testing.assert_array_equal(y, reference.linear(*quantized, weight, scale, None))


@pytest.mark.parametrize("pair", PAIRS, ids=named)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_exact(kernels: Kernels, pair: Pair, shape: tuple[int, int]) -> None:
    n, k = shape
    for rows in ROWS:
        check(kernels, spec(pair, shape), floats(rows, rows, k), codes(rows, pair[1], n, k))


@pytest.mark.parametrize("pair", PAIRS, ids=named)
@pytest.mark.parametrize("sign", (-1, 1))
def test_the_largest_codes(kernels: Kernels, pair: Pair, sign: int) -> None:
    n, k = SHAPES[-1]
    for rows, largest in ((5, pair[1].minimum), (16, pair[1].maximum)):
        check(kernels, spec(pair, (n, k)), np.full((rows, k), sign, np.float32), np.full((n, k), largest))


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles_change_no_sum(machine: Callable[[str], Machine], tile: Tile) -> None:
    pair, shape = (I8, T), SHAPES[1]
    layer = spec(pair, shape)
    with use(matrix_key(T), tile):
        kernels = Kernels(CPU, machine("max"), [(linear, layer)])
    for rows in (2, 7, 17):
        check(kernels, layer, floats(rows, rows, shape[1]), codes(rows, T, *shape))


def test_a_tile_of_one_row_is_one_without_the_instruction(
    kernels: Kernels, environment: Environment, machine: Callable[[str], Machine]
) -> None:
    with use(matrix_key(T), Tile(1, 4)):
        without = Kernels(CPU, machine("max"), [(linear, spec((I8, T), SHAPES[1]))])
    counts = instructions(environment, without.library, CPU)
    assert counts["smmla"] == 0 < counts["sdot"]
    counts = instructions(environment, kernels.library, CPU)
    assert counts[UNKNOWN] == 0
    assert min(counts["smmla"], counts["usmmla"]) >= 128
