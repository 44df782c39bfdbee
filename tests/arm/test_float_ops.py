"""LayerNorm, softmax and activations on AArch64: their accuracy, and independence from padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arm.kernels import Builder, Kernels
from arm.machine import Machine

from tbt_compile.codegen.kernels.dsl import float_math
from tbt_compile.codegen.kernels.float_ops.activations import ActivationSpec, activation
from tbt_compile.codegen.kernels.float_ops.norms import NormSpec, layer_norm, rms_norm
from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax
from tbt_compile.codegen.kernels.float_ops.vocabulary import best
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target

LEAST = np.finfo(np.float32).min
WIDTHS = (1, 7, 100)
LINE = 1001
FUNCTIONS = {
    "erf": (torch.erf, float_math.ERF_ABSOLUTE_ERROR),
    "tanh": (torch.tanh, float_math.TANH_ABSOLUTE_ERROR),
    "gelu": (F.gelu, 2e-7),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 2e-7),
    "silu": (F.silu, 2e-7),
}


def every_kernel(isa: Isa) -> Iterator[tuple[Builder, Any]]:
    for d in WIDTHS:
        yield layer_norm, NormSpec(d, 1e-5, isa)
        yield layer_norm, NormSpec(d, 1e-5, isa, residual=True)
        yield rms_norm, NormSpec(d, 1e-6, isa)
    yield softmax, SoftmaxSpec(isa)
    yield best, isa
    yield softmax, SoftmaxSpec(isa, scale=0.125, mask=True)
    for function in (*FUNCTIONS, "exp"):
        yield activation, ActivationSpec(function, LINE, isa)


@pytest.fixture(scope="module")
def kernels(target: tuple[str, Machine]) -> Kernels:
    cpu, machine = target
    return Kernels(cpu, machine, every_kernel(parse_target(cpu).isa))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def apply(kernels: Kernels, function: str, x: np.ndarray) -> np.ndarray:
    return kernels.call(activation, ActivationSpec(function, LINE, kernels.isa), [x], x.shape, np.float32)


def test_exp_is_within_its_stated_error_and_zero_where_masked(kernels: Kernels) -> None:
    x = np.linspace(-87.3, 88, 50 * LINE).astype(np.float32).reshape(50, LINE)
    x[0, :3] = -np.inf, LEAST, -87.5
    y = apply(kernels, "exp", x)
    assert y[0, :3].tolist() == [0, 0, 0]
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(y.ravel()[3:] / exact.ravel()[3:] - 1)) <= float_math.EXP_RELATIVE_ERROR


@pytest.mark.parametrize("function", FUNCTIONS)
def test_activations_are_accurate(kernels: Kernels, function: str) -> None:
    exact, error = FUNCTIONS[function]
    x = np.linspace(-12, 12, 30 * LINE).astype(np.float32).reshape(30, LINE)
    difference = np.abs(apply(kernels, function, x) - exact(torch.from_numpy(x).double()).numpy())
    assert np.max(difference / np.maximum(1, np.abs(x))) <= error


@pytest.mark.parametrize("d", WIDTHS)
def test_norms(kernels: Kernels, d: int) -> None:
    x, other = normal(1, 6, d) * 3 + 1, normal(2, 6, d)
    gamma, beta = normal(3, d), normal(4, d)
    error = {"rtol": 1e-5, "atol": 5e-5 if d == 1 else 5e-6}

    def expected(value: np.ndarray) -> np.ndarray:
        tensors = [torch.from_numpy(v).double() for v in (value, gamma, beta)]
        return F.layer_norm(tensors[0], (d,), *tensors[1:], 1e-5).numpy()

    y = kernels.call(layer_norm, NormSpec(d, 1e-5, kernels.isa), [x, gamma, beta], x.shape, np.float32)
    np.testing.assert_allclose(y, expected(x), **error)
    spec = NormSpec(d, 1e-5, kernels.isa, residual=True)
    y = kernels.call(layer_norm, spec, [x, other, gamma, beta], x.shape, np.float32)
    np.testing.assert_allclose(y, expected(x + other), **error)
    y = kernels.call(rms_norm, NormSpec(d, 1e-6, kernels.isa), [x, gamma], x.shape, np.float32)
    mean_square = np.square(x, dtype=np.float64).mean(-1, keepdims=True)
    np.testing.assert_allclose(y, x / np.sqrt(mean_square + 1e-6) * gamma, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fill", (LEAST, -np.inf))
def test_softmax_and_padding_to_the_right(kernels: Kernels, fill: float) -> None:
    spec = SoftmaxSpec(kernels.isa)
    for length, padding in ((1, 3), (37, 40), (70, 5)):
        x = normal(length, 2, 3, 4, length) * 4
        y = kernels.call(softmax, spec, [x], x.shape, np.float32)
        exact = torch.softmax(torch.from_numpy(x).double(), -1).numpy()
        np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-7)
        padded = np.concatenate([x, np.full((2, 3, 4, padding), fill, np.float32)], -1)
        longer = kernels.call(softmax, spec, [padded], padded.shape, np.float32)
        np.testing.assert_array_equal(longer[..., :length], y)
        np.testing.assert_array_equal(longer[..., length:], 0)


@pytest.mark.parametrize("mask_rows", (1, 5))
def test_softmax_scales_and_masks(kernels: Kernels, mask_rows: int) -> None:
    x = normal(1, 2, 3, 5, 37)
    hidden = np.random.default_rng(2).random((2, 1, mask_rows, 37)) < 0.3
    mask = np.where(hidden, LEAST, 0).astype(np.float32)
    spec = SoftmaxSpec(kernels.isa, scale=0.125, mask=True)
    y = kernels.call(softmax, spec, [x, mask], x.shape, np.float32)
    expected = torch.softmax(torch.from_numpy(x * np.float32(0.125) + mask).double(), -1).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_best_continuations(kernels: Kernels) -> None:
    log_probs = -np.random.default_rng(6).integers(0, 40, (2, 3, LINE)).astype(np.float32)
    beam_scores = np.float32([[0, -1, -2], [0, -1e9, -1e9]])
    totals = (log_probs + beam_scores[:, :, None]).reshape(2, -1)
    scores = np.zeros((2, 7), np.float32)
    places = kernels.call(best, kernels.isa, [log_probs, beam_scores, scores], (2, 7), np.int64)
    np.testing.assert_array_equal(places, np.argsort(-totals, axis=1, kind="stable")[:, :7])
