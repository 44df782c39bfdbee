"""Every float operation bit for bit as the specification in NumPy, on every instruction set."""

from __future__ import annotations

import float_spec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, call, isa_of, kernel, runnable

from tbt_compile.codegen.kernels.float_ops.activations import ACTIVATIONS, ActivationSpec, activation
from tbt_compile.codegen.kernels.float_ops.norms import NormSpec, layer_norm, rms_norm
from tbt_compile.codegen.kernels.float_ops.reductions import row_mean, row_sum
from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.kernels.float_ops.vocabulary import log_softmax
from tbt_compile.codegen.kernels.linear.float32 import FloatLinearSpec, linear_float
from tbt_compile.codegen.tvm_api import tvm

CPUS = runnable("haswell", "x86-64")
LENGTHS = (1, 7, 16, 63, 64, 100, 768)


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), np.asarray(expected, np.float32).view(np.uint32))


def spread(seed: int, *shape: int) -> np.ndarray:
    """Floats of many magnitudes, where a change in the order of a sum shows."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 4, shape)).astype(np.float32)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_functions(cpu: str, function: str) -> None:
    x = np.linspace(-100, 100, 20_003, dtype=np.float32)
    x = np.concatenate([x, spread(1, 5_000), np.float32([0.0, 1e-30, 3e4, -3e4])])[None]
    x = np.abs(x) + np.float32(1e-20) if function == "log" else x
    run = kernel(activation, ActivationSpec(function, x.shape[-1], isa_of(cpu)), cpu)
    same(call(run, [x], x.shape, np.float32), float_spec.FUNCTIONS[function](x))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("d", LENGTHS)
@settings(max_examples=3)
@given(seed=SEEDS)
def test_norms(cpu: str, d: int, seed: int) -> None:
    x, other, gamma, beta = (
        spread(seed, 3, d),
        spread(seed + 1, 3, d),
        spread(seed + 2, d),
        spread(seed + 3, d),
    )
    run = kernel(layer_norm, NormSpec(d, 1e-5, isa_of(cpu), residual=True), cpu)
    same(
        call(run, [x, other, gamma, beta], x.shape, np.float32),
        float_spec.layer_norm(x + other, gamma, beta, 1e-5),
    )
    run = kernel(rms_norm, NormSpec(d, 1e-6, isa_of(cpu)), cpu)
    same(call(run, [x, gamma], x.shape, np.float32), float_spec.rms_norm(x, gamma, 1e-6))


@pytest.mark.parametrize("cpu", CPUS)
@settings(max_examples=5)
@given(seed=SEEDS, length=st.integers(1, 300))
def test_softmax_and_sums(cpu: str, seed: int, length: int) -> None:
    x = spread(seed, 1, 2, 3, length)
    run = kernel(softmax, SoftmaxSpec(isa_of(cpu)), cpu)
    same(call(run, [x], x.shape, np.float32), float_spec.softmax(x))
    rows = x.reshape(6, length)
    run = kernel(row_sum, AnySize(isa_of(cpu)), cpu)
    same(call(run, [rows], (6,), np.float32), float_spec.total(rows))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("size", (5, 1000))
def test_log_softmax(cpu: str, size: int) -> None:
    x = spread(3, 2, size)
    run = kernel(log_softmax, isa_of(cpu), cpu)
    scores = tvm.runtime.tensor(x)
    run(scores)
    same(scores.numpy(), float_spec.log_softmax(x))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("n", "k"), ((1, 1), (9, 63), (20, 200)))
def test_linear_layers_in_full_precision(cpu: str, n: int, k: int) -> None:
    x, w, bias = spread(1, 3, k), spread(2, n, k), spread(3, n)
    run = kernel(linear_float, FloatLinearSpec(n, k, True, isa_of(cpu)), cpu)
    same(call(run, [x, w, bias], (3, n), np.float32), float_spec.dot(x, w) + bias)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("length", LENGTHS)
def test_means_of_rows(cpu: str, length: int) -> None:
    x = spread(length, 4, length)

    run = kernel(row_mean, AnySize(isa_of(cpu)), cpu)
    expected = (float_spec.total(x.astype(np.float64)) / length).astype(np.float32)
    same(call(run, [x], (4,), np.float32), expected)
