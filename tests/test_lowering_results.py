"""Plain modules: results of every form, arguments by position, and forwards that work in place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from models import MLP
from test_lowering_modules import frozen_module, lowered
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import tbt_compile
from tbt_compile.errors import InputError, LoweringError
from tbt_compile.runtime.results import put_together


class Both(NamedTuple):
    """Two tensors."""

    low: Tensor
    high: Tensor


def test_arguments_of_other_precisions_are_converted() -> None:
    frozen = frozen_module(MLP().bfloat16(), "2-2-2", (torch.randn(3, 8, dtype=torch.bfloat16),))
    compiled = lowered(frozen)
    assert compiled.description["inputs"][0]["dtype"] == "float32"
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(4, 8).to(dtype).requires_grad_()
        result = compiled(x)
        assert result.dtype == np.float32
        assert np.array_equal(result, compiled(x.detach().float().numpy()))
    assert np.array_equal(result, compiled(x.detach().numpy()))
    x64 = torch.randn(4, 8, dtype=torch.float64)
    assert np.array_equal(compiled(x64), compiled(x64.float()))
    assert np.array_equal(compiled(np.full((4, 8), 3)), compiled(np.full((4, 8), 3.0)))
    with pytest.raises(InputError, match="int64 numbers that float32 cannot"):
        compiled(np.full((4, 8), 2**24 + 1))


class Results(nn.Module):
    """Returns everything that can be returned, and takes `*rest`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, *rest: Tensor, factor: float = 2.0) -> dict[str, Any]:
        y = self.layer(x) + sum(rest)
        nested = {"all": [y, (x, 3, None)], "weight": self.layer.bias}
        return {
            "both": Both(y.minimum(x), y * factor),
            "nested": nested,
            "view": x[None, :, :4],
            "rest": rest,
        }


def test_results_come_back_as_they_are_returned() -> None:
    def inputs(rows: int) -> list[Tensor]:
        return [torch.randn(rows, 8) for _ in range(3)]

    frozen = frozen_module(Results(), "2-2-2", tuple(inputs(3)))
    compiled = lowered(frozen)
    assert [argument["name"] for argument in compiled.description["inputs"]] == ["x", "rest[0]", "rest[1]"]
    for rows in (3, 1, 5):
        given = inputs(rows)
        arrays = [each.numpy().copy() for each in given]
        result, expected = compiled(*arrays), frozen(*given)
        assert isinstance(result["both"], Both)
        assert result["nested"]["all"][1][1:] == (3, None)
        found, wanted = (pytree.tree_flatten(each) for each in (result, expected))
        assert found[1] == wanted[1]
        for one, other in zip(found[0], wanted[0], strict=True):
            if isinstance(other, Tensor):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert not np.shares_memory(result["rest"][0], arrays[1]), "a result is an argument"


def test_a_class_that_is_not_imported_has_a_stand_in() -> None:
    layout = {"tuple": [{"tensor": 1}, {"value": 2}], "fields": ["first", "second"], "class": "nowhere:Pair"}
    result = put_together(layout, "ab")
    assert (type(result).__name__, result.first, result.second) == ("Pair", "b", 2)


class ChangesInPlace(nn.Module):
    """Writes into views of a tensor that it reads afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) * 1
        y[:, 0].add_(5)
        z = y.relu_()
        return y * 2 + z


def test_changes_of_views_reach_what_they_are_views_of() -> None:
    frozen = frozen_module(ChangesInPlace(), "2-2-2", (torch.randn(2, 4, 8),))
    x = torch.randn(3, 4, 8)
    np.testing.assert_allclose(lowered(frozen)(x.numpy()), frozen(x), rtol=1e-5, atol=1e-6)


class CountsRows(MLP):
    """Returns a size."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), x.shape[0]


def test_a_size_as_a_result_is_named() -> None:
    frozen = frozen_module(CountsRows(), "2-2-2", (torch.randn(2, 8),))
    with pytest.raises(LoweringError, match=r"CountsRows returns item 1, a size \(`x.shape\[i\]`\)"):
        tbt_compile.lower(frozen)


class Counter(MLP):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_forward_with_state_is_refused() -> None:
    frozen = frozen_module(Counter(), "2-2-2", (torch.randn(2, 8),))
    with pytest.raises(LoweringError, match="changes 'calls' in every call"):
        tbt_compile.lower(frozen)
