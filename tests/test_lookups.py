"""Indices that leave their table: refused as PyTorch refuses them, wherever they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import t5
from test_lowering_modules import frozen_module, lowered
from torch import Tensor, nn

from tbt_compile import CompiledModule
from tbt_compile.adapters import adapter_for
from tbt_compile.adapters.checked_lookups import checked_lookups
from tbt_compile.errors import InputError
from tbt_compile.passes.index_bounds import index_bounds


class Lookups(nn.Module):
    """Indices from floats and from inputs; negative ones, alone and with others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(8, 8), nn.Embedding(20, 8)
        self.register_buffer("grid", torch.arange(60.0).reshape(3, 20))

    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        y = self.linear(x)
        computed = (x[:, 0] * 3).long()
        return (
            y + self.table(computed),
            self.grid[1][computed - 2],
            self.grid[torch.zeros_like(places), places],
            self.grid[:, places] + self.table.weight[places - 1].sum(-1),
            torch.gather(x, 1, (x[:, 1:2] * 2).long()),
            x[(x[:, 2] * 2).long()],
            nn.functional.one_hot((x[:, 3] * 4).long(), 4),
            places // (x[:, 4] * 2 + 1).long() + places % (x[:, 4] * 2 + 1).long(),
        )


def inputs(
    first: float = 2.0,
    second: float = 1.0,
    third: float = 0.0,
    rows: int = 3,
    fourth: tuple[float, float] = (0.5, 0.5),
) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, 8)
    x[:, 0], x[:, 1], x[:, 2] = first, second, third
    x[:, 3:5] = torch.tensor(fourth)
    return x, torch.tensor([-1, 5, -19, 7])[:rows]


@pytest.fixture(scope="module")
def model() -> tuple[Any, CompiledModule]:
    frozen = frozen_module(Lookups(), "2-2-2", inputs())
    return frozen, lowered(frozen)


@pytest.mark.parametrize(
    "numbers", [(2.0, 1.0, 0.0), (6.0, 3.5, 1.0), (0.0, 0.0, -1.5), (6.4, 0.4, 1.5, 4)], ids=str
)
def test_indices_count_as_in_pytorch(model: Any, numbers: tuple[float, ...]) -> None:
    frozen, compiled = model
    args = inputs(*numbers)
    for got, expected in zip(compiled(*args), frozen(*args), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            (7.0, 1.0, 0.0),
            "computed .* leaves its table, aten.embedding.default in module 'table'.* to 19",
        ),
        ((-1.0, 1.0, 0.0), "aten.embedding.default in module 'table'"),
        ((2.0, 4.0, 0.0), "aten.gather.default in the model itself: expected indices from 0 to 7"),
        ((2.0, 1.0, 2.0), "aten.index.Tensor in the model itself: expected indices into dimension 0"),
        ((2.0, 1.0, -2.0), "aten.index.Tensor in the model itself: expected indices into dimension 0"),
    ],
    ids=str,
)
def test_an_index_outside_is_refused(model: Any, numbers: tuple[float, ...], message: str) -> None:
    frozen, compiled = model
    with pytest.raises(InputError, match=message):
        compiled(*inputs(*numbers))
    with pytest.raises((IndexError, RuntimeError)):
        frozen(*inputs(*numbers))


@pytest.mark.parametrize(
    ("fourth", "message"),
    [
        ((1.0, 0.5), "aten.one_hot.default in the model itself: expected indices from 0 to 3"),
        ((-0.25, 0.5), "aten.one_hot.default in the model itself: expected indices from 0 to 3"),
        ((0.5, -0.5), "an integer is divided by 0, .*: expected divisors other than 0"),
    ],
)
def test_a_class_or_a_divisor_that_pytorch_refuses_is_refused(
    model: Any, fourth: tuple[float, float], message: str
) -> None:
    frozen, compiled = model
    with pytest.raises(InputError, match=message):
        compiled(*inputs(fourth=fourth))
    with pytest.raises(RuntimeError):
        frozen(*inputs(fourth=fourth))


@pytest.mark.parametrize(("place", "fits"), [(-19, True), (-20, False), (19, True), (20, False)])
def test_an_input_that_would_leave_a_table_is_refused_before_the_call(
    model: Any, place: int, fits: bool
) -> None:
    frozen, compiled = model
    x, places = inputs()
    places[0] = place
    if fits:
        for got, expected in zip(compiled(x, places), frozen(x, places), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(InputError, match="places holds .*: expected indices from -19 to 19"):
            compiled(x, places)


def test_a_model_that_generates_lists_what_is_clipped() -> None:
    model = t5(layers=1)
    adapter = adapter_for(model)
    with adapter.capturing(model):
        exported = adapter.export_units(model)
    clipped = checked_lookups(exported)["clipped"]
    assert [lookup.rpartition(" ")[2] for lookup in clipped] == ["(encoder)", "(first_step)", "(step)"]
    assert all(
        "relative_attention_bias' (Embedding): expected indices from 0 to 31" in each for each in clipped
    )


def test_indices_that_are_followed_are_not_checked_twice() -> None:
    class Followed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(8, 8), nn.Embedding(20, 8)

        def forward(self, ids: Tensor, x: Tensor) -> Tensor:
            best = (
                self.linear(x)
                + self.table(x.argmax(1))
                + self.table(torch.bucketize(x[:, 0].contiguous(), torch.arange(5.0)))
            )
            return best + self.table(ids % 20) + self.table((ids * 2).clamp(0, 19)) + self.table(ids + 1)

    frozen = frozen_module(Followed(), "2-2-2", (torch.tensor([1, 2]), torch.randn(2, 8))).module
    exported = adapter_for(frozen).export_units(frozen)
    (unit,) = exported.contexts
    assert index_bounds(unit.program, extents=unit.extents).unknown == []
    assert exported.settings["inputs"][0] | {"shape": 0} == {
        "name": "ids",
        "dtype": "int64",
        "shape": 0,
        "below": 19,
        "least": -1,
    }
