"""Units as one function each: results, views of parameters, constants, steps that measure themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowering_tools import activation, export, library_of, weight
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import LoweringContext, lowering_pipeline
from tbt_compile.quantizers import quantized_linear
from tbt_compile.runtime.bound_library import BoundLibrary, as_array, tensor

X = torch.randn(3, 65)


class Layer(nn.Module):
    """A layer, 65 to 7, and what is returned of it."""

    def __init__(self, result: str = "twice") -> None:
        super().__init__()
        self.result = result
        self.input, self.weight = activation(2), weight(2, 7, 65)
        self.table = nn.Parameter(torch.randn(2, 14))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = quantized_linear(self.input(x), self.weight(), None)
        if self.result == "twice":
            return y, y, y.reshape(-1, 1, 7)
        if self.result == "views of a parameter":
            return y + self.table.reshape(4, 7)[0], self.table.sum(0).reshape(1, 14) * y[:, :1]
        if self.result == "constants":
            return y + torch.tensor([2.0]), y * torch.tensor([2.0]), y - torch.tensor([3.0])
        return x, y


def unit_of(module: nn.Module) -> LoweringContext:
    dims = ({0: Dim.DYNAMIC},)
    return lowering_pipeline().run(export(module, X, dims=dims, name="unit"))


def results(machine: BoundLibrary, x: Tensor) -> list[np.ndarray]:
    return [as_array(output) for output in machine.call("unit", tensor(x.numpy()))]


@pytest.mark.parametrize("result", ["twice", "views of a parameter", "constants"])
def test_every_output_has_memory_of_its_own(result: str) -> None:
    module = Layer(result)
    machine = library_of([unit_of(module)], {})
    for rows in (3, 1, 40):
        x = torch.randn(rows, 65)
        expected = module(x)
        found = results(machine, x)
        assert len(found) == len(expected)
        for got, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-6, atol=1e-6)
        for i, one in enumerate(found):
            assert not any(np.shares_memory(one, other) for other in found[i + 1 :])


def test_results_of_a_call_outlive_the_next() -> None:
    machine = library_of([unit_of(Layer())], {})
    first = results(machine, X)
    kept = [array.copy() for array in first]
    results(machine, torch.randn(3, 65))
    for now, then in zip(first, kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_input_is_no_result() -> None:
    with pytest.raises(LoweringError, match="the unit returns one of its inputs"):
        compile_units([unit_of(Layer("input"))], host_target(), {})


def test_steps_measure_themselves() -> None:
    built = compile_units([unit_of(Layer("constants"))], host_target(), {}, clock=True)
    target = host_target()
    parameters = built.parameters["unit"]
    tensors = {p.name: p.arrange(built.tensors[p.name].detach().numpy(), target.isa) for p in parameters}
    names = [parameter.name for parameter in parameters]
    machine = BoundLibrary(built.library, {"unit": names}, built.outputs, tensors, built.steps)
    assert machine.times["unit"].tolist() == [0] * len(built.steps["unit"])
    assert any(step.startswith("linear_7_65") for step in built.steps["unit"])
    results(machine, X)
    once = machine.times["unit"].copy()
    assert (once > 0).all()
    results(machine, X)
    assert (machine.times["unit"] > once).all()
