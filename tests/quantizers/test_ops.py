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


@pytest.mark.parametrize("transpose_b", [True, False])
@pytest.mark.parametrize("quantized", ["neither", "left", "right"])
def test_products_with_an_operand_in_full_precision_are_those_of_the_values(quantized, transpose_b):
    generator = torch.Generator().manual_seed(0)
    a = QuantTensor(codes(generator, 2, 3, 5), torch.rand(2, 3, 1, generator=generator))
    b = QuantTensor(codes(generator, 2, *((4, 5) if transpose_b else (5, 4))), torch.tensor(0.25))
    a = a if quantized == "left" else QuantTensor(a.value, None)
    b = b if quantized == "right" else QuantTensor(b.value, None)
    expected = a.value @ (b.value.transpose(-1, -2) if transpose_b else b.value)
    torch.testing.assert_close(quantized_matmul(a, b, transpose_b), expected)
    if transpose_b:
        weight, bias = QuantTensor(b.codes[0], b.scale), torch.randn(4, generator=generator)
        torch.testing.assert_close(quantized_linear(a, weight, bias), a.value @ weight.value.T + bias)
        torch.testing.assert_close(quantized_linear(a, weight, None), a.value @ weight.value.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_operands(dtype):
    generator = torch.Generator().manual_seed(0)
    x = QuantTensor(codes(generator, 3, 5, low=-1, high=2).to(dtype), torch.rand(3, 1, generator=generator))
    w = QuantTensor(codes(generator, 4, 5, low=-1, high=2).to(dtype), torch.rand(4, 1, generator=generator))
    bias = torch.ones(4, dtype=dtype)
    exact = (x.codes.float() @ w.codes.float().T) * (x.scale * w.scale.T)
    assert torch.equal(quantized_linear(x, w, bias), (exact + 1).to(dtype))
    assert torch.equal(quantized_matmul(x, w, True), exact.to(dtype))
    found = quantized_embedding(torch.tensor([2]), w)
    assert torch.equal(found, w.value[2:3].to(dtype))


def test_a_vector_times_a_weight_is_a_vector():
    x = QuantTensor(torch.tensor([1.0, -1.0, 2.0]), torch.tensor(0.5))
    w = QuantTensor(torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, -1.0]]), torch.tensor([[2.0], [4.0]]))
    assert quantized_linear(x, w, torch.tensor([1.0, 1.0])).tolist() == [3.0, -5.0]


def test_a_scale_per_group_of_columns_multiplies_its_group():
    grouped = QuantTensor(torch.tensor([[1.0, -1.0, 1.0, 0.0]]), torch.tensor([[2.0, 3.0]]))
    assert grouped.value.tolist() == [[2.0, -2.0, 3.0, 0.0]]


def test_sums_beyond_float32_are_exact_without_gradients():
    # 2^24 + 1 is no float32: added up in float32 the last code would be lost.
    x = QuantTensor(torch.full((1, 65794), 255.0), torch.tensor(1.0))
    w = QuantTensor(x.codes.clone(), torch.tensor(1.0))
    x.codes[0, -1] = 1.0
    with torch.no_grad():
        found = quantized_matmul(x, w, True)
    exact = int((x.codes.long() * w.codes.long()).sum())
    assert found.item() == torch.tensor(exact, dtype=torch.float64).float().item()


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
    in_place = "_ScaledProduct" in type(found.grad_fn).__name__
    assert in_place == (len(b) == 2 or a[:-2] == b[:-2])
    upstream = torch.randn(found.shape, generator=generator)
    found.backward(upstream)
    gradients = [leaf.grad for leaf in leaves]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    second = doubles[2] * doubles[3]
    definition = (doubles[0] * doubles[1]) @ (second.transpose(-1, -2) if transpose_b else second)
    definition.backward(upstream.double())
    for gradient, leaf in zip(gradients, doubles, strict=True):
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", range(4))
def test_only_what_asks_for_a_gradient_gets_one(wanted: int) -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        codes(generator, 3, 5, low=-1, high=2),
        torch.rand(3, 1, generator=generator) + 0.5,
        codes(generator, 4, 5, low=-1, high=2),
        torch.rand(4, 1, generator=generator) + 0.5,
    ]
    leaves[wanted].requires_grad_()
    quantized_matmul(QuantTensor(*leaves[:2]), QuantTensor(*leaves[2:]), True).sum().backward()
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ((doubles[0] * doubles[1]) @ (doubles[2] * doubles[3]).T).sum().backward()
    torch.testing.assert_close(leaves[wanted].grad.double(), doubles[wanted].grad, rtol=1e-5, atol=1e-5)
    assert all(leaf.grad is None for place, leaf in enumerate(leaves) if place != wanted)
