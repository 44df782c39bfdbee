"""QuantBart's dynamic scaling against its definition, element by element."""

import pytest
import torch

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.scaled import ScaledWeightQuantizer


def make(encoding: Encoding, factor: float) -> ScaledWeightQuantizer:
    quantizer = ScaledWeightQuantizer(encoding)
    with torch.no_grad():
        quantizer.factor.fill_(factor)
    return quantizer


def test_a_small_weight_by_hand() -> None:
    # Mean magnitude 1, clip 1.5: codes change at 0.75.
    weight = torch.tensor([[2.0, -0.5, 0.8, -0.7]])
    codes, scale = make(Encoding.TERNARY, 1.5)(weight)
    assert codes.tolist() == [[1, 0, 1, 0]]
    assert scale.tolist() == [[pytest.approx(1.5)]]
    codes, scale = make(Encoding.INT8, 1.5)(weight)
    assert codes.tolist() == [[127, -42, 68, -59]]
    assert scale.tolist() == [[pytest.approx(1.5 / 127)]]


@pytest.mark.parametrize(
    ("encoding", "first"), [(Encoding.BINARY, 1.0), (Encoding.TERNARY, 1.0), (Encoding.INT8, 4.0)]
)
def test_it_first_clips_at_a_multiple_of_the_mean_magnitude(encoding: Encoding, first: float) -> None:
    quantizer = ScaledWeightQuantizer(encoding)
    assert quantizer.factor.tolist() == [first]
    scale = quantizer(torch.tensor([[2.0, -1.0]])).scale
    assert scale.tolist() == [[pytest.approx(1.5 * first / encoding.maximum)]]


def test_a_factor_below_its_bound_leaves_a_positive_scale() -> None:
    scale = make(Encoding.TERNARY, -1.0)(torch.tensor([[2.0, -1.0]])).scale
    assert scale.tolist() == [[pytest.approx(1.5e-3)]]


def test_a_weight_in_full_precision_is_returned() -> None:
    weight = torch.randn(2, 3)
    value, scale = ScaledWeightQuantizer(Encoding.FLOAT)(weight)
    assert value is weight and scale is None


@pytest.mark.parametrize("encoding", [Encoding.TERNARY, Encoding.INT8])
def test_gradients_are_those_of_the_paper(encoding: Encoding) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 40, generator=generator, requires_grad=True)
    upstream = torch.randn(3, 40, generator=generator)
    quantizer = make(encoding, 1.2)
    (quantizer(weight).value * upstream).sum().backward()
    total = 0.0
    for row, ups, grads in zip(weight.tolist(), upstream.tolist(), weight.grad.tolist(), strict=True):
        mean = sum(map(abs, row)) / len(row)
        alpha = 1.2 * mean
        for w, up, grad in zip(row, ups, grads, strict=True):
            inside = abs(w) < alpha
            assert grad == pytest.approx(up if inside else 0.0, rel=1e-5)
            level = round(w / alpha * encoding.maximum) / encoding.maximum
            total += up * mean * (level - w / alpha if inside else (1 if w > 0 else -1))
    assert quantizer.factor.grad.item() == pytest.approx(total, rel=1e-3)


def test_a_tied_weight_follows_the_factor_of_its_owner() -> None:
    leader, follower = make(Encoding.TERNARY, 0.3), ScaledWeightQuantizer(Encoding.TERNARY)
    follower.follow(leader)
    weight = torch.randn(2, 8)
    assert torch.equal(leader(weight).codes, follower(weight).codes)
    assert list(follower.state_dict()) == []
