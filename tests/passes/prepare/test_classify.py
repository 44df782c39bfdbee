"""Sign analysis: every rule of the lattice, on small functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from models import bart, t5, t5_gated
from torch import Tensor, nn

import tbt_compile
from tbt_compile.passes.prepare.capture import export_graph
from tbt_compile.passes.prepare.classify import Decision, Sign, classify_graph


class Function(nn.Module):
    """A function as a module, with a linear layer behind it whose input is what the tests look at."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(self.function(x, y))


def decision(function: Callable[[Tensor, Tensor], Tensor], *, gelu: bool = False) -> Decision:
    module = Function(function).eval()
    graph = export_graph(module, (torch.randn(3, 4), torch.randn(3, 4)), {}).graph
    (linear,) = [node for node in graph.nodes if "linear" in str(node.target) and node.op == "call_function"]
    return classify_graph(graph, gelu)[linear.args[0].name]


def changed(function: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that changes a ReLU's output in place and returns it."""

    def changes(x: Tensor, y: Tensor) -> Tensor:
        z = F.relu(x)
        function(z, y)
        return z

    return changes


NONNEG: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "softmax": (lambda x, y: x.softmax(-1), "output of softmax"),
    "relu": (lambda x, y: F.relu(x), "output of relu"),
    "sigmoid": (lambda x, y: torch.sigmoid(x), "output of sigmoid"),
    "abs": (lambda x, y: x.abs(), "output of abs"),
    "exp": (lambda x, y: x.exp(), "output of exp"),
    "even power": (lambda x, y: x**2, "even power"),
    "relu6": (lambda x, y: F.relu6(x), "output of relu6"),
    "clamp": (lambda x, y: x.clamp(min=0.5), "lower bound of 0.5"),
    "clamp from above": (lambda x, y: F.relu(x).clamp_max(2.0), "output of relu"),
    "views": (lambda x, y: F.relu(x).view(4, 3).transpose(0, 1).reshape(3, 4)[:, :4], "output of relu"),
    "dropout": (lambda x, y: F.dropout(F.relu(x), 0.1, False), "output of relu"),
    "scaled": (lambda x, y: F.relu(x) * 2.0 + 1, "output of relu"),
    "divided": (lambda x, y: F.relu(x) / 8.0, "output of relu"),
    "product": (
        lambda x, y: F.relu(x) * y.sigmoid(),
        "mul of non-negatives (output of relu, output of sigmoid)",
    ),
    "sum": (lambda x, y: F.relu(x) + y.abs(), "add of non-negatives"),
    "matmul": (lambda x, y: F.relu(x) @ y.abs().t() @ y.abs(), "matmul of non-negatives"),
    "concatenation": (lambda x, y: torch.cat([F.relu(x[:, :2]), y.abs()[:, :2]], -1), "cat of non-negatives"),
    "maximum": (lambda x, y: torch.maximum(x, F.relu(y)), "maximum with a non-negative"),
    "mask": (lambda x, y: F.relu(x).masked_fill(y > 0, 0.0), "output of relu"),
    "where": (lambda x, y: torch.where(y > 0, F.relu(x), 0.0), "output of relu"),
    "padding": (lambda x, y: F.pad(F.relu(x), (1, 1))[:, 1:5], "output of relu"),
    "circular padding": (lambda x, y: F.pad(F.relu(x)[None], (2, 2), "circular")[0, :, 4:], "output of relu"),
    "windows": (lambda x, y: F.relu(x).unfold(1, 2, 2).reshape(3, 4), "output of relu"),
    "pool": (lambda x, y: F.adaptive_avg_pool1d(F.relu(x), 4), "output of relu"),
    "hardsigmoid": (lambda x, y: F.hardsigmoid(x), "output of hardsigmoid"),
    "part assigned": (changed(lambda z, y: z[:, 0].copy_(y[:, 0].abs())), "output of relu"),
    "part cleared": (changed(lambda z, y: z[:, 1:].zero_()), "output of relu"),
    "mean": (lambda x, y: F.relu(x).mean(-1, keepdim=True).expand(3, 4), "output of relu"),
}
SIGNED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "input": (lambda x, y: x, "model input"),
    "view of input": (lambda x, y: x.view(4, 3).reshape(3, 4), "model input"),
    "gelu": (lambda x, y: F.gelu(x), "which reaches -0.17"),
    "silu": (lambda x, y: F.silu(x), "output of silu"),
    "tanh": (lambda x, y: x.tanh(), "output of tanh"),
    "layer norm": (lambda x, y: F.layer_norm(F.relu(x), (4,)), "output of layer_norm"),
    "times negative": (lambda x, y: F.relu(x) * -2.0, "mul with a signed operand (number)"),
    "times signed": (lambda x, y: F.relu(x) * y, "mul with a signed operand (model input)"),
    "difference": (lambda x, y: F.relu(x) - F.relu(y), "output of sub"),
    "subtracting add": (lambda x, y: torch.add(F.relu(x), F.relu(y), alpha=-1), "output of add"),
    "filled": (lambda x, y: F.relu(x).masked_fill(y > 0, -1.0), "masked_fill with a signed operand (number)"),
    "padded": (
        lambda x, y: F.pad(F.relu(x)[:, 1:], (1, 0), value=-1.0),
        "pad with a signed operand (number)",
    ),
    "odd power": (lambda x, y: x**3, "output of pow"),
    "clamp below zero": (lambda x, y: x.clamp(min=-1.0), "clamp with a signed operand"),
    "clamp with a negative maximum": (lambda x, y: F.relu(x).clamp(max=-1.0), "upper bound of -1.0"),
    "clamp_max below zero": (lambda x, y: F.relu(x).clamp_max(-0.5), "upper bound of -0.5"),
    "hardtanh below zero": (lambda x, y: F.hardtanh(F.relu(x), -2.0, -1.0), "upper bound of -1.0"),
    "changed in place": (changed(lambda z, y: z.sub_(1)), "output of sub"),
    "part overwritten": (changed(lambda z, y: z[:, 0].copy_(y[:, 0])), "copy with a signed operand"),
    "view changed": (changed(lambda z, y: z.t()[1:].mul_(-1)), "mul with a signed operand"),
    "leaky relu": (lambda x, y: F.leaky_relu(x), "output of leaky_relu"),
}


