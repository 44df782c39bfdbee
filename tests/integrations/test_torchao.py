"""`quantize_` and the PT2E flow of torchao."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import MLP, AttentionBlock, bart, batch
from torch import Tensor, nn

import tbt_compile
from tbt_compile import TbtConfig
from tbt_compile.errors import PlanError
from tbt_compile.modules import is_prepared


@pytest.mark.parametrize("config", ["2-2-8", tbt_compile.Recipe.parse("2-2-8"), TbtConfig("2-2-8")])
def test_quantize_prepares_in_place(config: Any) -> None:
    model = MLP()
    assert tbt_compile.quantize_(model, config, torch.randn(3, 8)) is None
    assert is_prepared(model)
    assert model.tbt_recipe.notation == "2-2-8"


def test_quantize_needs_no_inputs_for_transformers() -> None:
    model = bart(layers=1)
    tbt_compile.quantize_(model, TbtConfig("1-1-1"))
    model(**batch(model)).loss.backward()
    assert model.config.quantization_config.recipe.notation == "1-1-1"


class Words(nn.Module):
    """Token ids `[B, T]` -> scores `[B, T, 20]`, by an embedding, attention and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(20, 16), AttentionBlock()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(self.attention(self.table(ids)))))


def pt2e(model: nn.Module, recipe: str | tbt_compile.Recipe, inputs: tuple[Tensor, ...]) -> Any:
    torchao = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    from tbt_compile.integrations.pt2e import TbtQuantizer

    module = torch.export.export(model, inputs).module(check_guards=False)
    quantizer = TbtQuantizer(recipe)
    return torchao.prepare_qat_pt2e(module, quantizer), quantizer


@pytest.mark.filterwarnings("ignore")  # torchao's, and those of the modules of exported programs
@pytest.mark.parametrize("recipe", ["2-2-2", "1-1-1", "2-2-8", "twn-2-2-2"])
def test_the_graph_computes_what_prepare_computes(recipe: str) -> None:
    torch.manual_seed(0)
    model = Words()
    ids = torch.randint(0, 20, (2, 6))
    module, quantizer = pt2e(model, recipe, (ids,))
    prepared = tbt_compile.prepare(model, recipe, ids)
    encodings = sorted(operand.encoding.value for site in quantizer.plan for operand in site.operands)
    plan = tbt_compile.plan(Words(), recipe, ids)
    assert encodings == sorted(operand.encoding.value for site in plan for operand in site.operands)
    found, expected = module(ids), prepared(ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.square().sum().backward()
    expected.square().sum().backward()
    gradients = dict(module.named_parameters())
    for name in ("table.weight", "attention.qkv.weight", "first.weight", "second.bias"):
        wanted = prepared.get_parameter(name).grad
        torch.testing.assert_close(gradients[name].grad, wanted, rtol=1e-3, atol=1e-4, msg=name)
    trained = [name for name, value in gradients.items() if name.endswith("scale") and value.grad is not None]
    assert bool(trained) == (recipe in ("2-2-2", "1-1-1"))


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_form_is_refused() -> None:
    module, _ = pt2e(MLP(), "2-2-2", (torch.randn(3, 8),))
    module(torch.randn(3, 8))
    torchao = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    with pytest.raises(PlanError, match="convert_pt2e has no form for centred codes"):
        torchao.convert_pt2e(module)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))

    with pytest.raises(PlanError, match="operands cannot be annotated one by one"):
        pt2e(Fused(), "2-2-2", (torch.randn(2, 5, 16),))


def test_a_recipe_that_rotates_weights_is_refused() -> None:
    with pytest.raises(PlanError, match="hadamard rotates weights, and annotations change none"):
        pt2e(
            Words(), tbt_compile.Recipe.parse("2-2-8", hadamard=("second",)), (torch.randint(0, 20, (2, 5)),)
        )
