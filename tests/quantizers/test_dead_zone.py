"""Tequila's bias of dead weights: its equation, its gradient, and that freezing folds it."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import tbt_compile
from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError, RecipeError
from tbt_compile.modules.layers import QuantizedLinear
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer

SHARE = 0.25
RECIPE = tbt_compile.Recipe.parse("2-2-8", dead_zone=SHARE)


def layer() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(6, 2)
    module.__class__ = QuantizedLinear
    module.input_quantizer = ActivationQuantizer(Encoding.FLOAT)
    module.weight_quantizer = WeightQuantizer(Encoding.TERNARY, center=False)
    module.weight_quantizer.dead_zone = SHARE
    return module


def test_the_bias_is_the_share_of_the_dead_weights() -> None:
    module = layer()
    codes, scale = module.weight_quantizer(module.weight)
    expected = module.bias.clone()
    for n in range(2):
        dead = [w for w, code in zip(module.weight[n].tolist(), codes[n].tolist(), strict=True) if code == 0]
        assert dead
        expected[n] += SHARE * sum(dead)
    x = torch.randn(4, 6)
    torch.testing.assert_close(module(x), x @ (codes * scale).T + expected)


def test_dead_weights_get_the_gradient_of_the_bias_too() -> None:
    module = layer()
    x, upstream = torch.randn(4, 6), torch.randn(4, 2)
    (module(x) * upstream).sum().backward()
    dead = module.weight_quantizer(module.weight).codes == 0
    expected = upstream.T @ x + SHARE * dead * upstream.sum(0)[:, None]
    torch.testing.assert_close(module.weight.grad, expected)


def llama(tied: bool) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=tied, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=60, n_positions=32, n_embd=32, n_layer=1, n_head=2, eos_token_id=None, bos_token_id=0
        )
    )


@pytest.mark.parametrize("name", ["tied", "untied", "gpt2"])
def test_freezing_folds_it_and_every_form_of_the_model_agrees(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tbt_compile.prepare(gpt2() if name == "gpt2" else llama(name == "tied"), RECIPE).eval()
    ids = torch.arange(5, 29).reshape(2, 12)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    frozen = tbt_compile.freeze(model)
    assert torch.equal(frozen.module(input_ids=ids).logits, expected)
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"))
    assert torch.equal(loaded.module(input_ids=ids).logits, expected)
    again = tbt_compile.load(loaded.save(tmp_path / "again"))
    mask = torch.ones_like(ids)
    options = {"max_new_tokens": 6, "do_sample": False}
    tokens = frozen.generate(input_ids=ids, attention_mask=mask, **options)
    compiled = tbt_compile.lower(again, target="llvm -mcpu=haswell")
    found = compiled.generate(ids.numpy(), mask.numpy(), max_new_tokens=6)
    assert [list(row[-6:]) for row in found] == tokens[:, -6:].tolist()


def test_a_call_without_a_bias_is_refused() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight)

    with pytest.raises(PlanError, match=r"dead_zone=0.25: .* is a call of a function"):
        tbt_compile.prepare(Called(), RECIPE, torch.randn(2, 8))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "much", True])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(RecipeError, match="dead_zone"):
        tbt_compile.Recipe.parse("2-2-2", dead_zone=value)
