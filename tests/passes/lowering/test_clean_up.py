"""Clean-up: identities, dropout, empty caches, assertions and dead code go; everything else stays."""

from __future__ import annotations

import torch
from golden_text import check_pass
from lowering_tools import calls, export, run
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp


class Everything(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.dropout(torch.relu(x), 0.1, training=False).detach()
        torch.exp(y)  # nobody reads it
        kept = torch.nn.functional.dropout(y, 0.5, training=True)
        return torch.nn.functional.dropout(kept, 0.0, training=True)


def test_identities_and_dead_code_go() -> None:
    unit = export(Everything(), torch.randn(3))
    assert run_pass(CleanUp(), unit).changes == 3
    assert calls(unit) == ["relu", "dropout"]
    (left,) = [node for node in unit.graph.nodes if "dropout" in str(node.target)]
    assert left.args[1:] == (0.5, True)


class Cached(nn.Module):
    """What a model does with a cache that is empty, and with one that is not."""

    def __init__(self, filled: bool) -> None:
        super().__init__()
        self.filled = filled

    def forward(self, x: Tensor) -> Tensor:
        cache = DynamicCache()
        if self.filled:
            cache.update(x, x, 0)
        keys, _ = cache.update(2 * x, x, 0)
        return keys


def test_the_empty_start_of_a_cache_goes() -> None:
    x = torch.randn(1, 2, 3, 4)
    for filled, left in ((False, ["mul"]), (True, ["mul", "cat"])):
        unit = export(Cached(filled), x)
        expected = run(unit, x)
        assert "cat" in calls(unit)
        assert run_pass(CleanUp(), unit).changes > 0
        assert calls(unit) == left
        assert torch.equal(run(unit, x)[0], expected[0])


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        whole = x[:, :][0:].to(torch.float32)
        return whole[:, 1:] + whole[:, :2] + whole[:, ::2]


def test_slices_of_everything_and_casts_to_the_same_type_go() -> None:
    x = torch.randn(2, 3)
    unit = export(Views(), x)
    expected = run(unit, x)
    run_pass(CleanUp(), unit)
    assert calls(unit) == ["slice", "slice", "add", "slice", "add"]
    assert torch.equal(run(unit, x)[0], expected[0])


class Joined(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        empty = x.new_empty(0)
        return torch.cat([empty, x, empty, y], dim=1)


def test_a_concatenation_keeps_its_other_operands() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    unit = export(Joined(), x, y)
    assert run_pass(CleanUp(), unit).changes > 0
    (cat,) = [node for node in unit.graph.nodes if "cat" in str(node.target)]
    assert [node.name for node in cat.args[0]] == ["x", "y"]
    assert torch.equal(run(unit, x, y)[0], torch.cat([x, y], 1))


class Narrow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float64).sum()


def test_assertions_go_and_casts_stay() -> None:
    unit = export(Narrow(), torch.randn(3))
    assert "_assert_tensor_metadata" in calls(unit)
    assert run_pass(CleanUp(), unit).changes == 1
    assert calls(unit) == ["to", "sum"]


def test_a_clean_graph_is_left_alone() -> None:
    unit = export(nn.Linear(3, 4), torch.randn(2, 3))
    assert run_pass(CleanUp(), unit).changes == 0
    assert calls(unit) == ["linear"]


class LeftBehind(nn.Module):
    """One of each thing that goes, around a product."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        product = torch.nn.functional.dropout(x.detach() * y[:, 0:], 0.1, training=False)
        return torch.cat([x.new_empty(0), product.to(torch.float32)], dim=1)


def test_golden() -> None:
    check_pass(CleanUp(), export(LeftBehind(), torch.randn(2, 3), torch.randn(2, 3)))


class Concatenations(nn.Module):
    """Of empty tensors only, and with an empty one that decides the dtype."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        empty = x.new_zeros(0)
        return torch.cat([empty, empty]), torch.cat([x.new_zeros(0, dtype=torch.float64), x])


def test_concatenations_keep_their_shape_and_dtype() -> None:
    x = torch.randn(3)
    unit = export(Concatenations(), x)
    expected = run(unit, x)
    run_pass(CleanUp(), unit)
    for got, wanted in zip(run(unit, x), expected, strict=True):
        assert torch.equal(got, wanted)
        assert got.dtype == wanted.dtype


class Layouts(nn.Module):
    """The first comes back to its order, the second does not, the third is only transposed."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        back = x.transpose(1, 2).contiguous().transpose(-1, -2) + 1
        return back, x.transpose(0, 1).contiguous().transpose(1, 2) + 1, x.transpose(0, 2) + 1


def test_transposes_that_only_change_the_layout_go() -> None:
    x = torch.randn(2, 3, 4)
    unit = export(Layouts(), x)
    expected = run(unit, x)
    run_pass(CleanUp(), unit)
    assert calls(unit).count("transpose") == 3
    assert calls(unit)[0] == "add"
    assert all(map(torch.equal, run(unit, x), expected))
