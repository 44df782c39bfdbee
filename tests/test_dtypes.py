"""Half- and double-precision models: quantized products stay exact, frozen models compute in float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import MLP, bart, batch, llama, t5
from torch import Tensor, nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import Encoding
from tbt_compile.adapters import call_record
from tbt_compile.errors import LoweringError, PlanError
from tbt_compile.modules import iter_quantized
from tbt_compile.ops.quantize import unpack
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer, quantized_linear, quantized_matmul

HALVES = (torch.bfloat16, torch.float16)


def trained(model: PreTrainedModel, recipe: str = "2-2-2") -> PreTrainedModel:
    """A prepared model after one step of training."""
    tbt_compile.prepare(model, recipe).train()
    model(**batch(model)).loss.backward()
    return model.eval()


def logits(model: Any, source: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**batch(source)).logits


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [bart, t5, llama])
def test_a_half_precision_model_trains_and_freezes(make: Any, dtype: torch.dtype) -> None:
    model = trained(make(layers=1).to(dtype))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith(".scale") else dtype), name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert logits(model, model).dtype == dtype
    frozen = tbt_compile.freeze(model)
    assert frozen.dtypes == [str(dtype).removeprefix("torch.")]
    assert frozen.module.config.dtype in (None, torch.float32)
    assert {t.dtype for t in frozen.module.parameters() if t.is_floating_point()} == {torch.float32}
    assert torch.equal(logits(frozen.module, model), logits(copy.deepcopy(model).float(), model))
    assert next(model.parameters()).dtype == dtype  # the prepared model is left alone


@pytest.mark.parametrize("dtype", HALVES)
def test_codes_do_not_change_by_freezing(dtype: torch.dtype) -> None:
    model = trained(bart(layers=1).to(dtype))
    frozen = dict(iter_quantized(tbt_compile.freeze(model).module))
    for name, module in iter_quantized(model):
        if hasattr(module, "weight_quantizer"):
            packed = frozen[name].weight_quantizer
            expected = module.weight_quantizer(module.weight_rows)
            codes = unpack(packed.packed, packed.encoding.value, packed.columns)
            assert torch.equal(codes, expected.codes.float()), name
            assert torch.equal(packed.scale, expected.scale), name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [False, True])
def test_sums_of_codes_are_exact(dtype: torch.dtype, autocast: bool) -> None:
    """Sums of 700 products of 8-bit codes have more bits than half precision holds."""
    x, weight = torch.randn(5, 700), torch.randn(11, 700)
    operand = torch.float32 if autocast else dtype
    activation = ActivationQuantizer(Encoding.INT8)(x.to(operand))
    quantized = WeightQuantizer(Encoding.INT8)(weight.to(operand))
    assert activation.scale is not None
    assert quantized.scale is not None
    exact = activation.codes.double() @ quantized.codes.double().T
    expected = (exact.float() * (activation.scale * quantized.scale.T)).to(operand)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        assert torch.equal(quantized_linear(activation, quantized, None), expected)
        assert torch.equal(quantized_matmul(activation, quantized, True), expected)


def test_float32_parameters_train_under_autocast() -> None:
    model = tbt_compile.prepare(bart(layers=1), "2-2-2").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch(model)).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert tbt_compile.freeze(model).dtypes == ["float32"]


def test_scales_stay_float32_when_the_model_is_converted() -> None:
    model = trained(bart(layers=1))
    scales = {name: value for name, value in model.state_dict().items() if name.endswith(".scale")}
    converted = copy.deepcopy(model).bfloat16().half().to(torch.float64).state_dict()
    assert scales
    assert all(torch.equal(converted[name], scale) for name, scale in scales.items())
    assert all(converted[name].dtype == torch.float32 for name in scales)


class Mixed(nn.Module):
    """A linear layer in bfloat16 behind a normalisation in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 40).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.float()).to(self.head.weight.dtype))


