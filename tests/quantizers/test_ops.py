"""Quantized products equal the products of the values, and their integer part is exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.quantizers import QuantTensor, ops, quantized_embedding, quantized_linear, quantized_matmul


def codes(generator: torch.Generator, *shape: int, low: int = -127, high: int = 128) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=generator).float()


@given(
    seed=st.integers(0, 2**31),
    m=st.sampled_from([1, 3, 130]),
    n=st.sampled_from([1, 7, 50]),
    k=st.sampled_from([1, 63, 65, 100]),
)
def test_linear_is_integer_exact_then_scaled(seed, m, n, k):
    generator = torch.Generator().manual_seed(seed)
    x = QuantTensor(codes(generator, m, k), torch.rand(m, 1, generator=generator))
    w = QuantTensor(codes(generator, n, k, low=-1, high=2), torch.rand(n, 1, generator=generator))
    bias = torch.randn(n, generator=generator)
    exact = x.codes.long() @ w.codes.long().T
    expected = exact.float() * (x.scale * w.scale.T) + bias
    assert torch.equal(quantized_linear(x, w, bias), expected)


def test_float_operands_are_a_plain_linear():
    x, w, bias = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    result = quantized_linear(QuantTensor(x, None), QuantTensor(w, None), bias)
    assert torch.equal(result, torch.nn.functional.linear(x, w, bias))


def test_matmul_places_a_scale_per_token_on_columns_or_inside_the_sum():
    generator = torch.Generator().manual_seed(0)
    a = QuantTensor(codes(generator, 2, 3, 4, 6), torch.rand(2, 3, 4, 1, generator=generator))
    keys = QuantTensor(codes(generator, 2, 3, 5, 6), torch.rand(2, 3, 5, 1, generator=generator))
    expected = a.value.double() @ keys.value.double().transpose(-1, -2)
    torch.testing.assert_close(quantized_matmul(a, keys, True).double(), expected, rtol=1e-5, atol=1e-2)
    p = QuantTensor(codes(generator, 2, 3, 4, 5, low=0), torch.tensor(0.5))
    expected = p.value.double() @ keys.value.double()
    torch.testing.assert_close(quantized_matmul(p, keys, False).double(), expected, rtol=1e-5, atol=1e-2)
    static = QuantTensor(keys.codes, torch.tensor(0.25))
    expected = (p.codes.long() @ static.codes.long()).float() * torch.tensor(0.125)
    assert torch.equal(quantized_matmul(p, static, False), expected)


def test_embedding_looks_up_scaled_rows():
    weight = QuantTensor(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), torch.tensor([[2.0], [3.0]]))
    assert quantized_embedding(torch.tensor([[1, 0]]), weight).tolist() == [[[0.0, 3.0], [2.0, -2.0]]]


OPERANDS = {
    # a, its scale, b, its scale, transpose_b
    "linear": ((2, 3, 5), (), (4, 5), (4, 1), True),
    "linear of dynamic tokens": ((2, 3, 5), (2, 3, 1), (4, 5), (4, 1), True),
    "scores": ((2, 2, 3, 5), (), (2, 2, 4, 5), (), True),
    "scores of dynamic tokens": ((2, 2, 3, 5), (2, 2, 3, 1), (2, 2, 4, 5), (2, 2, 4, 1), True),
    "context": ((2, 2, 3, 4), (), (2, 2, 4, 5), (), False),
    "operands that broadcast": ((2, 3, 5), (), (1, 4, 5), (), True),
}


@pytest.mark.parametrize("case", OPERANDS)
@pytest.mark.parametrize("block", [2**20, 1], ids=["whole", "in blocks"])
def test_values_are_those_without_gradients_and_gradients_those_of_the_definition(
    case: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "BLOCK", block)
    a, a_scale, b, b_scale, transpose_b = OPERANDS[case]
    generator = torch.Generator().manual_seed(0)
    leaves = [
        codes(generator, *a, low=-1, high=2),
        torch.rand(a_scale, generator=generator) + 0.5,
        codes(generator, *b, low=-1, high=2),
        torch.rand(b_scale, generator=generator) + 0.5,
    ]
    left, right = QuantTensor(*leaves[:2]), QuantTensor(*leaves[2:])
    expected = quantized_matmul(left, right, transpose_b)
    for leaf in leaves:
        leaf.requires_grad_()
    found = quantized_matmul(left, right, transpose_b)
    assert torch.equal(found, expected)
    upstream = torch.randn(found.shape, generator=generator)
    found.backward(upstream)
    gradients = [leaf.grad for leaf in leaves]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    second = doubles[2] * doubles[3]
    definition = (doubles[0] * doubles[1]) @ (second.transpose(-1, -2) if transpose_b else second)
    definition.backward(upstream.double())
    for gradient, leaf in zip(gradients, doubles, strict=True):
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-5, atol=1e-5)
