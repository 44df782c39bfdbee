"""What fixes a size in a capture: `int(x.shape[0])` and `one_hot` leave it free."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.passes.export import export_program, run_program
from tbt_compile.passes.free_sizes import free_sizes

INT = (3).__class__


class Counts(nn.Module):
    """Uses `int` for a size, for other values and as a class."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.shape[0]) * int("2") + int(1.5)
        assert isinstance(count, (int, torch.SymInt)) and isinstance(3, int) and not isinstance("3", int)
        assert issubclass(bool, int) and {int: 1}[INT] and hash(int) == hash(INT)
        return x * count


class OneHot(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(x.shape[0])
        return nn.functional.one_hot(places, x.shape[0] + 1) * 2, nn.functional.one_hot(places % 2, 3)


class Divides(nn.Module):
    """PyTorch makes a tensor of a number, here of a size."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        halves = torch.div(x.shape[0], 2, rounding_mode="trunc")
        return x.new_zeros(halves + 1, 3), torch.div(x, 2, rounding_mode="floor")


@pytest.mark.parametrize("module", [Counts(), OneHot(), Divides()])
def test_sizes_stay_free(module: Any) -> None:
    with free_sizes(module, [__name__.partition(".")[0]]):
        program = export_program(module, (torch.rand(5, 2),), dynamic_shapes=({0: Dim.DYNAMIC},))
    for rows in (2, 3, 9):
        x = torch.rand(rows, 2)
        expected = module(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for found, other in zip(run_program(program, [x]), expected, strict=True):
            assert torch.equal(found, other)


def test_all_is_as_before_after_a_capture() -> None:
    one_hot = nn.functional.one_hot

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert int is not INT and nn.functional.one_hot is not one_hot
            raise ValueError("fails")

    module = Fails()
    with pytest.raises(ValueError, match="fails"), free_sizes(module, [__name__.partition(".")[0]]):
        export_program(module, (torch.rand(2),))
    assert "int" not in vars(sys.modules[__name__])
    assert nn.functional.one_hot is one_hot
