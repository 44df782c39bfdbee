"""The block Hadamard rotation: against the dense matrix, one element at a time, and its gradient."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tbt_compile.codegen import reference
from tbt_compile.encoding import Encoding
from tbt_compile.modules.frozen import FrozenActivation
from tbt_compile.quantizers import ActivationQuantizer, quantized_linear
from tbt_compile.quantizers.hadamard import (
    LARGEST_BLOCK,
    RotatedActivationQuantizer,
    block_size,
    butterflies,
    rotate,
)
from tbt_compile.quantizers.ops import QuantTensor

BLOCKS = [2**power for power in range(1, 8)]
ENCODINGS = (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8)


def dense(block: int, features: int) -> Tensor:
    """The matrix of the rotation, float64 `[K, K]`, by Sylvester's construction."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < block:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.block_diag(*[matrix / block**0.5] * (features // block))


@pytest.mark.parametrize(
    ("features", "block"), [(768, 128), (8640, 64), (48, 16), (6, 2), (2, 2), (7, 1), (128 * 3, 128)]
)
def test_the_block_is_the_largest_power_of_two_that_divides_the_features(features: int, block: int) -> None:
    assert block_size(features) == block <= LARGEST_BLOCK


@pytest.mark.parametrize("block", BLOCKS)
def test_it_is_the_dense_matrix_and_its_own_inverse(block: int) -> None:
    features = 3 * block
    matrix = dense(block, features)
    assert torch.equal(matrix, matrix.t())
    torch.testing.assert_close(matrix @ matrix, torch.eye(features, dtype=torch.float64))
    x = torch.randn(2, 5, features, dtype=torch.float64)
    torch.testing.assert_close(butterflies(x, block), x @ matrix)
    torch.testing.assert_close(butterflies(butterflies(x, block), block), x)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), block=st.sampled_from(BLOCKS), count=st.integers(1, 5))
def test_every_bit_is_that_of_sums_and_differences_in_order(seed: int, block: int, count: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, block * count)).astype(np.float32)
    found = butterflies(torch.from_numpy(x), block).numpy()
    assert np.array_equal(found, reference.hadamard(x, block))
    operator = torch.ops.tbt.hadamard(torch.from_numpy(x), block).numpy()
    assert np.array_equal(operator, found)


@pytest.mark.parametrize("block", (2, 16, 128))
def test_the_gradient_is_that_of_the_dense_matrix(block: int) -> None:
    x = torch.randn(4, 2 * block, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2 * block, dtype=torch.float64)
    (found,) = torch.autograd.grad((rotate(x, block).sin() * weights).sum(), x)
    (expected,) = torch.autograd.grad(((x @ dense(block, 2 * block)).sin() * weights).sum(), x)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(partial(rotate, block=block), x.detach()[:1].requires_grad_())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_quantizer_of_a_rotation_with_the_gradients_of_both(encoding: Encoding) -> None:
    x = torch.randn(3, 48, requires_grad=True)
    rotated, plain = RotatedActivationQuantizer(encoding, 16), ActivationQuantizer(encoding)
    found, expected = rotated(x), plain(rotate(x, 16))
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scale, expected.scale)
    assert rotated.state_dict().keys() == plain.state_dict().keys()
    (gradient,) = torch.autograd.grad(found.value.square().sum(), x)
    (reference_gradient,) = torch.autograd.grad(expected.value.square().sum(), x)
    assert torch.equal(gradient, reference_gradient)
    frozen = FrozenActivation.from_quantizer(rotated)
    again = frozen(x.detach())
    assert torch.equal(again.codes, found.codes)
    assert torch.equal(again.scale, found.scale)
    assert "hadamard=16" in repr(frozen) and "hadamard=16" in repr(rotated)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_a_layer_without_quantization_is_what_it_was(dtype: torch.dtype) -> None:
    layer = nn.Linear(48, 20).to(dtype)
    x = torch.randn(5, 48, dtype=dtype)
    quantizer = RotatedActivationQuantizer(Encoding.FLOAT, 16)
    found = quantized_linear(quantizer(x), QuantTensor(butterflies(layer.weight, 16), None), layer.bias)
    assert found.dtype is dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}[dtype]
    torch.testing.assert_close(found, layer(x), rtol=tolerance, atol=tolerance)


def test_a_large_feature_is_spread_over_its_block() -> None:
    x = 0.1 * torch.randn(1, 128)
    x[0, 5] = 10.0
    plain, rotated = ActivationQuantizer(Encoding.INT8)(x), RotatedActivationQuantizer(Encoding.INT8, 128)(x)
    assert int((plain.codes.abs() > 5).sum()) == 1
    assert int((rotated.codes.abs() > 64).sum()) > 100
    error, rotated_error = (plain.value - x).norm(), (rotated.value - rotate(x, 128)).norm()
    assert float(rotated_error) < float(error) / 5