@pytest.mark.parametrize("name", NONNEG)
def test_nonnegative(name: str) -> None:
    function, reason = NONNEG[name]
    found = decision(function)
    assert found.sign is Sign.NONNEG
    assert reason in found.reason


@pytest.mark.parametrize("name", SIGNED)
def test_signed(name: str) -> None:
    function, reason = SIGNED[name]
    found = decision(function)
    assert found.sign is Sign.SIGNED
    assert reason in found.reason


@pytest.mark.parametrize("name", NONNEG)
def test_nonnegative_tensors_are_never_negative(name: str) -> None:
    function, _ = NONNEG[name]
    for seed in range(20):
        torch.manual_seed(seed)
        assert float(function(torch.randn(3, 4) * 3, torch.randn(3, 4)).min()) >= 0.0


def test_gelu_is_nonnegative_when_the_recipe_asks() -> None:
    found = decision(lambda x, y: F.gelu(x) * 2.0, gelu=True)
    assert found.sign is Sign.NONNEG
    assert "clipped at 0 as the recipe asks" in found.reason


def test_models_follow_their_activation_function() -> None:
    nonnegative = tbt_compile.Recipe.parse("2-2-2", gelu="nonnegative")
    fc2 = "model.encoder.layers.0.fc2"
    assert tbt_compile.plan(bart(layers=1))[fc2].operand("input").encoding.value == "ternary"
    assert tbt_compile.plan(bart(layers=1), nonnegative)[fc2].operand("input").encoding.value == "ternary012"
    relu = bart(layers=1, activation_function="relu")
    assert tbt_compile.plan(relu)[fc2].operand("input").encoding.value == "ternary012"
    # T5 computes ReLU; its gated form multiplies a GELU, written out by hand, with a signed tensor.
    wo = "encoder.block.0.layer.1.DenseReluDense.wo"
    assert tbt_compile.plan(t5(layers=1))[wo].operand("input").encoding.value == "ternary012"
    assert tbt_compile.plan(t5_gated(layers=1), nonnegative)[wo].operand("input").encoding.value == "ternary"


def test_gelu_written_as_a_module_is_recognised() -> None:
    nonnegative = tbt_compile.Recipe.parse("2-2-2", gelu="nonnegative")
    model = bart(layers=1, activation_function="gelu_new")
    operand = tbt_compile.plan(model, nonnegative)["model.encoder.layers.0.fc2"].operand("input")
    assert operand.encoding.value == "ternary012"
