"""Bad input to `plan` and `prepare`: one clear error each, and the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import MLP, Classifier, bart
from torch import Tensor, nn

import tbt_compile
from tbt_compile.errors import CaptureError, PlanError, RecipeError, TbtError
from tbt_compile.modules import is_prepared

X = torch.randn(2, 8)


class _Unpacked(nn.Module):
    """Takes a tensor by keyword only, and one more with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden: Tensor, *, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.linear(hidden) * weights if bias is None else self.linear(hidden) * weights + bias


class _Data(nn.Module):
    """Branches on a value, which an exported graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.sum()) > 0 else x


CASES: dict[str, tuple[Callable[[], nn.Module], object, str, type[TbtError], str]] = {
    "nothing to quantize": (
        nn.ReLU,
        X,
        "2-2-2",
        PlanError,
        "ReLU has nothing to quantize: expected nn.Linear",
    ),
    "no examples": (MLP, None, "2-2-2", CaptureError, "example inputs of MLP cannot be derived: pass"),
    "unknown argument": (
        _Unpacked,
        {"hiden": X, "weights": X},
        "2-2-2",
        CaptureError,
        r"'hiden' is not an argument of _Unpacked\.forward\(hidden, weights, bias\)\. Did you mean hidden\?",
    ),
    "missing argument": (_Unpacked, {"hidden": X}, "2-2-2", CaptureError, "missing a required .*'weights'"),
    "too many arguments": (MLP, (X, X), "2-2-2", CaptureError, "too many positional arguments"),
    "wrong container": (MLP, {1, 2}, "2-2-2", CaptureError, "example_inputs is a set: expected a tensor"),
    "wrong shape": (
        MLP,
        torch.randn(2, 9),
        "2-2-2",
        CaptureError,
        r"MLP does not run on its example inputs \(x: float32 \[2, 9\]\): mat1",
    ),
    "wrong type": (
        lambda: bart(layers=1),
        {"input_ids": torch.randn(2, 7)},
        "2-2-2",
        CaptureError,
        r"input_ids: float32 \[2, 7\]",
    ),
    "token id out of range": (
        lambda: bart(layers=1),
        {"input_ids": torch.full((2, 7), 1000)},
        "2-2-2",
        CaptureError,
        "index out of range",
    ),
    "not capturable": (
        _Data,
        X.abs(),
        "2-2-2",
        CaptureError,
        "runs on its example inputs .* but torch.export",
    ),
    "wrong recipe": (MLP, X, "2-3-2", RecipeError, "weight_bits=3"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("function", [tbt_compile.plan, tbt_compile.prepare], ids=["plan", "prepare"])
def test_one_clear_error(function: Callable[..., object], name: str) -> None:
    build, inputs, recipe, error, message = CASES[name]
    model = build()
    keys = list(model.state_dict())
    with pytest.raises(error, match=message):
        function(model, recipe, inputs)
    assert list(model.state_dict()) == keys
    assert not is_prepared(model)


def test_a_prepared_model_is_refused() -> None:
    model = tbt_compile.prepare(Classifier(), "2-2-2", torch.randn(2, 5, 16))
    for function in (tbt_compile.plan, tbt_compile.prepare):
        with pytest.raises(PlanError, match="this Classifier is prepared already"):
            function(model, "1-1-1", torch.randn(2, 5, 16))


def test_multihead_attention_may_be_excluded() -> None:
    model = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    recipe = tbt_compile.Recipe.parse("2-2-2", exclude=("self_attn",))
    x = torch.randn(2, 5, 8)
    reasons = {item.name: item.reason for item in tbt_compile.plan(model, recipe, x).unquantized}
    assert reasons["self_attn"] == "excluded by the recipe ('self_attn')"
    tbt_compile.prepare(model, recipe, x)
    assert model(x).shape == x.shape
    assert not is_prepared(model.self_attn)


@pytest.mark.parametrize("inputs", [(X,), [X], X, {"x": X}])
def test_example_inputs_in_every_form(inputs: object) -> None:
    assert len(tbt_compile.plan(MLP(), "2-2-2", inputs).sites) == 2


def test_examples_of_a_transformers_model_may_be_given() -> None:
    ids = torch.randint(3, 90, (1, 4))
    plan = tbt_compile.plan(bart(layers=1), "2-2-2", {"input_ids": ids, "decoder_input_ids": ids.clone()})
    assert plan == tbt_compile.plan(bart(layers=1), "2-2-2")


def test_a_name_that_is_taken_is_refused() -> None:
    model = MLP()
    model.first.input_quantizer = nn.Identity()
    with pytest.raises(PlanError, match="already has an attribute 'input_quantizer'"):
        tbt_compile.prepare(model, "2-2-2", X)


@pytest.mark.parametrize(
    "function", [tbt_compile.plan, tbt_compile.prepare, tbt_compile.freeze, tbt_compile.lower]
)
@pytest.mark.parametrize("model", ["facebook/bart-base", None, nn.Linear])
def test_what_is_no_model_is_refused(function: Callable[[object], object], model: object) -> None:
    with pytest.raises(PlanError, match="is no model: expected an nn.Module, such as AutoModelForSeq2SeqLM"):
        function(model)
