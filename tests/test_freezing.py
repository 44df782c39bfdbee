"""Freezing: the same numbers as the prepared model, from packed codes alone."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, MLP, Classifier, bart, batch, generate, gpt2, llama
from torch import Tensor, nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import Encoding, FrozenModel
from tbt_compile.errors import PlanError
from tbt_compile.modules import frozen as frozen_modules
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight
from tbt_compile.modules.packed_view import PackedView
from tbt_compile.ops.quantize import unpack
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer

RECIPES = (
    "1-1-1",
    "2-2-8",
    "8-8-8",
    "1-2-8",
    "2-2-32",
    "32-2-2",
    "32-32-32",
    "tbt-released-1-1-1",
    "twn-2-2-2",
)


def trained(model: PreTrainedModel, recipe: str | tbt_compile.Recipe) -> PreTrainedModel:
    """A prepared model whose scales come from one batch in training mode."""
    tbt_compile.prepare(model, recipe).train()
    model(**batch(model))
    return model.eval()


def logits(model: Any, source: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**batch(source)).logits


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The float weights that are quantized, by every name they have."""
    quantized = {
        id(module.weight)
        for _, module in iter_quantized(model)
        if hasattr(module, "weight_quantizer") and module.weight_quantizer.encoding.quantized
    }
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if id(parameter) in quantized}


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_equals_prepared_and_holds_no_float_weight(family: str) -> None:
    model = trained(FAMILIES[family](layers=1), "2-2-2")
    frozen = tbt_compile.freeze(model)
    assert torch.equal(logits(frozen.module, model), logits(model, model))
    assert torch.equal(generate(frozen.module), generate(model))

    weights = weights_of(model)
    left = dict(frozen.module.named_parameters(remove_duplicate=False))
    before = dict(model.named_parameters(remove_duplicate=False))
    plain = {name for name in before if name not in weights and not name.endswith(".scale")}
    added = left.keys() - plain
    assert plain <= left.keys()
    assert all(name.endswith(("_quantizer.packed", ".scale")) for name in added)
    assert not [name for name in weights if name in left]
    rows = max(weight.shape[0] for weight in weights.values())
    for name, parameter in left.items():
        if name in added and parameter.is_floating_point():
            assert parameter.numel() <= rows, name  # scales only
    shapes = {weight.shape for weight in weights.values()}
    for name, tensor in frozen.module.named_buffers():
        assert not tensor.is_floating_point() or tensor.shape not in shapes, name
    assert not [m for m in frozen.module.modules() if isinstance(m, (WeightQuantizer, ActivationQuantizer))]
    assert not any(parameter.requires_grad for parameter in left.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_kind_of_recipe_freezes_exactly(recipe: str) -> None:
    model = trained(bart(layers=1), recipe)
    frozen = tbt_compile.freeze(model)
    assert frozen.recipe == tbt_compile.Recipe.parse(recipe)
    assert torch.equal(logits(frozen.module, model), logits(model, model))
    floats = weights_of(model)
    assert not floats.keys() & dict(frozen.module.named_parameters(remove_duplicate=False)).keys()


def test_packed_codes_are_those_of_training() -> None:
    model = trained(bart(layers=1), "1-2-2")
    frozen = tbt_compile.freeze(model)
    prepared = dict(iter_quantized(model))
    seen = 0
    for name, module in iter_quantized(frozen.module):
        if isinstance(getattr(module, "weight_quantizer", None), FrozenWeight):
            packed = module.weight_quantizer
            expected = prepared[name].weight_quantizer(prepared[name].weight_rows)
            codes = unpack(packed.packed, packed.encoding.value, packed.columns)
            assert torch.equal(codes, expected.codes), name
            assert torch.equal(packed.scale, expected.scale), name
            assert packed.packed.shape == (len(codes), packed.encoding.planes, -(-packed.columns // 64))
            seen += 1
    assert seen == len(prepared) - 3  # attention cores have no weight


@pytest.mark.parametrize("recipe", ["1-2-2", "8-8-8", "twn-2-2-2"])
def test_rows_can_be_packed_in_any_portions(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(bart(layers=1), recipe)
    whole = tbt_compile.freeze(model).module.state_dict()
    monkeypatch.setattr(frozen_modules, "ROWS", 7)
    portions = tbt_compile.freeze(model).module.state_dict()
    assert whole.keys() == portions.keys()
    assert all(torch.equal(value, portions[name]) for name, value in whole.items())


def test_float_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(bart(layers=1), "2-2-2")
    floats, copied = {id(weight) for weight in weights_of(model).values()}, []
    original = nn.Parameter.__deepcopy__

    def deepcopy(parameter: nn.Parameter, memo: dict[int, Any]) -> nn.Parameter:
        copied.append(id(parameter))
        return original(parameter, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", deepcopy)
    tbt_compile.freeze(model)
    assert copied
    assert not floats & set(copied)


def test_shared_weights_share_one_packed_tensor() -> None:
    model = tbt_compile.freeze(trained(bart(layers=1), "2-2-2")).module
    parts = [
        model.lm_head,
        model.model.shared,
        model.model.encoder.embed_tokens,
        model.model.decoder.embed_tokens,
    ]
    assert len({part.weight_quantizer.packed.data_ptr() for part in parts}) == 1
    assert len({part.weight_quantizer.scale.data_ptr() for part in parts}) == 1
    assert all(isinstance(part.weight, PackedView) for part in parts)
    untied = tbt_compile.freeze(trained(llama(layers=1, tie_word_embeddings=False), "2-2-2")).module
    pair = (untied.lm_head, untied.model.embed_tokens)
    assert len({part.weight_quantizer.packed.data_ptr() for part in pair}) == 2


def test_a_frozen_weight_answers_shape_dtype_and_device_without_memory() -> None:
    model = trained(gpt2(layers=1), "2-2-2")
    before = {name: module.weight for name, module in iter_quantized(model) if hasattr(module, "weight")}
    for frozen in (tbt_compile.freeze(model), copy.deepcopy(tbt_compile.freeze(model))):
        for name, module in iter_quantized(frozen.module):
            if name not in before:
                continue
            weight, float_weight = module.weight, before[name]
            assert weight.shape == weight.size() == float_weight.shape
            assert (weight.dtype, weight.device) == (float_weight.dtype, float_weight.device)
            assert (weight.ndim, weight.dim(), len(weight)) == (2, 2, len(float_weight))
            assert weight.numel() == float_weight.numel()
        assert frozen.nbytes < 0.5 * sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize(
    "read", [lambda w: w + 1, torch.abs, lambda w: torch.ones(1, 96) @ w, lambda w: w.data]
)
def test_nothing_reads_the_values_of_a_frozen_weight(read: Any) -> None:
    head = tbt_compile.freeze(trained(bart(layers=1), "2-2-2")).module.lm_head
    message = "of a frozen weight: its values are packed codes, and only shape, dtype and device can be read"
    with pytest.raises((PlanError, AttributeError, TypeError), match=f"{message}|unsupported operand"):
        read(head.weight)
    assert not hasattr(head.weight, "clamp_")
    with pytest.raises(PlanError, match=f"clamp_ {message}"):
        head.weight.clamp_(-1, 1)


def test_an_excluded_projection_keeps_the_weight_that_it_shares(tmp_path: Path) -> None:
    recipe = tbt_compile.Recipe(2, 2, 2, exclude=("lm_head",))
    model = trained(bart(layers=1), recipe)
    frozen = tbt_compile.freeze(model)
    assert frozen.module.lm_head.weight is not model.lm_head.weight
    assert model.lm_head.weight.requires_grad
    assert torch.equal(logits(frozen.module, model), logits(model, model))
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"))
    assert torch.equal(logits(loaded.module, model), logits(model, model))


def test_the_prepared_model_is_left_alone() -> None:
    model = tbt_compile.prepare(gpt2(layers=1), "2-2-2").train()
    model(**batch(model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = {name: type(module) for name, module in model.named_modules()}
    tbt_compile.freeze(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert modules == {name: type(module) for name, module in model.named_modules()}
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model(**batch(model)).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.endswith("c_attn.weight"))


def test_a_frozen_model_is_in_evaluation_mode_whatever_the_prepared_one_is_in() -> None:
    model = tbt_compile.prepare(bart(layers=1, dropout=0.5), "2-2-2").train()
    model(**batch(model))
    frozen = tbt_compile.freeze(model)
    assert not frozen.module.training
    assert torch.equal(logits(frozen.module, model), logits(model.eval(), model))


def test_a_frozen_model_can_be_copied() -> None:
    model = trained(bart(layers=1), "2-2-2")
    frozen = tbt_compile.freeze(model)
    assert torch.equal(logits(copy.deepcopy(frozen), model), logits(frozen, model))


def test_attributes_that_python_cannot_copy_are_shared() -> None:
    model = MLP().eval()
    model.lock, model.rotate = threading.Lock(), [staticmethod(torch.neg)]
    x = torch.randn(2, 8)
    tbt_compile.prepare(model, "2-2-2", x)(x)
    frozen = tbt_compile.freeze(model)
    assert frozen.module.lock is model.lock
    assert frozen.module is not model
    assert torch.equal(frozen.module(x), model(x))


class Remembering(MLP):
    """Keeps what it computed, as modules do for an auxiliary loss or a cache."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.last = {"outputs": [y], "loss": y.square().mean()}
        return y


def test_results_that_a_module_keeps_are_no_obstacle() -> None:
    model, x = Remembering().eval(), torch.randn(2, 8)
    tbt_compile.prepare(model, "2-2-2", x)(x)
    assert torch.equal(tbt_compile.freeze(model)(x), model(x))


@pytest.mark.parametrize(("kind", "shape"), [(MLP, (3, 8)), (Classifier, (2, 5, 16))])
def test_plain_modules(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    model = tbt_compile.prepare(kind(), "2-1-2", torch.randn(shape)).train()
    model(torch.randn(shape))
    model.eval()
    x = torch.randn(shape)
    frozen = tbt_compile.freeze(model)
    assert isinstance(frozen.module, kind)
    assert torch.equal(frozen.module(x), model(x))
    assert not frozen(x).requires_grad
    encodings = {m.encoding for m in frozen.module.modules() if isinstance(m, FrozenWeight)}
    assert encodings == {Encoding.BINARY}
    assert Encoding.TERNARY012 in {
        m.encoding for m in frozen.module.modules() if isinstance(m, FrozenActivation)
    }


def test_what_a_frozen_model_says_of_itself() -> None:
    frozen = tbt_compile.freeze(trained(bart(layers=1), "1-1-1"))
    assert isinstance(frozen, FrozenModel)
    assert str(frozen).splitlines()[0] == "BartForConditionalGeneration frozen at 1-1-1, 0.0 MiB in memory"
    total = {id(t): t.nbytes for t in [*frozen.module.parameters(), *frozen.module.buffers()]}
    assert frozen.nbytes == sum(total.values())
    floats = sum(parameter.nbytes for parameter in bart(layers=1).parameters())
    assert frozen.nbytes < 0.5 * floats
    assert "binary, rows=96, columns=32" in repr(frozen.module.lm_head)
    assert "int8, center=False" in repr(frozen.module.lm_head)


def test_a_model_that_is_not_prepared() -> None:
    with pytest.raises(PlanError, match=r"this MLP has no quantizers: call tbt_compile.prepare\(model\)"):
        tbt_compile.freeze(MLP())


def test_a_model_that_was_never_run() -> None:
    model = tbt_compile.prepare(MLP(), "2-2-2", torch.randn(3, 8))
    message = "2 activation scales were never set .the first is first.input_quantizer.: train the model, or"
    with pytest.raises(PlanError, match=message):
        tbt_compile.freeze(model)
