"""Compare the kernels that this machine gets with their scalar references, on small random data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.attention.attention import AttentionSpec, pv, qk
from tbt_compile.codegen.kernels.dispatch import Strategy
from tbt_compile.codegen.kernels.linear.linear import linear
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.kernels.strategy import OUTPUTS, SCORES, strategy
from tbt_compile.codegen.layouts import pack_planes
from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.standalone import compile_kernel, stored_weight
from tbt_compile.codegen.tvm_api import tvm
from tbt_compile.encoding import Encoding

# Activations and weights of the usual recipes.
LINEAR = (
    (Encoding.BINARY, Encoding.BINARY),
    (Encoding.BINARY01, Encoding.BINARY),
    (Encoding.TERNARY, Encoding.TERNARY),
    (Encoding.TERNARY012, Encoding.TERNARY),
    (Encoding.INT8, Encoding.BINARY),
    (Encoding.INT8, Encoding.TERNARY),
    (Encoding.INT8, Encoding.INT8),
)
ATTENTION = (
    (Encoding.BINARY, Encoding.BINARY, Encoding.BINARY01),
    (Encoding.TERNARY, Encoding.TERNARY, Encoding.TERNARY012),
)
"""Queries, keys and values, and probabilities."""
N, K, TOKENS, WIDTH = 70, 200, 70, 64  # sizes that leave part of a word and of a block over
FEW, MANY = 1, 40
"""Rows; those of `MANY` go through the kernels for many rows of every strategy."""
SCALE = np.float32(0.5)


@dataclass(frozen=True)
class KernelTest:
    """A kernel and whether its results have the bits of the reference.

    Attributes:
        product: what is multiplied, such as "linear ternary x ternary".
        rows: of the operand.
        kernel: the name of the kernel in `tbt targets`.
        why: why this machine gets it.
        elements: of the result.
        differing: elements with other bits.
        seconds: to compile, or take from the cache, and run.
    """

    product: str
    rows: int
    kernel: str
    why: str
    elements: int
    differing: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all bits are equal."""
        return self.differing == 0


def self_test(target: TargetSpec | None = None) -> Iterator[KernelTest]:
    """Run every kernel that linear layers and attention of the usual recipes get on this machine.

    Args:
        target: None for this machine, else one whose code it can run.

    Yields:
        One test per product and number of rows.
    """
    spec = target or host_target()
    for activation, weight in LINEAR:
        yield from _linear(activation, weight, spec)
    for query, value, probabilities in ATTENTION:
        yield from _attention(query, value, probabilities, spec)


def _linear(activation: Encoding, weight: Encoding, target: TargetSpec) -> Iterator[KernelTest]:
    rng = np.random.default_rng(0)
    layer = LinearSpec(N, K, activation, weight, True, False, target.isa)
    start = time.perf_counter()
    kernel = compile_kernel(linear(layer), target)
    codes = rng.choice(weight.levels, (N, K))
    scales = np.float32(2.0) ** rng.integers(-3, 3, N).astype(np.float32)
    for rows in (FEW, MANY):
        x = _floats(rng, activation, rows, K)
        found = _run(kernel, (x, _one(SCALE), stored_weight(codes, layer), scales), (rows, N))
        quantized, scale = reference.quantize(x, activation, float(SCALE), True)
        expected = reference.linear(quantized, scale, codes, scales)
        product = f"linear {activation.value} x {weight.value}"
        yield _compared(product, rows, layer.strategy, found, expected, start)
        start = time.perf_counter()


def _attention(
    query: Encoding, value: Encoding, probabilities: Encoding, target: TargetSpec
) -> Iterator[KernelTest]:
    rng = np.random.default_rng(1)
    codes = rng.choice(value.levels, (1, 2, TOKENS, WIDTH))
    keys = pack_planes(codes, value).reshape(1, 2, TOKENS, -1)
    values = np.moveaxis(pack_planes(np.swapaxes(codes, -1, -2), value), (-3, -2, -1), (-1, -2, -3))
    scale = np.asarray(np.float32(0.25))
    cases = (
        (qk, query, keys, SCORES, (MANY, WIDTH), TOKENS, reference.attention_scores),
        (pv, probabilities, values, OUTPUTS, (MANY, TOKENS), WIDTH, reference.attention_context),
    )
    for build, left, packed, table, shape, columns, expect in cases:
        start = time.perf_counter()
        kernel = compile_kernel(build(AttentionSpec(WIDTH, left, value, True, target.isa)), target)
        x = _floats(rng, left, 1, 2, *shape)
        found = _run(kernel, (x, _one(SCALE), packed, _one(scale)), (1, 2, MANY, columns))
        expected = expect(*reference.quantize(x, left, float(SCALE), True), codes, scale)
        chosen = strategy(left, value, target.isa, shape[1], table)
        product = f"attention {'scores' if build is qk else 'outputs'} {left.value} x {value.value}"
        yield _compared(product, MANY, chosen, found, expected, start)


def _floats(rng: np.random.Generator, encoding: Encoding, *shape: int) -> npt.NDArray[np.float32]:
    """Random floats; every fourth is at a threshold between two codes."""
    x = rng.standard_normal(shape, dtype=np.float32)
    x[..., ::4] = rng.choice(np.array([0, 0.25, -0.25, 0.75], np.float32), x[..., ::4].shape)
    return x if encoding.signed else np.abs(x)


def _one(value: Any) -> npt.NDArray[np.float32]:
    return np.array([value], np.float32)


def _run(kernel: Any, inputs: Sequence[Any], shape: Sequence[int]) -> npt.NDArray[np.float32]:
    output = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    kernel(*(tvm.runtime.tensor(np.ascontiguousarray(each)) for each in inputs), output)
    return np.asarray(output.numpy())


def _compared(
    product: str, rows: int, chosen: Strategy, found: Any, expected: Any, start: float
) -> KernelTest:
    kernel = chosen.kernel(rows)
    differing = int((found != expected).sum())
    seconds = time.perf_counter() - start
    return KernelTest(product, rows, kernel.value, chosen.why, found.size, differing, seconds)
