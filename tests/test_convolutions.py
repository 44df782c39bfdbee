"""Convolutions as products: what is quantized, what stays and why, and the windows that are multiplied."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from call_models import IMAGE, Features
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import BRIEF
from torch import Tensor, nn

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.errors import PlanError
from tbt_compile.modules.products import Contraction, contraction
from tbt_compile.ops.convolutions import Geometry

CONV = Recipe.parse("2-2-2", conv=True)
OFF = "convolutions stay fp32; conv=True in the recipe quantizes them"
DEPTHWISE = "depthwise convolutions stay fp32: no single matrix multiplies all channels"


def kept(model: nn.Module, recipe: Recipe | str, x: Tensor) -> dict[str, str]:
    return {item.name: item.reason for item in tbt_compile.plan(model, recipe, x).unquantized}


def test_sites_are_named_after_their_calls_and_see_signs_through_padding() -> None:
    sites = {site.fqn: site for site in tbt_compile.plan(Features(), CONV, IMAGE)}
    assert {name: site.kind.value for name, site in sites.items()} == {
        "features.0.tbt_calls.0": "convolution",
        "features.3.tbt_calls.0": "linear",
        "features.6.tbt_calls.0": "convolution",
        "rows.tbt_calls.0": "convolution",
        "head": "linear",
    }
    signs = {name: site.operand("input").encoding.value for name, site in sites.items()}
    assert [name for name, sign in signs.items() if sign == "ternary012"] == [
        "features.3.tbt_calls.0",
        "head",
    ]
    assert sites["features.0.tbt_calls.0"].shape == (8, 27)
    assert sites["rows.tbt_calls.0"].shape == (6, 36)


def test_by_default_only_pointwise_convolutions_are_quantized() -> None:
    plan = tbt_compile.plan(Features(), "2-2-2", IMAGE)
    assert [site.fqn for site in plan] == ["features.3.tbt_calls.0", "head"]
    reasons = {item.name: item.reason for item in plan.unquantized}
    weights = ("features.0.weight", "features.6.weight", "rows.weight")
    assert {name: reasons[name] for name in weights} == dict.fromkeys(weights, OFF)
    assert reasons["features.5.weight"] == DEPTHWISE
    assert kept(Features(), CONV, IMAGE)["features.5.weight"] == DEPTHWISE
    assert OFF not in kept(Features(), CONV, IMAGE).values()


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(3, 4, 1, stride=(1, 2)), "linear"),
        (nn.Conv2d(3, 4, 1, padding="valid", dilation=3), "linear"),
        (nn.Conv2d(3, 4, 1, padding=(0, 1)), "convolution"),
        (nn.Conv2d(3, 4, (1, 2)), "convolution"),
    ],
)
def test_what_counts_as_pointwise(layer: nn.Module, kind: str) -> None:
    (site,) = tbt_compile.plan(layer, CONV, IMAGE)
    assert site.kind.value == kind


VOLUME = torch.randn(2, 4, 5, 5, 5)
KEPT: dict[str, tuple[nn.Module, Tensor, str]] = {
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), VOLUME[..., 0], "depthwise convolutions stay fp32"),
    "grouped": (nn.Conv1d(4, 4, 1, groups=2), VOLUME[..., 0, 0], "grouped convolutions stay fp32"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), VOLUME[..., 0], "transposed convolutions stay fp32"),
    "transposed 1d": (nn.ConvTranspose1d(4, 4, 3), VOLUME[..., 0, 0], "transposed convolutions stay fp32"),
    "volumes": (nn.Conv3d(4, 4, 3), VOLUME, "convolutions over other than one or two dimensions stay fp32"),
    "transposed volumes": (nn.ConvTranspose3d(4, 4, 1), VOLUME, "transposed convolutions stay fp32"),
}


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("case", KEPT)
def test_convolutions_without_a_quantized_form_stay_and_say_why(case: str, decomposed: bool) -> None:
    layer, x, reason = KEPT[case]
    model = nn.Sequential(layer, nn.Linear(layer(x).shape[-1], 2)).eval()
    if decomposed:
        model = torch.export.export(model, (x,)).run_decompositions().module()
    for recipe in ("2-2-2", CONV):
        assert kept(model, recipe, x)["0.weight"].startswith(reason)


def test_a_model_of_convolutions_that_are_kept_is_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    message = "or convolutions and conv=True in the recipe, but all 2 candidates are excluded or kept"
    with pytest.raises(PlanError, match=message):
        tbt_compile.plan(model, "2-2-2", IMAGE)
    assert len(tbt_compile.plan(model, CONV, IMAGE).sites) == 2


def test_a_convolution_with_another_kernel_each_time_is_refused_only_if_quantized() -> None:
    class Shared(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return F.conv2d(x, w, padding=1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = Shared(), nn.Linear(8, 2)
            self.weights = nn.ParameterList(nn.Parameter(torch.randn(3, 3, 3, 3)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = self.shared(x, weight)
            return self.head(x)

    assert [kept(Model(), "2-2-2", IMAGE)[f"weights.{number}"] for number in (0, 1)] == [OFF, OFF]
    with pytest.raises(PlanError, match="conv2d is another product each time that the module runs"):
        tbt_compile.plan(Model(), CONV, IMAGE)


def test_layers_that_run_twice_are_one_site_whether_they_stay_or_not() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped, self.inner = nn.Conv2d(4, 4, 3, groups=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.inner(self.grouped(x))
            return self.head(x)

    x = torch.randn(2, 4, 9, 8)
    plan = tbt_compile.plan(Model(), CONV, x)
    assert [site.fqn for site in plan] == ["inner.tbt_calls.0", "head"]
    assert [item.name for item in plan.unquantized if "convolution" in item.reason] == ["grouped.weight"]


def test_the_recipe_goes_through_json_and_is_checked() -> None:
    assert "conv" not in Recipe.parse("2-2-2").to_dict()
    assert Recipe.from_dict(CONV.to_dict()) == CONV
    assert repr(CONV) == "Recipe.parse('2-2-2', conv=True)"
    plan = tbt_compile.plan(Features(), CONV, IMAGE)
    assert tbt_compile.QuantPlan.from_dict(plan.to_dict()) == plan


def test_training_updates_weights_scales_and_statistics() -> None:
    torch.manual_seed(0)
    model = tbt_compile.prepare(Features(), CONV, IMAGE).train()
    assert isinstance(model.features[0], nn.Conv2d)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm, losses = model.features[1], []
    for _ in range(3):
        loss = (model(IMAGE) - 1).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(a > b for a, b in pairwise(losses))
    assert norm.num_batches_tracked == 3
    assert norm.running_mean.abs().max() > 0
    other = torch.randn(3, 3, 12, 7)
    assert model(other).shape == (3, 5)  # any size in eager mode


def test_no_float_kernel_of_a_quantized_convolution_is_kept() -> None:
    model = tbt_compile.prepare(Features(), CONV, IMAGE)
    model(IMAGE)
    frozen = tbt_compile.freeze(model.eval())
    names = [name for name, _ in frozen.module.named_parameters() if name.endswith(".weight")]
    assert names == ["features.1.weight", "features.5.weight"]


SIZES, STEPS = st.integers(1, 3), st.integers(1, 3)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Tensor, tuple[object, ...]]:
    """The name, the input and the other arguments of a convolution that has at least one position."""
    rank = draw(st.integers(1, 2))
    kernel = [draw(SIZES) for _ in range(rank)]
    dilation = [draw(STEPS) for _ in range(rank)]
    stride: object = [draw(STEPS) for _ in range(rank)]
    padding: object = draw(st.sampled_from(["same", "valid"]) | st.just([draw(st.integers(0, 2))] * rank))
    if padding == "same":
        stride = 1
    sizes = [
        gap * (size - 1) + 1 + draw(st.integers(0, 5)) for gap, size in zip(dilation, kernel, strict=True)
    ]
    channels, outputs = draw(SIZES), draw(SIZES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    lead = draw(st.sampled_from([(), (1,), (2,)]))
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((*lead, channels, *sizes), (outputs, channels, *kernel), (outputs,))
    )
    return f"conv{rank}d", x, (weight, draw(st.sampled_from([bias, None])), stride, padding, dilation)


@BRIEF
@given(calls())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_the_product_of_windows_is_the_convolution(call: tuple[str, Tensor, tuple[object, ...]]) -> None:
    name, x, args = call
    for dtype in (torch.float64, torch.float32):
        given_args = [each.to(dtype) if isinstance(each, Tensor) else each for each in (x, *args)]
        found = contraction(name, given_args, {})
        assert isinstance(found, Contraction)
        assert found.left.is_contiguous()
        result = found.finish(F.linear(found.left, found.right))
        assert result.is_contiguous()
        torch.testing.assert_close(result, getattr(F, name)(*given_args))


def test_a_pointwise_convolution_copies_nothing_but_the_order() -> None:
    geometry = Geometry.of((1, 1), 1, 0, 1)
    x = IMAGE.to(memory_format=torch.channels_last)
    assert geometry.windows(x).data_ptr() == x.data_ptr()
    assert torch.equal(geometry.windows(IMAGE), IMAGE.permute(0, 2, 3, 1))
