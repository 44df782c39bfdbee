"""The plan: encodings by recipe, reasons, exclusions, what stays in full precision, and its text and JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from models import FAMILIES, MLP, Classifier, bart, llama, t5
from torch import Tensor, nn
from transformers import DetrConfig, DetrModel, ResNetConfig

import tbt_compile
from tbt_compile.adapters.huggingface import HuggingFaceAdapter
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError, PlanError
from tbt_compile.passes.prepare.pipeline import PLAN
from tbt_compile.passes.prepare.plan import QuantPlan, make_plan
from tbt_compile.passes.prepare.site_plan import excluded_by
from tbt_compile.passes.prepare.sites import SiteKind
from tbt_compile.preparation import make_context
from tbt_compile.recipe import Recipe
from tbt_compile.table import align


@pytest.mark.parametrize("family", FAMILIES)
def test_json_round_trip(family: str) -> None:
    plan = tbt_compile.plan(FAMILIES[family](layers=1), "2-1-8")
    assert QuantPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_planned_or_has_a_reason(family: str) -> None:
    model = FAMILIES[family]()
    plan = tbt_compile.plan(model)
    covered = {
        id(model.get_submodule(site.fqn).weight) for site in plan if site.kind is not SiteKind.ATTENTION
    }
    for item in plan.unquantized:
        assert item.reason
        try:
            covered |= {id(parameter) for parameter in model.get_submodule(item.name).parameters()}
        except AttributeError:
            covered.add(id(model.get_parameter(item.name)))
    assert {id(parameter) for parameter in model.parameters()} <= covered


def test_bits_go_where_the_notation_says() -> None:
    context = PLAN.run(make_context(bart(layers=1)))
    for embedding, weight, activation in itertools.product((1, 2, 8, 32), repeat=3):
        recipe = Recipe.parse(f"{embedding}-{weight}-{activation}")
        plan = make_plan(context.model, recipe, context.sites, context.signs, {})
        head, fc1 = plan["lm_head"], plan["model.encoder.layers.0.fc1"]
        assert plan["model.encoder.embed_tokens"].operand("weight").encoding.bits == embedding
        assert head.operand("weight").encoding.bits == embedding
        assert head.operand("input").encoding.bits == (32 if 32 in (activation, embedding) else 8)
        assert fc1.operand("weight").encoding.bits == weight
        assert fc1.operand("input").encoding.bits == activation
        attention = next(site for site in plan if site.fqn.endswith("layers.0.self_attn"))
        assert [operand.encoding.bits for operand in attention.operands] == [activation] * 4
        assert attention.operand("probabilities").encoding.signed is (activation == 32)


def test_planning_leaves_the_model_alone() -> None:
    model = bart(layers=1).train()
    implementation = model.config._attn_implementation
    state = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    tbt_compile.plan(model)
    assert [type(module) for module in model.modules()] == classes
    assert model.training
    assert model.config._attn_implementation == implementation
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_every_part_gets_its_own_attention_implementation_back() -> None:
    backbone = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], out_features=["stage1"])
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    detr = DetrConfig(backbone_config=backbone, encoder_attention_heads=2, decoder_attention_heads=2, **sizes)
    model = DetrModel(detr)
    before = [part.config._attn_implementation for part in (model, model.backbone.model)]
    assert before == ["sdpa", "eager"], "a convolutional part knows no other"
    with HuggingFaceAdapter().capturing(model):
        assert model.config._attn_implementation == "eager"
    assert [part.config._attn_implementation for part in (model, model.backbone.model)] == before


def test_output_projection_has_bits_of_its_own() -> None:
    recipe = Recipe.parse("2-2-2", output_projection_activation_bits=2)
    assert tbt_compile.plan(bart(layers=1), recipe)["lm_head"].operand("input").encoding is Encoding.TERNARY


def test_tied_and_untied_projections() -> None:
    tied = tbt_compile.plan(bart(layers=1), "1-2-2")
    assert tied["lm_head"].tied_to == "model.encoder.embed_tokens"
    assert tied["model.decoder.embed_tokens"].tied_to == "model.encoder.embed_tokens"
    assert tied["model.encoder.embed_tokens"].tied_to is None
    untied = tbt_compile.plan(llama(layers=1, tie_word_embeddings=False), "1-2-2")
    assert untied["lm_head"].tied_to is None
    assert untied["lm_head"].operand("weight").encoding is Encoding.TERNARY


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("lm_head", {"lm_head"}),
        ("model.encoder.layers.0.fc?", {"model.encoder.layers.0.fc1", "model.encoder.layers.0.fc2"}),
        ("model.encoder", None),
        ("*.self_attn", None),
    ],
)
def test_exclusion_by_pattern(pattern: str, gone: set[str] | None) -> None:
    full = tbt_compile.plan(bart(layers=1))
    plan = tbt_compile.plan(bart(layers=1), Recipe.parse("2-2-2", exclude=(pattern,)))
    missing = {site.fqn for site in full} - {site.fqn for site in plan}
    if gone is None:
        part = pattern.strip("*.")
        gone = {site.fqn for site in full if part in site.fqn}
    assert missing == gone
    reasons = {item.name: item.reason for item in plan.unquantized}
    assert all(reasons[name] == f"excluded by the recipe ({pattern!r})" for name in gone)


def test_excluded_by_matches_parents() -> None:
    assert excluded_by("a.b.c", ("a.b",)) == "a.b"
    assert excluded_by("a.bc", ("a.b",)) is None
    assert excluded_by("a.b", ()) is None


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(PlanError, match="all 2 candidates are excluded or kept"):
        tbt_compile.plan(MLP(), Recipe.parse("2-2-2", exclude=("*",)), torch.randn(2, 8))


def test_position_embeddings_and_relative_bias_are_listed() -> None:
    reasons = {item.name: item.reason for item in tbt_compile.plan(bart(layers=1)).unquantized}
    assert reasons["model.encoder.embed_positions"].startswith("position embeddings stay fp32")
    assert reasons["model.encoder.layernorm_embedding.weight"] == "normalisation stays fp32"
    assert reasons["model.encoder.layers.0.fc1.bias"] == "biases stay fp32"
    relative = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    reasons = {item.name: item.reason for item in tbt_compile.plan(t5(layers=1)).unquantized}
    assert reasons[relative].startswith("position embeddings stay fp32")


def test_text_is_an_aligned_table() -> None:
    lines = str(tbt_compile.plan(Classifier(), "2-2-2", torch.randn(2, 5, 16))).splitlines()
    assert lines[0] == "Classifier, recipe Recipe.parse('2-2-2'): 5 sites"
    column = lines[1].index("encoding")
    rows = lines[2 : lines.index("")]
    assert len(rows) == 12
    assert all(row[column - 1] == " " and row[column] != " " for row in rows)
    assert "attention.qkv.bias, attention.output.bias, head.0.bias, ...  biases stay fp32" in lines[-2]
    assert align([("a", ""), ("bb", "c")]) == ["a", "bb  c"]


def test_lookup_of_a_site_that_is_not_there() -> None:
    plan = tbt_compile.plan(MLP(), "2-2-2", torch.randn(2, 8))
    assert plan["first"].operand("input").reason == "signed: model input"
    with pytest.raises(KeyError):
        plan["third"]
    with pytest.raises(KeyError):
        plan["first"].operand("query")


def test_a_shared_embedding_that_is_excluded_in_one_place_is_tied_elsewhere() -> None:
    plan = tbt_compile.plan(bart(layers=1), Recipe.parse("2-2-2", exclude=("model.encoder", "model.shared")))
    assert plan["lm_head"].tied_to == "model.decoder.embed_tokens"
    assert plan["model.decoder.embed_tokens"].tied_to is None
    assert "model.shared" not in [site.fqn for site in plan]


class Refused(MLP):
    """Does everything that cannot be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, more: list[Tensor]) -> Tensor:  # type: ignore[override]
        self.calls += 1
        y = F.dropout(super().forward(x), 0.5)
        y = torch.zeros_like(y).scatter_(1, y.argmax(1, keepdim=True), 1.0) + more[0]
        return torch.nonzero(y)


