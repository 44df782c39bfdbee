"""What a report holds of models at every stage: graphs, codes, times; and why a section is missing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_tools import save_bitnet
from compiled_tools import trained
from models import HEADS, LAYERS, VOCABULARY, WIDTH, Classifier, bart, llama
from test_speech import whisper
from torch import nn

import tbt_compile
from tbt_compile import Encoding, Recipe
from tbt_compile.errors import DataError, PlanError, RecipeError
from tbt_compile.inspection.entropy import code_entropy
from tbt_compile.quantizers.weights import WeightQuantizer
from tbt_compile.report.collect import collect
from tbt_compile.report.sections import Graph, Missing, Operation, Report
from tbt_compile.report.times import step_layers


@pytest.fixture(scope="module")
def prepared() -> nn.Module:
    return trained(bart(), "2-2-2")


@pytest.fixture(scope="module")
def report(prepared: nn.Module) -> Report:
    return collect(prepared)


@pytest.fixture(scope="module")
def clocked(prepared: nn.Module) -> tbt_compile.CompiledModel:
    return tbt_compile.lower(prepared, clock=True, num_threads=1)


def in_module(graph: Graph, name: str) -> list[Operation]:
    """The operations that a module runs itself."""
    return [each for each in graph.operations if graph.modules[each.module][0] == name]


def categories(operation: Operation) -> dict[str, str]:
    return {each.operand: each.category for each in operation.quantizers}


def test_graphs_have_modules_edges_and_quantizers_with_reasons(report: Report) -> None:
    before, after = report.graphs.before, report.graphs.after
    assert not any(each.quantizers for each in before.operations)
    names = [name for name, _, _ in after.modules]
    for name, _, caller in after.modules[1:]:
        assert name.startswith(names[caller])
    for graph in (before, after):
        for index, operation in enumerate(graph.operations):
            assert all(source < index for source in operation.inputs)
        assert graph.operations[-1].label == "output" and graph.operations[-1].inputs
        inputs = [each.label for each in graph.operations if not each.inputs and each.module == 0]
        assert inputs[:3] == ["input_ids", "attention_mask", "decoder_input_ids"]
    (linear,) = in_module(after, "model.encoder.layers.0.fc1")
    assert linear.label == "quantized linear" and linear.shape == "[2, 7, 64]"
    assert [(each.operand, each.encoding) for each in linear.quantizers] == [
        ("input", "ternary"),
        ("weight", "ternary"),
    ]
    assert [each.label for each in in_module(before, "model.encoder.layers.0.fc1")] == ["linear"]
    source = after.operations[linear.inputs[0]]
    assert after.modules[source.module][0] == "model.encoder.layers.0.self_attn_layer_norm"
    scores, output = (
        each for each in in_module(after, "model.encoder.layers.0.self_attn") if each.quantizers
    )
    assert categories(scores) == {"query": "signed", "key": "signed"}
    assert categories(output) == {"probabilities": "non-negative", "value": "signed"}
    assert output.quantizers[0].why == "non-negative: output of softmax"
    (head,) = in_module(after, "lm_head")
    assert categories(head) == {"input": "8-bit", "weight": "signed"}
    positions = [each for each in in_module(after, "model.encoder.embed_positions") if each.quantizers]
    assert [categories(each) for each in positions] == [{"weight": "none"}]
    assert "position embeddings stay fp32" in positions[0].quantizers[0].why


def test_what_a_recipe_excludes_is_in_full_precision_with_the_reason() -> None:
    recipe = Recipe.parse("2-2-2", exclude=("*.decoder.layers.0", "*.decoder.layers.0.*"))
    after = collect(bart(), recipe=recipe).graphs.after
    (linear,) = in_module(after, "model.decoder.layers.0.fc1")
    assert linear.label == "linear"
    assert [(each.operand, each.category) for each in linear.quantizers] == [("weight", "none")]
    assert linear.quantizers[0].why.startswith("excluded by the recipe")
    products = [each for each in in_module(after, "model.decoder.layers.0.self_attn") if each.quantizers]
    assert [categories(each) for each in products] == [{"both operands": "none"}] * 2


def test_what_a_recipe_leaves_at_32_bits_says_so() -> None:
    after = collect(bart(layers=1), recipe="32-2-32").graphs.after
    (linear,) = in_module(after, "model.decoder.layers.0.fc1")
    assert categories(linear) == {"input": "none", "weight": "signed"}
    assert linear.quantizers[0].why == "the recipe leaves it in full precision"
    products = [each for each in in_module(after, "model.decoder.layers.0.self_attn") if each.quantizers]
    reasons = {quantizer.why for each in products for quantizer in each.quantizers}
    assert reasons == {"the recipe leaves it in full precision"}


@pytest.mark.parametrize("make", [bart, llama], ids=["bart", "llama"])
def test_every_stage_has_the_same_graph(make: Any) -> None:
    model = make(layers=1)
    graphs = collect(model, recipe="2-2-8").graphs
    frozen = tbt_compile.freeze(trained(copy.deepcopy(model), "2-2-8"))
    again = collect(frozen).graphs
    assert (again.before, again.after, again.recipe) == (graphs.before, graphs.after, "2-2-8")
    assert {"8-bit"} <= {each.category for node in graphs.after.operations for each in node.quantizers}


def test_codes_and_entropies_are_those_of_the_weights(prepared: nn.Module, report: Report) -> None:
    layers = {layer.name: layer for layer in report.histograms.layers}
    layer = layers["model.encoder.layers.0.fc1"]
    weight = prepared.get_parameter("model.encoder.layers.0.fc1.weight")
    codes = WeightQuantizer(Encoding.TERNARY)(weight).codes
    assert layer.weight.levels == (-1, 0, 1)
    assert layer.weight.shares == tuple(float((codes == level).float().mean()) for level in (-1, 0, 1))
    assert layer.weight.entropy == pytest.approx(code_entropy(codes))
    assert sum(layer.values.counts) == weight.numel()
    assert (layer.values.low, layer.values.high) == tuple(map(float, weight.detach().aminmax()))
    attention = layers["model.encoder.layers.0.self_attn"]
    assert [each.operand for each in attention.activations] == ["query", "key", "probabilities", "value"]
    assert set(attention.activations[2].levels) <= {0, 1, 2}
    for each in report.histograms.layers:
        for codes in (*each.activations, *([each.weight] if each.weight else [])):
            assert sum(codes.shares) == pytest.approx(1)
            assert 0 <= codes.entropy <= np.log2(max(2, len(codes.levels))) + 1e-9
    counted = [each.name for each in report.histograms.layers if each.weight]
    assert "model.shared" in counted and "lm_head" not in counted  # they share one weight


def test_a_frozen_model_has_the_codes_of_the_prepared_one(prepared: nn.Module, report: Report) -> None:
    frozen = collect(tbt_compile.freeze(prepared)).histograms
    assert [(each.name, each.weight) for each in frozen.layers] == [
        (each.name, each.weight) for each in report.histograms.layers
    ]
    assert not any(each.values for each in frozen.layers)
    assert "frozen model" in frozen.notes[0]


def test_collecting_changes_no_model() -> None:
    model = tbt_compile.prepare(bart(layers=1), "2-2-2").train()
    state = copy.deepcopy(model.state_dict())
    assert collect(model).histograms.layers[0].weight
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    plain = bart(layers=1)
    assert collect(plain).summary["stage"] == "prepared"
    assert not hasattr(plain.config, "tbt_recipe")


def test_a_plain_module_at_every_stage() -> None:
    x = torch.randn(2, 5, 16)
    report = collect(Classifier(), recipe="2-2-2", example_inputs=(x,))
    (head,) = in_module(report.graphs.after, "head.2")
    assert categories(head) == {"input": "non-negative", "weight": "signed"}
    assert "x [2, 5, 16]" in report.histograms.call
    prepared = tbt_compile.prepare(Classifier().eval(), "2-2-2", (x,))
    prepared(x)
    later = collect(prepared)
    assert "collect the report before `prepare`" in later.graphs.missing
    assert {each.name for each in later.histograms.layers} == {each.name for each in report.histograms.layers}


def test_calls_of_functions_have_quantizers_and_codes() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(torch.relu(x), self.table)

    report = collect(Functional(), recipe="2-2-2", example_inputs=(torch.randn(3, 16),))
    (product,) = [each for each in report.graphs.after.operations if each.quantizers]
    assert product.label == "quantized linear"
    assert categories(product) == {"input": "non-negative", "weight": "signed"}
    (layer,) = report.histograms.layers
    assert layer.values and layer.weight and layer.activations[0].levels[0] == 0


def test_each_step_belongs_to_the_layer_whose_parameters_it_reads(clocked: tbt_compile.CompiledModel) -> None:
    kinds = {layer.name: layer.kind for layer in tbt_compile.summary(clocked)}
    steps = clocked.description["clock"]
    for unit, names in step_layers(clocked).items():
        owned = list(zip(steps[unit], names, strict=True))
        linear = [name for kernel, name in owned if kernel.startswith("linear")]
        assert len(linear) == len(set(linear)) > 6 * LAYERS - 1
        assert {kinds[name] for name in linear} == {"linear"}
        assert {kinds[name] for kernel, name in owned if kernel.startswith("attention")} == {"attention"}
        assert {name for kernel, name in owned if kernel.startswith("embedding")} == {"model.shared"}
        assert ("lm_head" in linear) == (unit != "encoder")
    assert step_layers(clocked)["encoder"].count("model.encoder.layers.1.fc2") == 1


def test_times_by_layer_add_up(prepared: nn.Module, clocked: tbt_compile.CompiledModel) -> None:
    report = collect(prepared, compiled=clocked)
    times = report.times
    assert times.total == pytest.approx(sum(times.layers.values())) and times.total > 0
    assert all(spent >= 0 for spent in times.layers.values())
    assert set(times.layers) <= {"", *(layer["name"] for layer in report.summary["layers"])}
    assert times.layers["model.encoder.layers.0.fc1"] > 0
    alone = collect(clocked)
    assert alone.summary["stage"] == "compiled" and isinstance(alone.graphs, Missing)
    assert alone.times.layers.keys() == times.layers.keys()
    sizes = {layer.name: layer.bytes_after for layer in tbt_compile.summary(clocked)}
    assert {layer["name"]: layer["bytes_after"] for layer in report.summary["layers"]} == {
        **dict.fromkeys((layer["name"] for layer in report.summary["layers"]), 0),
        **sizes,
    }


def test_missing_sections_say_why(prepared: nn.Module, report: Report) -> None:
    assert "tbt lower FOLDER --clock" in report.times.missing
    assert "tbt bench generate --json" in report.benchmarks.missing
    assert "tbt run FOLDER --json" in report.samples.missing
    without = collect(tbt_compile.lower(prepared))
    assert "--clock" in without.times.missing
    assert "compiled from" in without.graphs.missing and without.histograms == without.graphs


def test_what_cannot_be_is_refused(prepared: nn.Module, clocked: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has one already"):
        collect(prepared, recipe="1-1-1")
    with pytest.raises(PlanError, match="name what was compiled from it"):
        collect(trained(bart(), "1-1-1"), compiled=clocked)
    with pytest.raises(PlanError, match="compiled already"):
        collect(clocked, compiled=clocked)
    file = tmp_path / "other.json"
    for text in ("{", "[]", '{"rows": []}', '{"texts": [1]}'):
        file.write_text(text)
        with pytest.raises(DataError, match="other.json"):
            collect(clocked, benchmarks=[file])
        with pytest.raises(DataError, match="other.json"):
            collect(clocked, texts={"a": file})


def test_a_graph_that_is_not_the_models_is_not_shown(prepared: nn.Module) -> None:
    frozen = tbt_compile.freeze(prepared)
    quantizer = frozen.module.get_submodule("model.encoder.layers.0.fc1.input_quantizer")
    quantizer.encoding = Encoding.TERNARY012
    assert "of input of model.encoder.layers.0.fc1" in collect(frozen).graphs.missing


def test_a_checkpoint_that_was_quantized_elsewhere(tmp_path: Path) -> None:
    """BitNet: neither attention nor the embedding, in 16 bits, is quantized, whatever the notation says."""
    with torch.compiler.set_stance("force_eager"):  # transformers compiles a function while it reads
        report = collect(tbt_compile.from_pretrained(save_bitnet(tmp_path / "bitnet")))
    after = report.graphs.after
    (linear,) = in_module(after, "model.layers.0.mlp.down_proj")
    assert categories(linear) == {"input": "8-bit", "weight": "signed"}
    products = [each for each in in_module(after, "model.layers.0.self_attn") if each.quantizers]
    assert [each.quantizers[0].why for each in products] == ["the checkpoint has it in full precision"] * 2
    assert {layer.weight.levels for layer in report.histograms.layers if layer.weight} == {(-1, 0, 1)}


def test_a_model_of_audio_has_its_graph_and_codes() -> None:
    report = collect(whisper(), recipe="2-2-2")
    assert report.graphs.after.operations and report.histograms.layers
    assert "input_features" in report.histograms.call


def test_a_report_is_json(report: Report) -> None:
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["title"] == "BartForConditionalGeneration at 2-2-2"
    assert dict(values["facts"])["stage"] == "prepared"
    assert (HEADS, WIDTH, VOCABULARY) == (2, 32, 96)
