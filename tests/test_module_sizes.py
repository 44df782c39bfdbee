"""Sizes of plain modules: which are dynamic, and that a call of any other is refused by name and number."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import MLP, prepared
from test_lowering_modules import frozen_module, lowered
from torch import Tensor, nn
from torch.export import Dim

import tbt_compile
from tbt_compile import CompiledModule
from tbt_compile.adapters import adapter_for
from tbt_compile.errors import InputError, LoweringError


class Mixer(nn.Module):
    """`[B, T, 8]` and `[B, T]` -> `[B, T, 4]`; another way beyond 20 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        y = self.linear(x) * weights.softmax(1).unsqueeze(-1)
        return y * 3 if x.shape[1] > 20 else y


def inputs(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, tokens, 8), torch.randn(rows, tokens)


def described(module: nn.Module, *args: Tensor) -> dict[str, Any]:
    """What the manifest would say of a module that is exported, not compiled."""
    frozen = frozen_module(module, "2-2-2", args).module
    return adapter_for(frozen).export_units(frozen).settings


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, CompiledModule]:
    """An exported program with two dynamic dimensions, one of them from 4 to 64."""
    dims = ({0: Dim.AUTO, 1: Dim.AUTO(min=4, max=64)}, {0: Dim.AUTO, 1: Dim.AUTO})
    program = torch.export.export(Mixer().eval(), inputs(3, 9), dynamic_shapes=dims)
    module = tbt_compile.prepare(program, "2-2-2")
    module(*inputs(3, 9))
    frozen = tbt_compile.freeze(module)
    return frozen.module, lowered(frozen)


