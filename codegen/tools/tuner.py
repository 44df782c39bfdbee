"""Tune the register tile of every kernel by measuring all candidates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tbt_compile.codegen.kernels.dispatch import MATRIX_TILE, Kernel, matrix_key
from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.register_tile import gemm_tile, gemv_vectors, tile_key
from tbt_compile.codegen.kernels.linear.lut_gemm import VECTORS as LOOKUP_VECTORS
from tbt_compile.codegen.kernels.linear.packed_dot import packed_tile
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.kernels.linear.unpacked_dot import unpacked_tile
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.target.tiles import ROWS, VECTORS, Tile, use
from tbt_compile.codegen.tools import standalone
from tbt_compile.encoding import Encoding
from tbt_compile.progress import Progress

N, K, GEMM_ROWS = 1536, 768, 64
_TURNS = 12
_SECONDS = 0.006
_MAX_TIME_RATIO = 0.96


@dataclass(frozen=True)
class TuningTask:
    """A kernel to tune: the layer and rows to measure, and the candidate tiles, the default first."""

    kernel: str
    spec: LinearSpec
    rows: int
    tiles: tuple[Tile, ...]


def tuning_tasks(isa: Isa) -> list[TuningTask]:
    """All tuning tasks of an instruction set."""
    return list(_tuning_tasks(isa))


def tune(target: TargetSpec, progress: Progress = lambda _text, _done: None) -> dict[str, dict[str, Any]]:
    """Measure every candidate tile of every kernel on the host, which must be able to run `target`.

    Returns:
        By kernel: rows and vectors of the best tile, and the times of all tiles in microseconds. The default
        tile is kept unless another is at least 4 % faster.
    """
    tasks = tuning_tasks(target.isa)
    results = {}
    for index, task in enumerate(tasks):
        progress(f"tuning {task.kernel}", index / len(tasks))
        results[task.kernel] = _measure(task, target)
    return results


def _measure(task: TuningTask, target: TargetSpec) -> dict[str, Any]:
    calls = []
    for choice in task.tiles:
        with use(task.kernel, choice):
            calls.append(standalone.random_linear(task.spec, target, task.rows)[0])
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(_TURNS):
        for call, timings in zip(calls, samples, strict=True):
            timings.append(_timed(call))
    # The minimum, not the median: other load on the machine only adds time.
    times = [1e6 * min(timings) for timings in samples]
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] > _MAX_TIME_RATIO * times[0]:
        best = 0
    tiles = {str(choice): round(us, 2) for choice, us in zip(task.tiles, times, strict=True)}
    chosen = task.tiles[best]
    shape = f"{task.rows}x{task.spec.n}x{task.spec.k}"
    return {
        "rows": chosen.rows,
        "vectors": chosen.vectors,
        "measured": {"cpu": target.mcpu, "shape": shape, "us": tiles},
    }


def _timed(call: standalone.Call) -> float:
    call()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS:
        call()
        count += 1
    return elapsed / count


def _tuning_tasks(isa: Isa) -> Iterator[TuningTask]:
    one_bit, two_bit = (Encoding.BINARY, Encoding.BINARY01), (Encoding.TERNARY, Encoding.TERNARY012)
    for weight, activations in ((Encoding.BINARY, one_bit), (Encoding.TERNARY, two_bit)):
        for activation in activations:
            spec = LinearSpec(N, K, activation, weight, True, True, isa)
            product = bit_product(activation, weight)
            max_tile = isa.registers * 3 // 4 // len(product.coefficients)
            row = gemv_vectors(product, isa, max(VECTORS), 1)
            gemv_tiles = _default_first(Tile(1, row), [Tile(1, vectors) for vectors in VECTORS])
            if spec.strategy.gemv is not Kernel.SMALL_SUMS:
                yield TuningTask(tile_key("row", product), spec, 1, gemv_tiles)
            if spec.strategy.gemm in (Kernel.POPCOUNT, Kernel.CARRY_SAVE):
                shapes = [Tile(rows, vectors) for rows in ROWS for vectors in VECTORS]
                fit = [shape for shape in shapes if 2 <= shape.rows * shape.vectors <= max_tile]
                default = gemm_tile(product, isa, max(VECTORS))
                yield TuningTask(tile_key("planes", product), spec, GEMM_ROWS, _default_first(default, fit))
            elif spec.strategy.gemm is Kernel.LUT_GEMM:
                heights = tuple(Tile(rows, LOOKUP_VECTORS) for rows in (4, 2, 8))
                yield TuningTask(tile_key("lookup", product), spec, GEMM_ROWS, heights)
        spec = LinearSpec(N, K, Encoding.INT8, weight, True, True, isa)
        if spec.strategy.gemv is Kernel.PACKED_DOT:
            tiles = _default_first(packed_tile(isa, weight), [Tile(1, vectors) for vectors in VECTORS])
            yield TuningTask(f"fields {weight.value}", spec, 1, tiles)
    for weight in (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8):
        # A tile of one row stands for the kernel that is used without SMMLA, see `Strategy.tile_key`.
        if isa.has("i8mm"):
            spec = LinearSpec(N, K, Encoding.INT8, weight, True, True, isa)
            tiles = (MATRIX_TILE, *(Tile(rows, MATRIX_TILE.vectors) for rows in (4, 1)))
            yield TuningTask(matrix_key(weight), spec, GEMM_ROWS, tiles)
    for activation in (Encoding.INT8, Encoding.UINT8):
        shapes = [Tile(rows, vectors) for rows in (2, 4, 8) for vectors in VECTORS]
        tiles = _default_first(unpacked_tile(isa, activation), shapes)
        for weight in (Encoding.TERNARY, Encoding.INT8):
            spec = LinearSpec(N, K, activation, weight, True, True, isa)
            if spec.strategy.gemm in (Kernel.UNPACKED_DOT, Kernel.INT8_GEMM):
                yield TuningTask(f"bytes {activation.value}", spec, GEMM_ROWS, tiles)
                break


def _default_first(default: Tile, tiles: list[Tile]) -> tuple[Tile, ...]:
    return tuple(dict.fromkeys((default, *tiles)))
