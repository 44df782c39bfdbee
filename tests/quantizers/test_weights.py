"""Weight quantizers against references written from the equations, element by element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers import WeightQuantizer
from tbt_compile.quantizers.weights import CACHED, row_blocks

ENCODINGS = [Encoding.BINARY, Encoding.TERNARY]


def equation_8_9(row: list[float], encoding: Encoding, center: bool) -> tuple[list[int], float, list[float]]:
    """Codes, scale and X - mean of one row, straight from Eq. 8 and 9, in double precision."""
    mean = math.fsum(row) / len(row) if center else 0.0
    centered = [value - mean for value in row]
    l1 = math.fsum(abs(value) for value in centered) / len(row)
    if encoding is Encoding.BINARY:
        return [1 if value >= 0 else -1 for value in centered], l1, centered
    scale = 4.0 / 3.0 * l1
    return [round(max(-1.0, min(1.0, value / scale))) if scale else 0 for value in centered], scale, centered


def random_weight(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) + 0.3


@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([1, 7, 50]),
    columns=st.sampled_from([2, 63, 65, 100]),
    encoding=st.sampled_from(ENCODINGS),
    center=st.booleans(),
)
def test_codes_and_scale_follow_the_equations(seed, rows, columns, encoding, center):
    weight = random_weight(seed, rows, columns)
    codes, scale = WeightQuantizer(encoding, center=center)(weight)
    assert scale.shape == (rows, 1)
    for index, row in enumerate(weight.double().tolist()):
        expected, expected_scale, centered = equation_8_9(row, encoding, center)
        assert scale[index].item() == pytest.approx(expected_scale, rel=1e-6)
        # An element within rounding of a threshold may fall on either side of it.
        threshold = 0.0 if encoding is Encoding.BINARY else 0.5 * expected_scale
        sure = [abs(abs(value) - threshold) > 1e-6 for value in centered]
        found = codes[index].int().tolist()
        assert [code for code, ok in zip(found, sure, strict=True) if ok] == [
            code for code, ok in zip(expected, sure, strict=True) if ok
        ]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ste", ["clipped", "identity"])
def test_gradient_is_equation_10(encoding, ste):
    weight = random_weight(3, 5, 33).requires_grad_()
    upstream = random_weight(4, 5, 33)
    quantizer = WeightQuantizer(encoding, ste="".join(list(ste)))  # another object, as from a file
    (quantizer(weight).value * upstream).sum().backward()
    for index, row in enumerate(weight.detach().double().tolist()):
        _, scale, centered = equation_8_9(row, encoding, center=True)
        for column, value in enumerate(centered):
            passes = ste == "identity" or abs(value / scale) < 1
            expected = upstream[index, column].item() if passes else 0.0
            assert weight.grad[index, column].item() == pytest.approx(expected, rel=1e-5)


def test_twn_follows_equations_1_to_3():
    weight = random_weight(5, 4, 40)
    codes, scale = WeightQuantizer(Encoding.TERNARY, method="l2", center=False)(weight)
    for index, row in enumerate(weight.tolist()):
        delta = 0.7 * sum(abs(value) for value in row) / len(row)
        kept = [value for value in row if abs(value) > delta]
        assert codes[index].tolist() == [(value > delta) - (value < -delta) for value in row]
        assert scale[index].item() == pytest.approx(sum(abs(value) for value in kept) / len(kept), rel=1e-6)


def test_bwn_follows_equations_4_and_5():
    weight = random_weight(6, 4, 40)
    codes, scale = WeightQuantizer(Encoding.BINARY, method="l2", center=False)(weight)
    assert torch.equal(codes, torch.where(weight >= 0, 1.0, -1.0))
    torch.testing.assert_close(scale, weight.abs().mean(1, keepdim=True))


def test_eight_bits_round_to_the_largest_magnitude_of_the_row():
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0]], requires_grad=True)
    codes, scale = WeightQuantizer(Encoding.INT8)(weight)
    assert codes.tolist() == [[127.0, -64.0, 32.0], [0.0, 0.0, 0.0]]
    assert scale.tolist() == [[pytest.approx(1 / 127)], [0.0]]


def test_constant_rows_give_finite_values_and_gradients():
    weight = torch.full((2, 8), 0.5, requires_grad=True)
    for encoding in ENCODINGS:
        value = WeightQuantizer(encoding)(weight).value
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(weight.grad).all()


def test_32_bits_return_the_weight_itself():
    weight = random_weight(7, 3, 3)
    codes, scale = WeightQuantizer(Encoding.FLOAT)(weight)
    assert codes is weight and scale is None


def test_biberts_weights_are_zero_mean_signs_with_the_scale_of_the_weight_itself() -> None:
    weight = torch.tensor([[3.0, 1.0, 0.5, -0.5]])  # mean 1, mean magnitude 1.25
    codes, scale = WeightQuantizer(Encoding.BINARY, method="sign")(weight)
    assert codes.tolist() == [[1, 1, -1, -1]]
    assert scale.tolist() == [[1.25]]


@pytest.mark.parametrize(("encoding", "reach"), [(Encoding.BINARY, 2.0), (Encoding.TERNARY, 1.5)])
@pytest.mark.parametrize("method", ["stats", "l2"])
def test_the_trust_gradient_passes_within_half_a_step_of_a_level(encoding, reach, method):
    weight = torch.randn(3, 60, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantizer = WeightQuantizer(encoding, method=method, ste="trust")
    quantized = quantizer(weight)
    quantized.value.sum().backward()
    centered = (weight - weight.mean(-1, keepdim=True)).detach()
    distance = (centered - quantized.value.detach()).abs()
    half_step = quantized.scale * (1.0 if encoding is Encoding.BINARY else 0.5)
    clear = (distance - half_step).abs() > 1e-5
    if method == "stats":  # the threshold of Eq. 1 is not half a scale
        assert torch.equal(weight.grad.bool()[clear], (distance <= half_step)[clear])
    assert torch.equal(weight.grad.bool(), centered.abs() <= reach * quantized.scale)


@pytest.mark.parametrize("encoding", [*ENCODINGS, Encoding.INT8])
@pytest.mark.parametrize("method", ["stats", "l2", "sign"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_large_weights_are_quantized_in_blocks_of_rows(encoding, method, dtype):
    weight = random_weight(3, 7, CACHED // 2 - 5).to(dtype).requires_grad_()
    assert len(list(row_blocks(weight))) == 4
    quantizer = WeightQuantizer(encoding, method=method, ste="clipped")
    codes, scale = quantizer(weight)
    (codes.float() * torch.arange(7)[:, None]).sum().backward()
    assert codes.dtype == dtype
    for index, row in enumerate(weight.detach()):
        alone = row[None].clone().requires_grad_()
        assert len(list(row_blocks(alone))) == 1
        row_codes, row_scale = quantizer(alone)
        (row_codes.float() * index).sum().backward()
        assert torch.equal(codes[index], row_codes[0])
        assert torch.equal(scale[index], row_scale[0])
        assert torch.equal(weight.grad[index], alone.grad[0])


def test_rows_longer_than_a_block_are_blocks_of_their_own():
    assert list(row_blocks(torch.empty(2, 2 * CACHED))) == [slice(0, 1), slice(1, 2)]
