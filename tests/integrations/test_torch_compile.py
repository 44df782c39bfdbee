"""`torch.compile` of a prepared model: one graph, the loss and gradients of the model as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from models import FAMILIES, Classifier, batch
from torch import Tensor, nn

import tbt_compile
from tbt_compile import Encoding, Recipe
from tbt_compile.quantizers import ActivationQuantizer, QuantTensor, WeightQuantizer

BACKENDS = ("eager", "aot_eager")
WITHOUT_DROPOUT = {"bart": {"dropout": 0.0}, "t5": {"dropout_rate": 0.0}, "llama": {}}
pytestmark = pytest.mark.filterwarnings("ignore")  # dynamo's own, about what it traces


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    torch.compiler.reset()


def trainable(family: str, recipe: str) -> Any:
    """A prepared model without dropout that has seen a batch, as a new object: nothing is traced yet."""
    model = tbt_compile.prepare(FAMILIES[family](layers=1, **WITHOUT_DROPOUT[family]), recipe)
    model(**batch(model))
    return copy.deepcopy(model).train()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    ("family", "recipe", "backend"),
    [
        ("bart", "2-2-2", "aot_eager"),
        ("t5", "1-1-1", "aot_eager"),
        ("llama", "2-2-8", "aot_eager"),
        ("llama", "2-2-2", "eager"),
    ],
)
def test_a_step_is_one_graph_and_the_same_numbers(family: str, recipe: str, backend: str) -> None:
    model = trainable(family, recipe)
    twin = copy.deepcopy(model)
    inputs = batch(model)
    expected = twin(**inputs).loss
    expected.backward()
    loss = torch.compile(model, backend=backend, fullgraph=True)(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0.0)
    found, wanted = gradients(model), gradients(twin)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


RECIPES = {
    "tbt-2-2-2": {},
    "twn-2-2-2": {},
    "bwn-1-1-1": {},
    "2-2-2": {"initial_scale": "l2"},
    "8-8-8": {"weight_method": "scaled"},
    "1-1-1": {"weight_method": "sign", "activation_method": "sign"},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("notation", RECIPES)
def test_every_quantizer_is_traced_whole(notation: str, backend: str) -> None:
    recipe = Recipe.parse(notation, **RECIPES[notation])
    model = tbt_compile.prepare(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), recipe, X)
    model(X)
    twin = copy.deepcopy(model)
    twin(X).square().sum().backward()
    torch.compile(model, backend=backend, fullgraph=True)(X).square().sum().backward()
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


X = torch.linspace(-2, 3, 48).view(3, 16)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8])
def test_codes_are_the_same_bits(encoding: Encoding) -> None:
    for quantizer in (WeightQuantizer(encoding), ActivationQuantizer(encoding)):
        expected: QuantTensor = quantizer(X)
        codes, scale = torch.compile(quantizer, backend="aot_eager", fullgraph=True)(X)
        assert torch.equal(codes, expected.codes)
        assert torch.equal(scale, expected.scale)


def test_attention_that_is_written_out_compiles() -> None:
    x = torch.randn(2, 5, 16)
    model = tbt_compile.prepare(Classifier(), "2-2-2", x)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)


def test_a_new_scale_is_set_by_the_first_compiled_call() -> None:
    model = tbt_compile.prepare(nn.Sequential(nn.Linear(16, 8)), "2-2-2", X)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(X), twin(X))
    assert model[0].input_quantizer.initialized
    assert torch.equal(model[0].input_quantizer.scale, twin[0].input_quantizer.scale)