@pytest.mark.parametrize(("rows", "tokens"), [(3, 9), (1, 4), (5, 20)])
def test_the_dimensions_of_an_exported_program_stay_dynamic(
    exported: tuple[nn.Module, CompiledModule], rows: int, tokens: int
) -> None:
    module, compiled = exported
    args = inputs(rows, tokens)
    np.testing.assert_allclose(compiled(*args), module(*args), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (21, "dimension 1 of x is 21: expected at most 20"),
        (3, "dimension 1 of x is 3: expected at least 4"),
    ],
)
def test_a_call_beyond_the_range_of_a_dimension_is_refused(
    exported: tuple[nn.Module, CompiledModule], tokens: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        exported[1](*inputs(2, tokens))


def test_dimensions_that_are_equal_stay_equal(exported: tuple[nn.Module, CompiledModule]) -> None:
    with pytest.raises(InputError, match=r"weights is float32 of shape \[2, 8\]: expected float32 \[2, 9\]"):
        exported[1](inputs(2, 9)[0], inputs(2, 8)[1])


class Lengths(nn.Module):
    """Mean of the first few tokens of `[B, T, 8]`, as many as `[B]` says."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        return (self.linear(x) * inside.unsqueeze(-1)).sum(1) / lengths[:, None] + (x[:, :1] + x).amax(
            (1, 2)
        )[:, None]


def test_a_mask_of_lengths() -> None:
    dims = ({0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO})
    program = torch.export.export(
        Lengths().eval(), (torch.randn(3, 9, 8), torch.tensor([1, 4, 9])), dynamic_shapes=dims
    )
    module = tbt_compile.prepare(program, "8-8-8")
    module(torch.randn(3, 9, 8), torch.tensor([1, 4, 9]))
    frozen = tbt_compile.freeze(module)
    compiled = lowered(frozen)
    for rows, tokens in ((3, 9), (1, 4), (5, 20)):
        args = torch.randn(rows, tokens, 8), torch.randint(1, tokens + 1, (rows,))
        np.testing.assert_allclose(compiled(*args), frozen.module(*args), rtol=1e-4, atol=1e-5)


def test_other_dimensions_are_static_for_every_input() -> None:
    settings = described(Mixer(), *inputs(3, 9))
    assert [entry["shape"] for entry in settings["inputs"]] == [["n0", 9, 8], ["n0", 9]]
    assert settings["bounds"] == []


class Branching(nn.Module):
    """Computes something else for some numbers of rows."""

    def __init__(self, special: Callable[[int], bool]) -> None:
        super().__init__()
        self.linear, self.special = nn.Linear(8, 4), special

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * 2 + 1 if self.special(x.shape[0]) else x)


def test_a_branch_beyond_the_example_is_a_bound() -> None:
    settings = described(Branching(lambda n: n > 4), torch.randn(3, 8))
    assert settings["inputs"][0]["shape"] == ["n0", 8]
    (bound,) = settings["bounds"]
    assert (bound["size"], bound["limit"], bound["largest"]) == ("n0", 4, True)
    assert "another branch beyond (test_module_sizes.py" in bound["reason"]


class Squeezed(nn.Module):
    """Fails with one row."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] != 1, "no single rows"
        return self.linear(x)


def test_a_forward_that_takes_no_single_row() -> None:
    settings = described(Squeezed(), torch.randn(3, 8))
    assert settings["inputs"][0]["shape"] == ["n0", 8]
    assert settings["bounds"] == [
        {"size": "n0", "limit": 2, "largest": False, "reason": "the forward fails below"}
    ]


@pytest.mark.parametrize(
    ("special", "reason"),
    [
        (lambda n: n % 4 == 3, r"captured for calls where .*\(test_module_sizes.py"),
        (lambda n: n == 3, "the forward branches on it or relates it to another size"),
    ],
)
def test_a_fixed_number_of_rows_is_announced(
    special: Callable[[int], bool], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = described(Branching(special), torch.randn(3, 8))["inputs"]
    assert entry["shape"] == [3, 8]
    assert re.search(reason, entry["fixed"])
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("Branching: the first dimension of 'x' is fixed to the 3 of the")
    assert record.getMessage().endswith(entry["fixed"])


def test_one_row_in_the_example_is_announced(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (entry,) = described(MLP(), torch.randn(1, 8))["inputs"]
    assert entry["fixed"] == "the example has one row; give at least two rows in the example inputs"
    assert "fixed to the 1 of the example inputs" in caplog.text
    assert "specialized" not in capfd.readouterr().err


def test_a_static_exported_program_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(3, 8)
    program = tbt_compile.prepare(torch.export.export(MLP().eval(), (x,)), "2-2-2")
    program(x)
    module = tbt_compile.freeze(program).module
    (entry,) = adapter_for(module).export_units(module).settings["inputs"]
    assert "static in the exported program" in entry["fixed"]
    assert entry["fixed"] in caplog.text


def test_one_mask_for_all_rows_is_no_batch(caplog: pytest.LogCaptureFixture) -> None:
    x, weights = inputs(3, 9)
    first, second = described(Mixer(), x, weights[:1])["inputs"]
    assert first["shape"] == ["n0", 9, 8] and "fixed" not in first
    assert second["shape"] == [1, 9] and "one row" in second["fixed"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_empty_argument_names_the_free_size(exported: tuple[nn.Module, CompiledModule]) -> None:
    x, weights = inputs(2, 9)
    with pytest.raises(InputError, match=r"x is float32 of shape \[0, 9, 8\]: dimension 0 \(n0\) is free"):
        exported[1](x[:0], weights[:0])
    with pytest.raises(InputError, match=r"dimension 1 \(n1\) is free, but at least 4"):
        exported[1](x[:, :0], weights[:, :0])


class Masked(nn.Module):
    """`[B, T, 8]` and a mask `[B, T]` -> `[B, 4]`; looks the rows of the mask up, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(x.shape[0])
        return (self.linear(x) * mask[rows].unsqueeze(-1)).sum(1)


def test_sizes_that_change_together_have_one_name() -> None:
    x, mask = torch.randn(3, 5, 8), torch.rand(3, 5)
    frozen = frozen_module(Masked(), "2-2-8", (x, mask))
    compiled = tbt_compile.lower(
        frozen, dynamic_shapes={"x": {1: Dim("length", max=40)}, "mask": {1: Dim.AUTO}}
    )
    assert isinstance(compiled, CompiledModule)
    assert [each["shape"] for each in compiled.description["inputs"]] == [["n0", "n1", 8], ["n0", "n1"]]
    for rows, tokens in ((3, 5), (1, 7), (4, 40)):
        given = torch.randn(rows, tokens, 8), torch.rand(rows, tokens)
        np.testing.assert_array_equal(compiled(*given), frozen(*given).numpy())
    with pytest.raises(InputError, match=r"mask is float32 of shape \[2, 5\]: expected float32 \[3, 5\]"):
        compiled(x, mask[:2])
    with pytest.raises(
        InputError, match="dimension 1 of x is 41: expected at most 40: dynamic_shapes says so"
    ):
        compiled(torch.randn(2, 41, 8), torch.rand(2, 41))


@pytest.mark.parametrize(
    ("dynamic_shapes", "message"),
    [
        ({"y": {1: Dim.AUTO}}, "there is no tensor argument 'y'"),
        ({"x": {3: Dim.AUTO}}, "'x': it has 3 dimensions, and no 3"),
        ({"x": {1: "length"}}, "dimension 1 is 'length'; expected torch.export.Dim"),
        ({"x": 1}, "'x': expected a dict from dimensions to a Dim"),
        ({"x": {2: Dim.AUTO}}, "dimension 2 of 'x' is fixed to 8 by the forward of Masked"),
        (7, "has to be a dict by argument, or a sequence for x, mask"),
    ],
)
def test_dynamic_shapes_that_do_not_fit_are_refused(dynamic_shapes: Any, message: str) -> None:
    frozen = frozen_module(Masked(), "2-2-8", (torch.randn(3, 5, 8), torch.rand(3, 5)))
    with pytest.raises(LoweringError, match=message):
        tbt_compile.lower(frozen, dynamic_shapes=dynamic_shapes)


def test_dynamic_shapes_of_a_generator_are_refused() -> None:
    frozen = tbt_compile.freeze(prepared("gpt2", "2-2-8", 1))
    with pytest.raises(LoweringError, match="GPT2LMHeadModel generates text"):
        tbt_compile.lower(frozen, dynamic_shapes={"input_ids": {1: Dim.AUTO}})


class Dilated(nn.Module):
    """A convolution whose numbers come from a size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(16, 16), nn.Parameter(torch.randn(8, 16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = x.shape[1] // 2 + 1
        return nn.functional.conv1d(self.linear(x).mT, self.weight, padding=step, dilation=step)


def test_numbers_of_an_operator_that_come_from_a_size_are_refused() -> None:
    model = tbt_compile.prepare(Dilated(), "2-2-8", (torch.randn(3, 6, 16),))
    with pytest.raises(LoweringError, match=r"conv1d.* is computed in another way for other sizes"):
        tbt_compile.lower(model, dynamic_shapes=({1: torch.export.Dim.AUTO},))


class Half(nn.Module):
    """Returns the first rows of `[B, 8]`, as many as a function of B says."""

    def __init__(self, count: Callable[[int], int]) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(8, 8), count

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[: self.count(x.shape[0])]


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (lambda rows: int(rows / 2), r"math.trunc\(n0 / 2\) == 3"),
        (lambda rows: math.floor(rows * 0.5), "math.floor"),
        (lambda rows: round(rows * 0.5), "round"),
        (lambda rows: int(rows**0.5), "math.trunc"),
    ],
)
def test_rounded_sizes_fix_a_dimension(
    count: Callable[[int], int], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch captures such a number as that of the example, and says for which sizes it is right."""
    caplog.set_level(logging.WARNING)
    described(Half(count), torch.randn(6, 8))
    assert re.search(
        f"the first dimension of 'x' is fixed to the 6 of the example inputs.*{why}", caplog.text
    )