def test_models_of_several_dtypes() -> None:
    x = torch.randn(3, 8)
    model = tbt_compile.prepare(Mixed(), "2-2-2", x)
    assert model(x).dtype == torch.bfloat16
    frozen = tbt_compile.freeze(model)
    assert frozen.dtypes == ["bfloat16", "float32"]
    assert frozen(x).dtype == torch.float32
    torch.testing.assert_close(frozen(x), model(x).float(), rtol=0.02, atol=0.02)


def test_a_module_in_double_precision() -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    model = tbt_compile.prepare(MLP().double(), "2-2-2", x)
    expected = model.eval()(x)
    assert expected.dtype == torch.float64
    frozen = tbt_compile.freeze(model)
    torch.testing.assert_close(frozen(x), expected.float())
    assert frozen.dtypes == ["float64"]


def test_a_frozen_module_takes_float32(tmp_path: Path) -> None:
    x = torch.randn(3, 8).bfloat16()
    model = tbt_compile.prepare(MLP().bfloat16(), "2-2-2", x)
    model(x)
    frozen = tbt_compile.freeze(model)
    assert frozen(x).dtype == torch.float32
    assert torch.equal(frozen(x), frozen(x.float()))
    assert call_record.example_call(frozen.module)["x"].dtype == torch.float32
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"), model=MLP().bfloat16())
    assert loaded.dtypes == ["bfloat16"]
    assert torch.equal(loaded(x), frozen(x))


class Rounding(nn.Module):
    """Rounds to bfloat16, whatever the model is in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).to(torch.bfloat16).float()


def test_casts_that_a_compiler_would_drop_are_refused() -> None:
    x = torch.randn(3, 8)
    model = tbt_compile.prepare(nn.Sequential(Rounding()), "2-2-2", (x,))
    model(x)
    with pytest.raises(
        LoweringError, match="module '0' casts to bfloat16 in its forward .* compute in float32"
    ):
        tbt_compile.lower(tbt_compile.freeze(model))
    model = tbt_compile.prepare(Rounding(), "2-2-2", (x,))
    model(x)
    with pytest.raises(LoweringError, match="^Rounding casts to bfloat16 in its forward"):
        tbt_compile.lower(tbt_compile.freeze(model))


class Autocast(nn.Module):
    """Turns autocast on in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def test_autocast_in_a_forward_is_named() -> None:
    x = torch.randn(3, 8)
    with pytest.raises(
        PlanError, match="nothing to quantize outside torch.autocast, which its forward turns on"
    ):
        tbt_compile.plan(Autocast(), "2-2-2", x)
    plan = tbt_compile.plan(nn.Sequential(nn.Linear(8, 8), Autocast()), "2-2-2", x)
    reasons = {item.name: item.reason for item in plan.unquantized}
    assert "under torch.autocast" in reasons["1.inner.weight"]
    assert "module '1' (Autocast) turns torch.autocast on in its forward" in plan.refused[0]
    model = tbt_compile.prepare(nn.Sequential(nn.Linear(8, 8), Autocast()), "2-2-2", x)
    model(x)
    with pytest.raises(LoweringError, match="turns torch.autocast on in its forward: what runs under it"):
        tbt_compile.lower(tbt_compile.freeze(model))


def test_quantized_checkpoints_are_refused() -> None:
    model = MLP()
    model.first.weight = nn.Parameter(torch.ones(16, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(PlanError, match="the weight of first in MLP is int8: expected one in full or half"):
        tbt_compile.prepare(model, "2-2-2", torch.randn(3, 8))
    model.first.weight = nn.Parameter(torch.ones(16, 8).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(PlanError, match="is float8_e4m3fn"):
        tbt_compile.plan(model, "2-2-2", torch.randn(3, 8))
    loaded: Any = bart(layers=1)
    loaded.hf_quantizer = object()
    with pytest.raises(PlanError, match="loaded with a quantization config: load it in float32"):
        tbt_compile.prepare(loaded)
