"""Bounds on the sizes of a call, from the branches that an export took."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.passes.export import export_program
from tbt_compile.passes.size_guards import (
    InexpressibleError,
    named_shapes,
    size,
    size_bounds,
    smallest,
)
from tbt_compile.passes.size_relations import MOST_TRIED, simplified
from tbt_compile.size_bounds import SizeBound, broken, tightest

ROWS, TOKENS = size("rows"), size("tokens")
SHAPES = ({0: ROWS, 1: TOKENS}, {0: ROWS, 1: TOKENS + 1})


class Branch(nn.Module):
    """Takes `[5, 9]` and `[5, 10]`; computes something else for some sizes."""

    def __init__(self, special: Callable[[Tensor, Tensor], bool]) -> None:
        super().__init__()
        self.special = special

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 2 if self.special(x, y) else x), y + 1


def bounds_of(special: Callable[[Tensor, Tensor], bool]) -> list[SizeBound]:
    dims = {0: Dim.AUTO, 1: Dim.AUTO}
    program = export_program(
        Branch(special), (torch.randn(5, 9), torch.randn(5, 10)), dynamic_shapes=(dims, dims)
    )
    return size_bounds(program, SHAPES, "the unit of Branch")


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        (lambda x, _: x.shape[1] > 16, ("tokens", 16, True)),
        (lambda x, _: x.shape[1] > 8, ("tokens", 9, False)),
        (lambda _, y: y.shape[1] > 16, ("tokens", 15, True)),
        (lambda _, y: y.shape[1] >= 10, ("tokens", 9, False)),
        (lambda x, _: 2 * x.shape[1] + 3 >= 40, ("tokens", 18, True)),
        (lambda x, _: x.shape[1] // 4 < 2, ("tokens", 8, False)),
        (lambda x, _: x.shape[0] > 6, ("rows", 6, True)),
        (lambda x, y: x.shape[1] >= y.shape[1], None),
        (lambda x, y: x.shape[0] != y.shape[0], None),
        (lambda x, y: (x.shape[0] * x.shape[1]) % y.shape[0] != 0, None),
    ],
)
def test_a_branch_on_one_size_is_a_bound(
    special: Callable[[Tensor, Tensor], bool], expected: tuple[str, int, bool] | None
) -> None:
    found = bounds_of(special)
    assert [(bound.size, bound.limit, bound.largest) for bound in found] == ([expected] if expected else [])
    for bound in found:
        side = "beyond" if bound.largest else "below"
        assert bound.reason.startswith(f"the forward takes another branch {side} (test_size_guards.py:")


def test_an_assertion_is_a_bound_too() -> None:
    def asserted(x: Tensor, _: Tensor) -> bool:
        assert x.shape[1] < 30
        torch._check(x.shape[1] > 3)
        return x.shape[1] > 40

    assert {(bound.limit, bound.largest) for bound in bounds_of(asserted)} == {(29, True), (4, False)}


@pytest.mark.parametrize(
    ("special", "relation"),
    [
        (lambda x, _: x.shape[1] % 3 == 0, r"\(tokens % 3\) == 0"),
        (lambda x, _: x.shape[1] == 9, r"tokens == 9"),
        (lambda x, _: x.shape[0] < x.shape[1], r"rows < tokens"),
    ],
)
def test_any_other_branch_is_refused(special: Callable[[Tensor, Tensor], bool], relation: str) -> None:
    with pytest.raises(
        InexpressibleError, match=rf"the unit of Branch was captured for calls where {relation}.*_guards.py:"
    ):
        bounds_of(special)


def test_one_excluded_size_bounds_the_side_of_the_example() -> None:
    assert [(bound.limit, bound.largest) for bound in bounds_of(lambda x, _: x.shape[1] != 7)] == [(8, False)]
    assert [(bound.limit, bound.largest) for bound in bounds_of(lambda x, _: x.shape[1] != 20)] == [
        (19, True)
    ]


def test_an_excluded_remainder_is_a_bound() -> None:
    (bound,) = bounds_of(lambda x, _: (x.shape[1] + 1) % 4 != 0)
    assert (bound.limit, bound.modulus) == (3, 4)
    assert [size for size in range(1, 13) if bound.excludes(size)] == [3, 7, 11]
    assert bound.demand().startswith(
        "expected no multiple of 4 plus 3: the forward takes another branch there"
    )


def test_what_cannot_be_solved_is_tried() -> None:
    bounds = bounds_of(lambda x, _: x.shape[1] // 4 + x.shape[1] > 5)
    assert {(bound.limit, bound.largest) for bound in bounds} == {(5, False), (MOST_TRIED, True)}
    assert bounds_of(lambda x, _: x.shape[0] * (x.shape[1] // 4) != -3) == []


def test_excluded_sizes_in_the_middle_are_a_bound() -> None:
    middle, most = bounds_of(lambda x, _: x.shape[1] // 8 != 4)
    assert [size for size in range(1, 60) if middle.excludes(size)] == list(range(32, 40))
    assert middle.demand().startswith("expected none from 32 to 39: the forward takes another branch there")
    assert (most.limit, most.largest) == (MOST_TRIED, True)


def test_relations_that_hold_for_all_positive_sizes_are_no_bounds() -> None:
    rows, tokens = size("rows"), size("tokens")
    whole = sympy.Mod(32 * rows * (tokens - 1) + 32 * rows, 32 * rows, evaluate=False)
    assert simplified(sympy.Eq(whole, 0)) == sympy.true
    least = sympy.Min(32, 32 * tokens)
    assert simplified(sympy.Eq(tokens * least, 32 * tokens)) == sympy.true
    scaled = sympy.Mod(rows, rows * (8 + tokens - sympy.Mod(tokens, 8)), evaluate=False)
    assert (
        simplified(sympy.Ne(scaled, 0)) == sympy.true or rows in simplified(sympy.Ne(scaled, 0)).free_symbols
    )
    open_relation = sympy.Eq(sympy.Mod(tokens, 8), 0)
    assert simplified(open_relation) == open_relation


def test_names_follow_the_symbols() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    dims = {0: Dim.AUTO, 1: Dim.AUTO}
    program = export_program(Sum(), (torch.randn(5, 9), torch.randn(5, 9)), dynamic_shapes=(dims, dims))
    assert [{dim: str(name) for dim, name in shape.items()} for shape in named_shapes(program)] == [
        {0: "n0", 1: "n1"}
    ] * 2


def test_smallest_sizes_leave_no_dimension_empty() -> None:
    assert smallest([{0: ROWS, 1: TOKENS}, {2: TOKENS - 1}]) == {ROWS: 1, TOKENS: 2}


def test_the_tightest_bounds_are_kept() -> None:
    loose, tight, other = (SizeBound("n", limit, True, "") for limit in (9, 7, 7))
    assert tightest([loose, tight, other]) == [tight]
    assert tightest([SizeBound("n", 2, False, ""), SizeBound("n", 4, False, "")])[0].limit == 4
    assert broken([tight], {"n": 8}) is tight
    assert broken([tight], {"n": 7}) is None
    assert broken([tight], {"m": 8}) is None
