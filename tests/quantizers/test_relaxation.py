"""Relaxations lie between a value and its level, and end at the level."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers import ActivationQuantizer, QuantTensor, WeightQuantizer, quantized_linear
from tbt_compile.quantizers.relaxation import Blend, SoftLevels


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY])
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_a_blend_is_a_share_of_the_way_to_the_level(encoding: Encoding, seed: int, share: float) -> None:
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    quantizer = WeightQuantizer(encoding)
    level = quantizer(weight).value
    centered = weight - weight.mean(-1, keepdim=True)
    quantizer.relaxation = Blend(share)
    found = quantizer(weight)
    assert found.scale is None
    torch.testing.assert_close(found.codes, (1 - share) * centered + share * level)


def test_the_gradient_of_a_blend_is_a_blend_of_gradients() -> None:
    weight = torch.tensor([[3.0, -3.0, 0.1, -0.1]], requires_grad=True)
    quantizer = WeightQuantizer(Encoding.TERNARY, center=False, ste="clipped")
    quantizer.relaxation = Blend(0.25)
    quantizer(weight).codes.sum().backward()
    assert weight.grad.tolist() == [[0.75, 0.75, 1.0, 1.0]]  # beyond the scale only the unquantized part


def test_activations_blend_too() -> None:
    quantizer = ActivationQuantizer(Encoding.TERNARY)
    quantizer.set_scale(1.0)
    quantizer.relaxation = Blend(0.5)
    x = torch.tensor([[2.5, 0.5]])  # centered: 1 and -1, both levels
    assert quantizer(x).codes.tolist() == [[1.0, -1.0]]
    assert ActivationQuantizer(Encoding.INT8)(x).scale is not None


def test_a_blend_of_an_activation_with_an_offset_starts_from_what_is_rounded() -> None:
    quantizer = ActivationQuantizer(Encoding.TERNARY, offset=True)
    quantizer.set_scale(1.0)
    with torch.no_grad():
        quantizer.offset.fill_(0.5)
    quantizer.relaxation = Blend(0.25)
    x = torch.tensor([[0.25, 1.5, -0.75]])  # -0.25, 1 and -1.25, with the levels 0, 1 and -1
    found = quantizer(x).codes
    assert found.tolist() == [[-0.1875, 1.0, -1.1875]]
    found.sum().backward()
    # Three values pass 0.75 of the gradient as they are; two are within the levels, the root of 3 is LSQ's.
    assert quantizer.offset.grad.item() == pytest.approx(-(3 * 0.75 + 2 * 0.25 / 3**0.5))


def softmax_mean(x: float, levels: tuple[int, ...], temperature: float) -> float:
    """Hestia's relaxation of one value, in units of the scale."""
    shares = [torch.exp(torch.tensor(-((x - c) ** 2) / temperature, dtype=torch.float64)) for c in levels]
    return float(sum(c * share for c, share in zip(levels, shares, strict=True)) / sum(shares))


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY])
def test_soft_levels_are_a_mean_under_a_softmax(encoding: Encoding) -> None:
    weight = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(encoding, center=False)
    scale = quantizer(weight).scale
    quantizer.relaxation = SoftLevels(0.3)
    found = quantizer(weight).codes
    for row, of_row, values in zip(weight, scale, found, strict=True):
        expected = [float(of_row) * softmax_mean(float(w / of_row), encoding.levels, 0.3) for w in row]
        assert values.tolist() == pytest.approx(expected, rel=1e-4)


def test_soft_levels_harden_to_the_levels() -> None:
    weight = torch.randn(4, 50)
    quantizer = WeightQuantizer(Encoding.TERNARY)
    hard = quantizer(weight).value
    quantizer.relaxation = SoftLevels(1e-5)
    apart = (quantizer(weight).codes - hard).abs()
    assert (apart < 1e-4).float().mean() > 0.98  # others lie on a threshold


def test_relaxed_operands_multiply_as_real_values() -> None:
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    soft = QuantTensor(weight, None)
    hard = ActivationQuantizer(Encoding.INT8)(x)
    torch.testing.assert_close(quantized_linear(hard, soft, None), hard.value @ weight.T)
