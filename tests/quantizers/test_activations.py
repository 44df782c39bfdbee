"""Activation quantizers against references written from Eq. 11-14, element by element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers import ActivationQuantizer

LEARNED = [Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012]


def equation_11_13(value: float, scale: float, encoding: Encoding) -> int:
    """The code of one (centred) value; Python rounds half to even, as the paper's brackets do here."""
    if encoding is Encoding.BINARY:
        return 1 if value >= 0 else -1
    return round(max(encoding.minimum, min(encoding.maximum, value / scale)))


def equation_12_14(value: float, scale: float, encoding: Encoding) -> float:
    """d value / d scale of one (centred) value."""
    code = equation_11_13(value, scale, encoding)
    if encoding is Encoding.BINARY:
        return float(code)
    inside = encoding.minimum * scale <= value <= encoding.maximum * scale
    return code - value / scale * inside


def make(encoding: Encoding, scale: float, center: bool = False) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(encoding, center=center)
    quantizer.set_scale(scale)
    return quantizer


@given(
    seed=st.integers(0, 2**31),
    columns=st.sampled_from([1, 63, 65, 100]),
    encoding=st.sampled_from(LEARNED),
    scale=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
)
def test_codes_follow_the_equations_ties_included(seed, columns, encoding, scale):
    # Multiples of an eighth meet every threshold exactly, so that ties are tested too.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-24, 25, (3, columns), generator=generator) / 8.0
    codes = make(encoding, scale)(x).codes
    expected = [[equation_11_13(value, scale, encoding) for value in row] for row in x.tolist()]
    assert codes.int().tolist() == expected


@pytest.mark.parametrize("encoding", LEARNED)
def test_gradients_are_equations_12_and_14(encoding):
    generator = torch.Generator().manual_seed(1)
    scale = 0.7
    x = torch.randn(4, 50, generator=generator, requires_grad=True)
    upstream = torch.randn(4, 50, generator=generator)
    quantizer = make(encoding, scale)
    (quantizer(x).value * upstream).sum().backward()
    factor = 1 / math.sqrt(x.numel() * encoding.maximum)
    pairs = list(zip(x.flatten().tolist(), upstream.flatten().tolist(), strict=True))
    expected = sum(up * equation_12_14(value, scale, encoding) for value, up in pairs) * factor
    assert quantizer.scale.grad.item() == pytest.approx(expected, rel=1e-4)
    low, high = encoding.minimum * scale, encoding.maximum * scale
    passed = [up if low <= value <= high else 0.0 for value, up in pairs]
    assert x.grad.flatten().tolist() == pytest.approx(passed, rel=1e-5)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY])
def test_centring_is_per_token(encoding):
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2)) + 2
    quantizer = make(encoding, 0.8, center=True)
    together = quantizer(x).codes
    assert torch.equal(together, make(encoding, 0.8)(x - x.mean(-1, keepdim=True)).codes)
    assert torch.equal(together[1:2, 2:4], quantizer(x[1:2, 2:4]).codes)


@pytest.mark.parametrize("encoding", [Encoding.BINARY01, Encoding.TERNARY012])
def test_non_negative_categories_are_never_centred(encoding):
    assert not ActivationQuantizer(encoding, center=True).center


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.UINT8])
def test_eight_bits_use_the_peak_of_each_token(encoding):
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
    x[0] = 0
    codes, scale = ActivationQuantizer(encoding)(x)
    for row, found, found_scale in zip(x, codes, scale, strict=True):
        source = row if encoding.signed else row.clamp_min(0)
        peak = source.abs().max()
        assert found_scale.item() == (peak / encoding.maximum).item()
        inverse = encoding.maximum / peak if peak > 0 else torch.tensor(0.0)
        assert torch.equal(found, torch.round(source * inverse))


