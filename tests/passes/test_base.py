"""Pipelines: order, lint after every pass, dumps; and the contracts of the single passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from models import MLP, bart
from torch import fx

import tbt_compile
from tbt_compile.passes.base import PassResult, Pipeline, graph_text
from tbt_compile.passes.prepare.capture import Capture
from tbt_compile.passes.prepare.insert_quantizers import InsertQuantizers
from tbt_compile.passes.prepare.pipeline import PLAN, PREPARE
from tbt_compile.preparation import make_context

X = torch.randn(3, 8)


@dataclass
class _Context:
    module: fx.GraphModule = field(default_factory=lambda: fx.symbolic_trace(torch.nn.ReLU()))
    log: list[str] = field(default_factory=list)

    def graphs(self) -> Mapping[str, fx.GraphModule]:
        return {"graph": self.module}

    def describe(self) -> str:
        return ", ".join(self.log)


@dataclass(frozen=True)
class _Log:
    name: str

    def apply(self, context: _Context) -> PassResult:
        context.log.append(self.name)
        return PassResult(1, "logged")


@dataclass(frozen=True)
class _Break:
    """Uses a value before it is computed, which only a lint notices."""

    name: str = "break"

    def apply(self, context: _Context) -> PassResult:
        first = next(iter(context.module.graph.nodes))
        with context.module.graph.inserting_before(first):
            context.module.graph.call_function(torch.neg, (first,))
        return PassResult(1)


def test_passes_run_in_order_and_are_dumped(tmp_path: Path) -> None:
    context = Pipeline("two", (_Log("one"), _Log("two"))).run(_Context(), tmp_path / "dump")
    assert context.log == ["one", "two"]
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == ["00_one.graph.txt", "00_one.txt", "01_two.graph.txt", "01_two.txt"]
    assert (tmp_path / "dump" / "01_two.txt").read_text() == "# two: 1 changes. logged\none, two\n"


def test_a_broken_graph_is_found_at_the_pass_that_broke_it() -> None:
    context = _Context()
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        Pipeline("broken", (_Log("one"), _Break(), _Log("two"))).run(context)
    assert context.log == ["one"]


def test_the_prepare_pipeline() -> None:
    assert [step.name for step in PREPARE.passes] == [
        "capture",
        "classify-activations",
        "find-sites",
        "make-plan",
        "plan-rotations",
        "check-lowering",
        "find-rotated",
        "insert-quantizers",
        "write-back",
        "rotate-weights",
    ]
    assert PREPARE.passes[: len(PLAN.passes)] == PLAN.passes
    assert all(type(step).__doc__ and "Needs:" in str(type(step).__doc__) for step in PREPARE.passes)
    assert all("Leaves:" in str(type(step).__doc__) for step in PREPARE.passes)


def test_every_phase_of_prepare_is_dumped(tmp_path: Path) -> None:
    tbt_compile.prepare(MLP(), "2-2-2", X, dump=tmp_path)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(texts) == 20
    assert "softmax" not in texts["00_capture.graph.txt"]
    assert "relu: non-negative: output of relu" in texts["01_classify-activations.txt"]
    assert "linear first: linear" in texts["02_find-sites.txt"]
    assert "ternary012" in texts["03_make-plan.txt"]
    assert "quantized_linear" not in texts["03_make-plan.graph.txt"]
    assert "quantized_linear" in texts["07_insert-quantizers.graph.txt"]


def test_capture_restores_mode_and_attention() -> None:
    model = bart(layers=1)
    model.model.encoder.train()
    context = make_context(model)
    Capture().apply(context)
    assert model.model.encoder.training
    assert not model.model.decoder.training
    assert model.config._attn_implementation == "sdpa"
    assert "softmax" in graph_text(context.captured)


def test_insertion_leaves_the_model_alone() -> None:
    model = bart(layers=1)
    context = PLAN.run(make_context(model))
    before = context.captured.graph
    InsertQuantizers().apply(context)
    assert context.captured.graph is before
    assert not [name for name in model.state_dict() if name.endswith("scale")]
    called = [node.target for node in context.captured.graph.nodes if node.op == "call_module"]
    uncalled = [site.fqn for site in context.planned if site.fqn == "model.shared"]
    assert len(set(called)) == len(context.quantizers) - len(uncalled)


def test_graph_text_shows_parameters_where_they_are_used() -> None:
    context = PLAN.run(make_context(MLP(), "2-2-2", X))
    assert graph_text(context.captured).splitlines()[:2] == [
        "x = input",
        "linear = linear(x, first.weight, first.bias)",
    ]


def test_graph_text_names_operands_from_the_first_that_is_no_tensor() -> None:
    graph, aten = fx.Graph(), torch.ops.aten
    x, y = graph.placeholder("x"), graph.placeholder("y")
    joined = graph.call_function(aten.cat.default, ([x, y], 1))
    norm = graph.call_function(aten.layer_norm.default, (joined, [8], None, y))
    gelu = graph.call_function(aten.gelu.default, (norm,), {"approximate": "tanh"})
    graph.output(graph.call_function(torch.mul, (gelu, 0.5)))
    assert graph_text(fx.GraphModule({}, graph)).splitlines()[2:] == [
        "cat_default = cat([x, y], dim=1)",
        "layer_norm_default = layer_norm(cat_default, normalized_shape=[8], weight=None, bias=y)",
        "gelu_default = gelu(layer_norm_default, approximate='tanh')",
        "mul = mul(gelu_default, 0.5)",
        "output mul",
    ]
