"""LayerNorm, softmax and activations: accuracy, and independence from batch and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import SEEDS, call, isa_of, kernel, runnable

from tbt_compile.codegen.kernels.dsl import float_math
from tbt_compile.codegen.kernels.float_ops.activations import ACTIVATIONS, ActivationSpec, activation
from tbt_compile.codegen.kernels.float_ops.norms import NormSpec, layer_norm, rms_norm
from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax
from tbt_compile.errors import LoweringError

CPUS = runnable("haswell")
HOST = CPUS[0]
LEAST = np.finfo(np.float32).min


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def apply(function: str, x: np.ndarray, cpu: str = HOST) -> np.ndarray:
    run = kernel(activation, ActivationSpec(function, x.shape[-1], isa_of(cpu)), cpu)
    return call(run, [x], x.shape, np.float32)


@pytest.mark.parametrize("cpu", CPUS)
def test_exp_is_within_its_stated_error(cpu: str) -> None:
    x = np.linspace(-87.3, 88, 500_000).astype(np.float32).reshape(500, 1000)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(apply("exp", x, cpu) / exact - 1)) <= float_math.EXP_RELATIVE_ERROR


def test_exp_of_a_masked_position_is_exactly_zero() -> None:
    x = np.float32([[-np.inf, LEAST, -87.5, 0.0, -0.0, np.nan, 100.0, np.inf]])
    y = apply("exp", x)[0]
    assert y[:3].tolist() == [0, 0, 0]
    assert y[3:5].tolist() == [1, 1]
    assert np.isnan(y[5])
    assert np.all(y[6:] > 1e38)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    ("function", "exact", "error"),
    [
        ("erf", torch.erf, float_math.ERF_ABSOLUTE_ERROR),
        ("tanh", torch.tanh, float_math.TANH_ABSOLUTE_ERROR),
        ("sin", torch.sin, float_math.SIN_ABSOLUTE_ERROR),
        ("cos", torch.cos, float_math.SIN_ABSOLUTE_ERROR),
        ("gelu", torch.nn.functional.gelu, 2e-7),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 2e-7),
        ("silu", torch.nn.functional.silu, 2e-7),
    ],
)
def test_activations_are_accurate(cpu: str, function: str, exact: object, error: float) -> None:
    x = np.linspace(-12, 12, 300_300).astype(np.float32).reshape(300, 1001)
    expected = exact(torch.from_numpy(x).double()).numpy()  # type: ignore[operator]
    difference = np.abs(apply(function, x, cpu) - expected) / np.maximum(1, np.abs(x))
    assert difference.max() <= error


@pytest.mark.parametrize("cpu", CPUS)
def test_log_and_sigmoid_are_within_their_stated_errors(cpu: str) -> None:
    x = np.geomspace(1e-30, 1e30, 100_000).astype(np.float32).reshape(100, 1000)
    exact = np.log(x.astype(np.float64))
    units = np.abs(apply("log", x, cpu) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() <= float_math.LOG_ERROR
    x = np.linspace(-86, 86, 100_000).astype(np.float32).reshape(100, 1000)
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(apply("sigmoid", x, cpu) / exact - 1).max() <= float_math.SIGMOID_RELATIVE_ERROR


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(LoweringError, match="expected one of relu, gelu"):
        activation(ActivationSpec("sine", 8, isa_of(HOST)))
    assert "gelu" in ACTIVATIONS


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("d", (1, 7, 64, 100, 768))
@settings(max_examples=5)
@given(seed=SEEDS, rows=st.integers(1, 6))
def test_norms(cpu: str, d: int, seed: int, rows: int) -> None:
    x, other = normal(seed, rows, d) * 3 + 1, normal(seed + 1, rows, d)
    gamma, beta = normal(seed + 2, d), normal(seed + 3, d)
    isa = isa_of(cpu)
    size = (rows, d)

    def expected(value: np.ndarray) -> np.ndarray:
        tensors = (torch.from_numpy(v).double() for v in (value, gamma, beta))
        value_, gamma_, beta_ = tensors
        return torch.nn.functional.layer_norm(value_, (d,), gamma_, beta_, 1e-5).numpy()

    y = call(kernel(layer_norm, NormSpec(d, 1e-5, isa), cpu), [x, gamma, beta], size, np.float32)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=5e-5 if d == 1 else 5e-6)
    run = kernel(layer_norm, NormSpec(d, 1e-5, isa, residual=True), cpu)
    y = call(run, [x, other, gamma, beta], size, np.float32)
    np.testing.assert_allclose(y, expected(x + other), rtol=1e-5, atol=5e-5 if d == 1 else 5e-6)
    y = call(kernel(rms_norm, NormSpec(d, 1e-6, isa), cpu), [x, gamma], size, np.float32)
    mean_square = np.square(x, dtype=np.float64).mean(-1, keepdims=True)
    np.testing.assert_allclose(y, x / np.sqrt(mean_square + 1e-6) * gamma, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cpu", CPUS)
@settings(max_examples=15)
@given(
    seed=SEEDS, length=st.integers(1, 70), padding=st.integers(0, 40), fill=st.sampled_from((LEAST, -np.inf))
)
def test_softmax_and_padding(cpu: str, seed: int, length: int, padding: int, fill: float) -> None:
    x = normal(seed, 2, 3, 4, length) * 4
    run = kernel(softmax, SoftmaxSpec(isa_of(cpu)), cpu)
    y = call(run, [x], x.shape, np.float32)
    np.testing.assert_allclose(
        y, torch.softmax(torch.from_numpy(x).double(), -1).numpy(), rtol=1e-6, atol=1e-7
    )
    added = np.full((2, 3, 4, padding), fill, np.float32)
    for padded, start in ((np.concatenate([x, added], -1), 0), (np.concatenate([added, x], -1), padding)):
        longer = call(run, [padded], padded.shape, np.float32)
        np.testing.assert_array_equal(longer[..., start : start + length], y)
        assert np.count_nonzero(longer) == np.count_nonzero(y)


@pytest.mark.parametrize("mask_rows", (1, 5))
def test_softmax_scales_and_masks(mask_rows: int) -> None:
    x = normal(1, 2, 3, 5, 37)
    mask = np.where(np.random.default_rng(2).random((2, 1, mask_rows, 37)) < 0.3, LEAST, 0).astype(np.float32)
    run = kernel(softmax, SoftmaxSpec(isa_of(HOST), scale=0.125, mask=True), HOST)
    y = call(run, [x, mask], x.shape, np.float32)
    expected = torch.softmax(torch.from_numpy(x * np.float32(0.125) + mask).double(), -1).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_a_row_does_not_depend_on_the_rows_around_it() -> None:
    x = normal(1, 9, 100)
    together = apply("gelu", x)
    for row in range(9):
        np.testing.assert_array_equal(apply("gelu", x[row : row + 1])[0], together[row])