def test_eight_bit_gradient_passes_through():
    x = torch.tensor([[1.0, -0.5, 0.0, 0.25]], requires_grad=True)
    ActivationQuantizer(Encoding.INT8)(x).value.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    x.grad = None
    ActivationQuantizer(Encoding.UINT8)(x).value.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, 0.0, 1.0, 1.0]]))


def test_the_initial_scale_is_saved_and_loaded():
    first = ActivationQuantizer(Encoding.TERNARY, center=False)
    first(torch.tensor([[1.0, -1.0, 0.0, 2.0]]))
    assert first.scale.item() == pytest.approx(2 * 4 / 3)
    second = ActivationQuantizer(Encoding.TERNARY, center=False)
    second.load_state_dict(first.state_dict())
    second(torch.full((1, 4), 100.0))
    assert second.scale.item() == first.scale.item()


@given(seed=st.integers(0, 2**31), encoding=st.sampled_from(LEARNED), softmax=st.booleans())
def test_an_initial_scale_of_least_squares_is_the_best_for_its_codes(seed, encoding, softmax):
    x = torch.randn(6, 30, generator=torch.Generator().manual_seed(seed))
    x = torch.softmax(2 * x, -1) if softmax else x if encoding.signed else x.abs()
    error = {}
    for kind in ("magnitude", "l2"):
        quantizer = ActivationQuantizer(encoding, center=False, initial_scale=kind)
        codes, scale = quantizer(x)
        error[kind] = (codes * scale - x).square().sum().item()
    assert error["l2"] <= error["magnitude"] * (1 + 1e-5)
    # For given codes the error is a parabola over the scale.
    assert scale.item() == pytest.approx(((x * codes).sum() / codes.square().sum()).item(), rel=1e-4)


def test_an_initial_scale_of_least_squares_needs_a_code_that_is_not_zero():
    quantizer = ActivationQuantizer(Encoding.BINARY01, initial_scale="l2")
    quantizer(torch.tensor([[-1.0, -3.0, 0.0]]))
    assert quantizer.scale.item() == 2.0


def test_a_scale_at_its_lower_bound_can_grow_again():
    quantizer = make(Encoding.TERNARY, 1.0)
    with torch.no_grad():
        quantizer.scale.fill_(-1.0)
    value = quantizer(torch.tensor([[1.0, -1.0]])).value
    value.backward(torch.tensor([[-1.0, 1.0]]))
    assert torch.isfinite(value).all() and quantizer.scale.grad.item() < 0


def test_the_statistical_baseline_quantizes_each_token_by_equations_1_to_3():
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(4))
    codes, scale = ActivationQuantizer(Encoding.TERNARY012, center=False, method="statistical")(x)
    for row, found, found_scale in zip(x.tolist(), codes.tolist(), scale.flatten().tolist(), strict=True):
        delta = 0.7 * sum(map(abs, row)) / len(row)
        kept = [abs(value) for value in row if abs(value) > delta]
        assert found == [(value > delta) - (value < -delta) for value in row]
        assert found_scale == pytest.approx(sum(kept) / len(kept), rel=1e-6)


def test_the_statistical_baseline_centres_tokens_first_if_asked():
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(4)) + 2
    found = ActivationQuantizer(Encoding.TERNARY, method="statistical")(x)
    plain = ActivationQuantizer(Encoding.TERNARY, center=False, method="statistical")
    expected = plain(x - x.mean(-1, keepdim=True))
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.scale, expected.scale)


@pytest.mark.parametrize(("encoding", "factor"), [(Encoding.BINARY, 1), (Encoding.TERNARY, 2)])
def test_the_first_scale_is_that_of_the_centred_values(encoding, factor):
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(5)) + 3
    quantizer = ActivationQuantizer(encoding)
    quantizer(x)
    expected = factor * (x - x.mean(-1, keepdim=True)).abs().mean()
    assert quantizer.scale.item() == pytest.approx(expected.item(), rel=1e-6)


def test_32_bits_return_the_tensor_itself():
    x = torch.randn(2, 3)
    assert ActivationQuantizer(Encoding.FLOAT)(x) == (x, None)


