"""Views with strides of their own against torch: overlapping windows of rows, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import tbt_compile
from tbt_compile.errors import LoweringError


def overlapping_chunks(x: Tensor) -> Tensor:
    """Chunks of 4 of 8 positions, each 2 after the last one."""
    chunks = (x * 2).view(x.shape[0], 2, 4, 3)
    strides = list(chunks.stride())
    return chunks.as_strided([x.shape[0], 3, 4, 3], [strides[0], strides[1] // 2, *strides[2:]])


def windows(x: Tensor) -> Tensor:
    padded = nn.functional.pad(x, (0, 0, 2, 2), value=-1)
    row, position, last = padded.stride()
    return padded.as_strided((x.shape[0], 4, 6, 3), (row, 2 * position, position, last))


def diagonal(x: Tensor) -> Tensor:
    return (x + 1).as_strided((x.shape[0], 3), (24, 4), 0)


def of_transposed(x: Tensor) -> Tensor:
    """The positions are first in memory: `[8, B, 3]`."""
    y = (x + 1).transpose(0, 1).contiguous().transpose(0, 1)
    row, position, last = y.stride()
    return y.as_strided((x.shape[0], 3, 4, 3), (row, 2 * position, position, last))


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        views = [function(x) for function in (overlapping_chunks, windows, diagonal, of_transposed)]
        return [*views, self.linear(x)]


def test_windows() -> None:
    torch.manual_seed(0)
    model = tbt_compile.prepare(Views(), "2-2-8", (torch.randn(5, 8, 3),))
    frozen = tbt_compile.freeze(model)
    compiled = tbt_compile.lower(frozen, dynamic_shapes={"x": {0: Dim.AUTO}})
    for rows in (1, 2, 7):
        x = torch.randn(rows, 8, 3)
        for found, expected in zip(compiled(x.numpy()), frozen(x), strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-5)


class Joined(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.cat([x, x])[:5].as_strided((5, 8, 3), (25, 3, 1)), "elements beyond the last one"),
        (lambda x: (x + 1).as_strided((5, 3), (1, 1), 2), "one piece of memory from the start"),
        (lambda x: (x + 1)[:, ::2].as_strided((5, 3), (1, 1)), "one piece of memory from the start"),
    ],
)
def test_what_is_not_of_the_tensor_is_refused(function: Callable[[Tensor], Tensor], message: str) -> None:
    model = tbt_compile.prepare(Joined(function), "2-2-8", (torch.randn(5, 8, 3),))
    with pytest.raises(LoweringError, match=message):
        tbt_compile.lower(tbt_compile.freeze(model))
