"""Ternary weight splitting: two binary matrices that add up to the ternary one."""

import torch

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers import WeightQuantizer
from tbt_compile.quantizers.split import SplitWeightQuantizer, split_ternary


def test_a_small_weight_by_hand() -> None:
    # Mean magnitude 1, threshold 0.7: codes 1, -1, 0, 0 with scale 1.6. The offset is
    # (1.6 * 4 - 4) / (2 * 2) = 0.6, the share (3.2 + 0.5 - 0.3) / 6.4 = 0.53125.
    first, second = split_ternary(torch.tensor([[2.0, -1.2, 0.3, -0.5]]))
    torch.testing.assert_close(first, torch.tensor([[1.0625, -0.6375, 0.9, 0.6]]))
    torch.testing.assert_close(second, torch.tensor([[0.9375, -0.5625, -0.6, -1.1]]))


def test_the_halves_add_up_to_the_ternary_value_and_to_the_weight() -> None:
    weight = torch.randn(7, 65, generator=torch.Generator().manual_seed(1))
    ternary = WeightQuantizer(Encoding.TERNARY, center=False, method="l2")(weight).value
    halves = split_ternary(weight)
    binary = WeightQuantizer(Encoding.BINARY, center=False, method="l2")
    torch.testing.assert_close(sum(binary(half).value for half in halves), ternary, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sum(halves), weight)
    for half in halves:
        torch.testing.assert_close(binary(half).scale, 0.5 * ternary.abs().amax(1, keepdim=True))


def test_both_halves_train() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 9, generator=torch.Generator().manual_seed(2)))
    ternary = WeightQuantizer(Encoding.TERNARY, center=False, method="l2")(weight.detach()).value
    quantizer = SplitWeightQuantizer(3, 9)
    quantizer.split(weight)
    value, scale = quantizer(weight)
    assert scale is None
    torch.testing.assert_close(value, ternary)
    value.backward(torch.ones(3, 9))
    torch.testing.assert_close(weight.grad, torch.ones(3, 9))
    torch.testing.assert_close(quantizer.second.grad, torch.ones(3, 9))
