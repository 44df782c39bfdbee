"""Squeezes of free dimensions: none in the graph. A batch that they would remove, or a slice, is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import tbt_compile
from tbt_compile.adapters.module_unit import export_module
from tbt_compile.passes.export import export_program, run_program

Function = Callable[[Tensor], Tensor]


class Squeezes(nn.Module):
    """Takes [B, 4]; squeezes what a linear layer returns."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


@pytest.mark.parametrize(
    ("function", "squeezed", "shape"),
    [
        (lambda x: x.squeeze(0), 0, (1, 1)),
        (lambda x: x.squeeze(), 1, (1,)),
        (lambda x: x.squeeze((0, 1)), 1, (1,)),
        (lambda x: x[None].squeeze((0, -2)), 1, (1, 1)),
        (lambda x: x.squeeze(-1), 1, (1,)),
        (lambda x: x.sum().squeeze(), 1, ()),
    ],
)
def test_free_dimensions_are_kept(function: Function, squeezed: int, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 4)
    program = export_program(Squeezes(function), (x,), dynamic_shapes=({0: Dim.AUTO},))
    assert sum("aten.squeeze" in str(node.target) for node in program.graph.nodes) == squeezed
    assert torch.equal(run_program(program, [x])[0], Squeezes.forward(_of(program, function), x))
    assert run_program(program, [x[:1]])[0].shape == shape


def _of(program: torch.export.ExportedProgram, function: Function) -> Squeezes:
    model = Squeezes(function)
    model.load_state_dict(program.state_dict)
    return model


@pytest.mark.parametrize(
    ("function", "least"),
    [
        (lambda x: x.squeeze(0), 2),
        (lambda x: x.squeeze(), 2),
        (lambda x: x.squeeze().softmax(0).sum()[None], None),
        (lambda x: x.squeeze(-1), None),
        (lambda x: x[1:2].exp().sum(0), 2),
        (lambda x: x[:2].exp().sum(0), None),
    ],
)
def test_a_batch_that_would_be_squeezed_or_cut_off_is_below_the_bound(
    function: Function, least: int | None
) -> None:
    x = torch.randn(3, 4)
    model = tbt_compile.prepare(Squeezes(function), "2-2-2", example_inputs=(x,))
    model(x)
    units = export_module(tbt_compile.freeze(model.eval()).module)
    assert [bound["limit"] for bound in units.settings["bounds"]] == ([least] if least else [])
