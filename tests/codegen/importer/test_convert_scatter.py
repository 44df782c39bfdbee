"""Assignments to parts of a tensor against torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from converter_tools import Each, assert_compiles
from torch import Tensor

PLACES = torch.tensor([0, -1, 3])
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(30).view(5, 6) % 3 == 0


def assigned(where: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that assigns to parts of a copy of its first input."""

    def function(x: Tensor, mask: Tensor) -> Tensor:
        y = x * 1
        where(y, mask)
        return y * 2 + y

    return function


class Assignments(Each):
    """Assignments to parts of x `[B, 6]`."""

    def __init__(self) -> None:
        super().__init__(
            *map(
                assigned,
                (
                    self.first_columns,
                    self.one_column,
                    self.every_other,
                    self.last_rows,
                    self.but_the_last_row,
                    self.filled,
                    self.scaled,
                    self.masked,
                    self.masked_rows,
                    self.masked_by_rows,
                    self.at_places,
                    self.added_at_places,
                    self.at_pairs,
                    self.over_all,
                ),
            ),
            lambda x, mask: x.scatter(1, mask.long() + 2, 7.0),
            lambda x, mask: x.scatter(-1, (x > 0)[:, :2].int().long(), x),
            lambda x, mask: x.scatter_add(1, mask.long(), x),
            lambda x, mask: x.scatter_reduce(1, mask.long(), x, "amax"),
            lambda x, mask: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0),
            lambda x, mask: x.index_add(1, self.places.abs(), x[:, :3]),
            lambda x, mask: x.index_copy(1, self.places.abs(), x[:, :3]),
            lambda x, mask: x.index_fill(1, self.places, 4.0),
            lambda x, mask: torch.zeros_like(mask).scatter_(1, x.argmin(1, keepdim=True), True),
            lambda x, mask: x.masked_scatter(mask, x * 3),
        )
        self.register_buffer("places", PLACES)

    def first_columns(self, y: Tensor, mask: Tensor) -> None:
        y[:, :4] = 0

    def one_column(self, y: Tensor, mask: Tensor) -> None:
        y[..., 0] = y[..., 1]
        y[:, -1] = y[:, 2]

    def every_other(self, y: Tensor, mask: Tensor) -> None:
        y[:, 1::2] *= 3
        y[:, -2:-1] = 8

    def last_rows(self, y: Tensor, mask: Tensor) -> None:
        y[1:] = y[1:] + 1

    def but_the_last_row(self, y: Tensor, mask: Tensor) -> None:
        y[:-1] = -1

    def filled(self, y: Tensor, mask: Tensor) -> None:
        y[:, 1:3].fill_(float("inf"))
        y[:, 4].zero_()

    def scaled(self, y: Tensor, mask: Tensor) -> None:
        y.sub_(1).mul_(2)
        y.t()[2].copy_(y[:, 0])

    def masked(self, y: Tensor, mask: Tensor) -> None:
        y[mask] = 0
        y[:, mask[0]] = float("-inf")

    def masked_rows(self, y: Tensor, mask: Tensor) -> None:
        y[mask[:, 0]] = 5

    def masked_by_rows(self, y: Tensor, mask: Tensor) -> None:
        y[mask[:, 0]] = y[0] + 1
        y[:, mask[0]] = y[:, :1]
        blocks = y.view(-1, 2, 3)
        blocks[mask[:, :2]] = blocks[0, 0] * 2

    def at_places(self, y: Tensor, mask: Tensor) -> None:
        y[:, self.places] = y[:, :3]

    def added_at_places(self, y: Tensor, mask: Tensor) -> None:
        y.index_put_((mask[:, :1].long() * 0, self.places), y[:, :3], accumulate=True)

    def at_pairs(self, y: Tensor, mask: Tensor) -> None:
        y[torch.arange(y.shape[0]), mask.long().argmax(1)] = 9

    def over_all(self, y: Tensor, mask: Tensor) -> None:
        y[...] = mask


def test_assignments_to_rows() -> None:
    assert_compiles(Assignments(), X, MASK, rows=4)
