"""Bounds on inputs, from the tables that a graph indexes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.passes.export import export_program
from tbt_compile.passes.index_bounds import IndexBounds, index_bounds

ROWS = 20


class _Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, 4)
        self.register_buffer("places", torch.arange(12))


class Direct(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids.unsqueeze(0))


class Offset(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids + 2)


class Indexed(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table.weight[ids]


class Length(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return ids[..., None] + self.table(torch.arange(ids.shape[1]) + 2)


class Counted(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        seen = (ids != 1).long()
        return self.table(seen.cumsum(1) * seen + 1)


class Clamped(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids.clamp(max=ROWS - 1))


class Buckets(_Table):
    """Distances as T5 buckets them."""

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        distance = (places[None] - places[:, None]).abs()
        far = (torch.log(distance.float() + 1) * 3).long()
        return self.table(torch.where(distance < 8, distance, torch.min(far, torch.full_like(far, 15))))


class OfBuffer(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return ids.sum() + self.table(self.places)


class Written(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(2, 9).scatter(1, ids, 1.0)


class Assigned(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table.weight * 1
        rows[ids] = 0.0
        return rows


class FromFloats(_Table):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table((ids * 0.5).long())


def found(module: nn.Module) -> tuple[Any, IndexBounds]:
    ids = torch.randint(0, 9, (2, 7))
    program = export_program(module, (ids,), dynamic_shapes=({1: Dim.DYNAMIC},))
    return program, index_bounds(program)


@pytest.mark.parametrize(
    ("module", "below", "longest"),
    [
        (Direct, ROWS, None),
        (Offset, ROWS - 2, None),
        (Indexed, ROWS, None),
        (Length, None, ROWS - 2),
        (Counted, None, ROWS - 2),
        (Clamped, None, None),
        (Buckets, None, None),
        (OfBuffer, None, None),
        (Written, 9, None),
        (Assigned, ROWS, None),
        (FromFloats, None, None),
    ],
)
def test_bounds(module: type[nn.Module], below: int | None, longest: int | None) -> None:
    program, bounds = found(module())
    assert bounds.below.get("ids") == below
    assert bounds.longest(program, "ids", 1) == longest
    assert bounds.longest(program, "ids", 0) is None


def test_only_python_indices_may_be_negative() -> None:
    assert found(Indexed())[1].least == {"ids": -ROWS}
    assert found(Direct())[1].least == {"ids": 0}

    class Both(_Table):
        def forward(self, ids: Tensor) -> Tensor:
            return self.table.weight[ids] + self.table(ids)

    assert found(Both())[1].least == {"ids": 0}


def test_the_smallest_table_counts() -> None:
    class Two(_Table):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.Embedding(5, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids) + self.small(ids)

    ids = torch.zeros(2, 3, dtype=torch.int64)
    assert index_bounds(export_program(Two(), (ids,))).below == {"ids": 5}


def test_what_is_checked_elsewhere_bounds_what_follows_from_it() -> None:
    class Positions(_Table):
        def forward(self, mask: Tensor) -> Tensor:
            return self.table(mask.cumsum(1) + 1)

    mask = torch.ones(2, 7, dtype=torch.int64)
    program = export_program(Positions(), (mask,), dynamic_shapes=({1: Dim.DYNAMIC},))
    assert index_bounds(program).sizes == {}
    assert index_bounds(program, {"mask": 1}).longest(program, "mask", 1) == ROWS - 2
