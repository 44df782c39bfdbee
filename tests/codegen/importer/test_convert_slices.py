"""Slices and chunks whose bounds are computed from sizes, against torch."""

from __future__ import annotations

import torch
from converter_tools import Each, assert_compiles
from torch import Tensor


def _doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x + 1])


def test_bounds_that_are_sizes() -> None:
    torch.manual_seed(0)
    layers = (
        lambda x: _doubled(x)[: x.shape[0]],
        lambda x: _doubled(x)[x.shape[0] :],
        lambda x: _doubled(x)[1 : x.shape[0] + 1],
        lambda x: _doubled(x)[x.shape[0] : x.shape[0] + 2],
        lambda x: _doubled(x)[: x.shape[0] + 3].amax(0),  # may be beyond the end
        lambda x: _doubled(x)[-x.shape[0] :],
    )
    x = torch.randn(7, 5)
    assert_compiles(Each(*layers), x, rows=4)
    assert_compiles(Each(*layers), x[:3], rows=3)


def test_chunks_of_a_multiple_of_a_size() -> None:
    torch.manual_seed(0)
    layers = (
        lambda x: torch.stack(_doubled(x).chunk(2)),
        lambda x: torch.stack(torch.cat([x, x * 2, x - 1]).T.chunk(3, -1)),
        lambda x: torch.stack(x.chunk(5, 1)),
    )
    assert_compiles(Each(*layers), torch.randn(7, 5), rows=3)
