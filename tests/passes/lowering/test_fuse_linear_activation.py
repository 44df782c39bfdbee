"""A linear layer applies the activation function that alone reads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_text import check_pass
from lowering_tools import calls, export, frozen, library_of, run
from torch import Tensor, nn

from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.passes.lowering.fuse_linear_activation import FuseLinearActivation
from tbt_compile.runtime.bound_library import as_array, tensor

X = torch.randn(3, 70)


class Layer(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], again: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(70, 41, bias=bias)
        self.function, self.again = function, again

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.function(y) + y if self.again else self.function(y)


def lowered(layer: nn.Module, recipe: str = "2-2-2") -> LoweringContext:
    unit = export(frozen(layer, recipe, X), X)
    run_pass(CleanUp(), unit)
    run_pass(FuseLinear(), unit)
    return unit


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (F.gelu, "gelu"),
        (lambda y: F.gelu(y, approximate="tanh"), "gelu_tanh"),
        (F.silu, "silu"),
        (torch.tanh, "tanh"),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_a_function_is_fused(function: Callable[[Tensor], Tensor], name: str, bias: bool) -> None:
    unit = lowered(Layer(function, bias=bias))
    expected = run(unit, X)
    assert run_pass(FuseLinearActivation(), unit).changes == 1
    assert calls(unit) == ["bit_linear"]
    (node,) = [node for node in unit.graph.nodes if "bit_linear" in str(node.target)]
    assert operands(node).function == name
    assert torch.equal(run(unit, X)[0], expected[0])


@pytest.mark.parametrize("recipe", ["1-1-1", "2-2-8"])
@pytest.mark.parametrize("rows", [1, 40])
def test_the_kernel_computes_what_two_kernels_do(recipe: str, rows: int) -> None:
    x = torch.randn(rows, 70)
    layer = frozen(Layer(F.gelu), recipe, X)
    apart, together = (export(layer, x) for _ in range(2))
    for unit in (apart, together):
        run_pass(CleanUp(), unit)
        run_pass(FuseLinear(), unit)
    assert run_pass(FuseLinearActivation(), together).changes == 1
    known = {t.data_ptr(): name for name, t in [*layer.named_parameters(), *layer.named_buffers()]}
    first, second = (
        as_array(library_of([unit], known).call("unit", tensor(x.numpy()))[0]) for unit in (apart, together)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("function", [torch.sigmoid, torch.abs])
def test_other_functions_are_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    unit = lowered(Layer(function))
    before = calls(unit)
    assert run_pass(FuseLinearActivation(), unit).changes == 0
    assert calls(unit) == before


def test_results_that_are_read_twice_are_left_alone() -> None:
    unit = lowered(Layer(F.gelu, again=True))
    assert run_pass(FuseLinearActivation(), unit).changes == 0
    assert calls(unit) == ["bit_linear", "gelu", "add"]


def test_golden() -> None:
    check_pass(FuseLinearActivation(), lowered(Layer(F.gelu)))


def test_a_second_function_stays() -> None:
    unit = lowered(Layer(lambda y: torch.relu(torch.tanh(y))))
    expected = run(unit, X)
    for changes in (1, 0):
        assert run_pass(FuseLinearActivation(), unit).changes == changes
        assert calls(unit) == ["bit_linear", "relu"]
        assert torch.equal(run(unit, X)[0], expected[0])