def test_what_lower_will_refuse_is_in_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    inputs = (torch.randn(3, 8), [torch.randn(3, 1)])
    plan = tbt_compile.plan(Refused(), "2-2-2", inputs)
    starts = (
        "argument 'more' of Refused is a list: ",
        "the model itself changes 'calls' in every call (aten.add_.Tensor), and ",
        "the model itself draws random numbers (aten.dropout.default), which ",
        "the model itself makes a tensor whose size depends on values (aten.nonzero.default): ",
    )
    assert [reason[: len(start)] for reason, start in zip(plan.refused, starts, strict=True)] == [*starts]
    assert f"lower will refuse this model\n{plan.refused[0]}\n" in str(plan)
    assert type(plan).from_dict(plan.to_dict()) == plan
    model = tbt_compile.prepare(Refused(), "2-2-2", inputs)
    found = [record.getMessage() for record in caplog.records if record.name == "tbt_compile.preparation"]
    assert found == [f"lower will refuse this Refused: {reason}" for reason in plan.refused]
    model(*inputs)
    with pytest.raises(LoweringError, match="argument 'more' of Refused is a list"):
        tbt_compile.lower(model)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y, x: y[y > 0], r"makes a tensor whose size depends on values \(aten.index.Tensor\)"),
        (lambda y, x: y.masked_select(y > 0), r"whose size depends on values \(aten.masked_select.default\)"),
        (lambda y, x: y.unique(), r"whose size depends on values \(aten._unique2.default\)"),
        (lambda y, x: y * y.sum().item(), r"reads the value of a tensor as a .* \(aten.item.default\)"),
        (lambda y, x: x.add_(1), r"changes an argument in place \(aten.add_.Tensor on 'x'\)"),
    ],
)
def test_what_values_decide_and_what_is_changed_is_in_the_plan(
    function: Callable[[Tensor, Tensor], Tensor], reason: str
) -> None:
    class Refusing(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return function(super().forward(x), x)

    (found,) = tbt_compile.plan(Refusing(), "2-2-2", torch.randn(3, 8)).refused
    assert re.search(rf"^the model itself .*{reason}", found)


def test_nothing_speaks_against_ordinary_models() -> None:
    assert tbt_compile.plan(bart(layers=1)).refused == ()
    assert tbt_compile.plan(MLP(), "2-2-2", torch.randn(3, 8)).refused == ()


class Mixed(nn.Module):
    """Parameters in operators of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lstm, self.convolution = (
            nn.Linear(8, 8),
            nn.LSTM(8, 8),
            nn.Conv1d(5, 5, 3, padding=1),
        )
        self.experts, self.gains = nn.Parameter(torch.randn(3, 8, 8)), nn.Parameter(torch.ones(8))
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(self.layer(x))[0]
        chosen = self.experts[x.sum(-1).long() % 3]
        return (x.unsqueeze(-2) @ chosen).squeeze(-2) + self.convolution(x * self.gains)


def test_what_stays_in_full_precision_has_the_operator_that_reads_it() -> None:
    kept = {
        item.name: item.reason
        for item in tbt_compile.plan(Mixed(), "2-2-2", torch.randn(2, 5, 8)).unquantized
    }
    inside = "lstm multiplies by it inside one operator, which has no quantized form"
    assert kept.keys() == {name for name, _ in Mixed().named_parameters()} - {"layer.weight"}
    assert kept["lstm.weight_ih_l0"] == kept["lstm.weight_hh_l0"] == inside
    assert kept["lstm.bias_ih_l0"] == kept["layer.bias"] == "biases stay fp32"
    assert kept["convolution.weight"] == "convolutions stay fp32; conv=True in the recipe quantizes them"
    assert kept["gains"] == "mul reads it, which is no product: it stays fp32"
    assert kept["experts"] == "index selects parts of it by an input; only rows of embeddings are quantized"
    assert kept["unused.weight"] == "the example inputs never reach it"


@pytest.mark.parametrize("activation", (1, 2, 8, 32))
@pytest.mark.parametrize("weight", (1, 2, 8, 32))
def test_the_plan_refuses_the_bits_that_lower_refuses(weight: int, activation: int) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    recipe, x = f"32-{weight}-{activation}", torch.randn(3, 8)
    if (weight, activation) == (32, 32):
        return
    refused = tbt_compile.plan(model, recipe, x).refused
    prepared = tbt_compile.prepare(model, recipe, x)
    prepared(x)
    frozen = tbt_compile.freeze(prepared.eval())
    if refused:
        assert f"0, 2: weights of {weight} bits need " in refused[0]
        with pytest.raises(LoweringError):
            tbt_compile.lower(frozen)
    else:
        assert tbt_compile.lower(frozen)(x.numpy()).shape == (3, 4)
