"""Rewrite passes run in torch.fx's PassManager and in a pipeline; a pipeline takes any PassBase."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lowering_tools import calls, export, frozen, run
from models import AttentionBlock
from torch import Tensor, fx, nn
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from tbt_compile.errors import LoweringError
from tbt_compile.passes.base import Pipeline, graph_text, run_pass
from tbt_compile.passes.lowering import LoweringContext, lowering_pipeline
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.passes.rewrite import RewritePass, RewriteResult

ATEN = torch.ops.aten
X = torch.randn(2, 5, 16)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * torch.relu(x) + torch.exp(x)


class ReluToAbs(RewritePass):
    """Replaces relu by abs."""

    name = "relu-to-abs"
    targets = (ATEN.relu.default, ATEN.exp.default)
    unmatched = "are no relu"

    def rewrite(self, node: fx.Node) -> bool:
        if node.target is ATEN.exp.default:
            return False
        node.target = ATEN.abs.default
        return True


class ReluToSin(PassBase):
    """A pass by somebody else, who works in place."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        for node in graph_module.graph.find_nodes(op="call_function", target=ATEN.relu.default):
            node.target = ATEN.sin.default
        return PassResult(graph_module, True)


class Nothing(PassBase):
    """A pass that only looks."""

    def call(self, graph_module: fx.GraphModule) -> None:
        assert len(graph_module.graph.nodes) > 1


def test_the_pass_manager_of_torch_gives_the_same_graph() -> None:
    passes = [step for step in lowering_pipeline().passes if isinstance(step, RewritePass)]
    assert len(passes) == 12
    model = frozen(AttentionBlock(), "2-1-2", X)
    ours, theirs = export(model, X), export(model, X)
    Pipeline("rewrites", passes).run(ours)
    result = PassManager(passes, run_checks_after_each_pass=True)(theirs.program.graph_module)
    assert result.modified
    assert result.graph_module is theirs.program.graph_module
    assert graph_text(result.graph_module) == graph_text(ours.program.graph_module)
    assert not PassManager(passes)(result.graph_module).modified
    assert torch.equal(run(ours, X)[0], run(theirs, X)[0])


def test_a_result_counts_and_says_what_stays() -> None:
    module = export(Doubled(), X).program.graph_module
    result = ReluToAbs()(module)
    assert isinstance(result, RewriteResult)
    assert (result.graph_module, result.modified) == (module, True)
    assert (result.changes, result.note) == (2, "1 are no relu")
    assert torch.equal(module(X)[0], X.abs() * X.abs() + X.exp())  # the code is up to date
    again = ReluToAbs()(module)
    assert isinstance(again, RewriteResult)
    assert (again.modified, again.changes) == (False, 0)


def test_dead_code_is_a_modification() -> None:
    module = export(nn.ReLU(), X).program.graph_module
    with module.graph.inserting_before(module.graph.output_node()):
        module.graph.call_function(ATEN.exp.default, tuple(module.graph.find_nodes(op="placeholder")))
    result = FuseLinear()(module)
    assert isinstance(result, RewriteResult)
    assert (result.modified, result.changes) == (True, 0)


def test_a_graph_without_shapes_is_refused() -> None:
    module = fx.symbolic_trace(nn.Linear(2, 2))
    with pytest.raises(LoweringError, match="fuse-linear reads shapes, and input 'input_1' has none"):
        FuseLinear()(module)


def test_passes_of_others_run_in_a_pipeline(tmp_path: Path) -> None:
    unit = export(Doubled(), X)
    steps = (Nothing(), CSEPass(), CleanUp(), ReluToSin())
    Pipeline[LoweringContext]("mixed", steps).run(unit, tmp_path)
    assert calls(unit) == ["sin", "mul", "exp", "add"]
    assert torch.equal(run(unit, X)[0], X.sin() * X.sin() + X.exp())
    texts = sorted(path for path in tmp_path.iterdir() if ".unit" not in path.name)
    headers = [path.read_text().splitlines()[0] for path in texts]
    assert headers == [
        "# Nothing: 0 changes.",
        "# CSEPass: 1 changes.",
        "# clean-up: 0 changes.",
        "# ReluToSin: 1 changes.",
    ]
    assert "sin = " not in (tmp_path / "02_clean-up.unit.txt").read_text()
    assert "= sin(" in (tmp_path / "03_ReluToSin.unit.txt").read_text()


def test_a_pass_that_returns_another_module_hands_over_its_graph() -> None:
    unit = export(Doubled(), X)
    module = unit.program.graph_module
    assert CSEPass()(module).graph_module is not module
    assert run_pass(CSEPass(), unit).changes == 1
    assert unit.program.graph_module is module
    assert module.graph.owning_module is module
    assert calls(unit).count("relu") == 1


class Rewrites(PassBase):
    """A pass by somebody else, who works on a copy."""

    def __init__(self, change: str) -> None:
        self.change = change

    def call(self, graph_module: fx.GraphModule) -> Any:
        if self.change == "result":
            return graph_module
        module = copy.deepcopy(graph_module)
        (relu, *_) = module.graph.find_nodes(op="call_function", target=ATEN.relu.default)
        with module.graph.inserting_before(relu if self.change == "attribute" else None):
            if self.change == "attribute":
                module.register_buffer("folded", X.clone())
                relu.replace_input_with(relu.all_input_nodes[0], module.graph.get_attr("folded"))
            else:
                module.graph.placeholder("more")
        return PassResult(module, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("result", "the pass Rewrites returned a GraphModule: expected torch.fx's PassResult, or None"),
        ("attribute", "the pass Rewrites reads the new attribute 'folded'"),
        ("input", "the pass Rewrites changed the inputs of the graph"),
    ],
)
def test_a_pass_that_changes_more_than_calls_is_named(change: str, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        run_pass(Rewrites(change), export(Doubled(), X))