def test_signs_and_bools_have_no_scale_and_stop_gradients_beyond_one():
    for encoding, codes in ((Encoding.BINARY, [[-1, -1, 1, 1, 1]]), (Encoding.BINARY01, [[0, 0, 1, 1, 1]])):
        x = torch.tensor([[-2.0, -0.5, 0.0, 1.0, 1.5]], requires_grad=True)
        found, scale = ActivationQuantizer(encoding, method="sign")(x)
        assert found.tolist() == codes
        assert scale.item() == 1.0
        found.backward(torch.full((1, 5), 3.0))
        assert x.grad.tolist() == [[0, 3, 3, 3, 0]]


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.UINT8])
def test_rows_too_small_for_a_scale_are_zeros(encoding):
    x = torch.tensor([[0.0, 1e-39, 4e-37], [0.0, 0.0, 0.0], [0.0, 1.0, 0.5]])
    codes, scales = ActivationQuantizer(encoding)(x)
    assert codes[:2].eq(0).all()
    assert codes[2].tolist() == [0, encoding.maximum, (encoding.maximum + 1) // 2]
    assert scales.isfinite().all()


def test_scales_that_were_saved_as_scalars_load() -> None:
    quantizer = ActivationQuantizer(Encoding.TERNARY)
    quantizer.load_state_dict({"scale": torch.tensor(0.5), "initialized": torch.tensor(True)})
    assert quantizer.scale.tolist() == [0.5]


@pytest.mark.parametrize(
    ("encoding", "low", "high"),
    [
        (Encoding.BINARY, -2.0, 2.0),
        (Encoding.TERNARY, -1.5, 1.5),
        (Encoding.BINARY01, -0.5, 1.5),
        (Encoding.TERNARY012, -0.5, 2.5),
    ],
)
def test_the_trust_gradient_passes_within_half_a_step_of_a_level(encoding, low, high):
    scale = 0.5
    x = (torch.arange(-24, 25) / 10.0)[None].requires_grad_()
    quantizer = ActivationQuantizer(encoding, center=False, ste="trust")
    quantizer.set_scale(scale)
    quantizer(x).value.sum().backward()
    values = x.detach()[0].tolist()
    assert x.grad[0].tolist() == pytest.approx([float(low * scale <= v <= high * scale) for v in values])
    # The gradient to the scale is that of Eq. 12 and 14 in any case.
    factor = 1 / math.sqrt(x.numel() * encoding.maximum)
    expected = sum(equation_12_14(value, scale, encoding) for value in values) * factor
    assert quantizer.scale.grad.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("encoding", LEARNED)
@pytest.mark.parametrize("center", [False, True])
def test_an_offset_shifts_what_is_rounded_and_is_learned(encoding, center):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 50, generator=generator, requires_grad=True)
    upstream = torch.randn(4, 50, generator=generator)
    shifted = ActivationQuantizer(encoding, center=center, offset=True)
    plain = ActivationQuantizer(encoding, center=False)
    for quantizer in (shifted, plain):
        quantizer.set_scale(0.7)
    assert torch.equal(shifted(x).value, plain(x).value)
    with torch.no_grad():
        shifted.offset.fill_(0.3)
    unshifted = ActivationQuantizer(encoding, center=False)
    unshifted.set_scale(0.7)
    moved = (x - 0.3).detach().requires_grad_()
    assert torch.equal(shifted(x).codes, unshifted(moved).codes)
    (shifted(x).value * upstream).sum().backward()
    (unshifted(moved).value * upstream).sum().backward()
    factor = 1 / math.sqrt(x.numel() * encoding.maximum)
    assert shifted.offset.grad.item() == pytest.approx(-moved.grad.sum().item() * factor, rel=1e-4)
    assert shifted.scale.grad.item() == pytest.approx(unshifted.scale.grad.item(), rel=1e-5)
