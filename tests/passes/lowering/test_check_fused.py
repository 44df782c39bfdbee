"""A quantized operand that no operator takes is an error that names the user's module."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, export, weight
from models import bart, batch
from torch import Tensor, nn

import tbt_compile
from tbt_compile.adapters.seq2seq_units import Encoder
from tbt_compile.errors import MAX_NAMES, LoweringError
from tbt_compile.passes.lowering import LoweringContext, lowering_pipeline
from tbt_compile.passes.lowering.check_fused import CheckFused


class WeightOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight_quantizer = weight(2, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight_quantizer().value.T


class InputOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_quantizer = activation(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.input_quantizer(x).value


class Model(nn.Module):
    def __init__(self, parts: int = 1) -> None:
        super().__init__()
        self.model = nn.Sequential(WeightOnly(), *[InputOnly() for _ in range(parts)])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def test_the_modules_are_named_as_the_user_knows_them() -> None:
    program = export(Model(), torch.randn(2, 8)).program
    message = (
        "step: no compiled operator takes the quantized operands of 0, 1. Both operands of a product must"
    )
    with pytest.raises(LoweringError, match=message):
        lowering_pipeline().run(LoweringContext("step", program, root="model."))
    with pytest.raises(LoweringError, match=r"operands of model\.0, model\.1\. .*the recipe's `exclude`"):
        CheckFused().apply(LoweringContext("step", program))


def test_a_long_list_is_cut() -> None:
    unit = export(Model(parts=9), torch.randn(2, 8))
    listed = ", ".join(f"model.{i}" for i in range(MAX_NAMES))
    with pytest.raises(LoweringError, match=f"operands of {listed} and {10 - MAX_NAMES} more. Both"):
        CheckFused().apply(unit)


def test_a_graph_without_quantized_operands_passes() -> None:
    assert CheckFused().apply(export(nn.Linear(8, 8), torch.randn(2, 8))).changes == 0


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("twn-2-2-2", r"model\.encoder\.layers\.0\.fc1, model\.encoder\.layers\.0\.fc2"),
    ],
)
def test_recipes_without_compiled_operators(recipe: str, name: str) -> None:
    model = tbt_compile.prepare(bart(layers=1), recipe)
    model(**batch(model))
    given = batch(model)
    module = Encoder(tbt_compile.freeze(model).module)
    unit = export(module, given["input_ids"], given["attention_mask"], name="encoder")
    unit.root = "model."
    with pytest.raises(LoweringError, match=f"encoder: no compiled operator takes .* of {name}"):
        lowering_pipeline().run(unit)


def test_golden() -> None:
    check_pass(CheckFused(), export(Model(), torch.randn(2, 8)))
