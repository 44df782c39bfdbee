"""Quantized embeddings become look-ups in the packed weight."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import calls, export, run, weight
from torch import Tensor, nn

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.fuse_embedding import FuseEmbedding
from tbt_compile.quantizers import quantized_embedding

IDS = torch.tensor([[0, 6, 3], [3, 3, 1]])


class Embedding(nn.Module):
    def __init__(self, bits: int, padding: int | None = None) -> None:
        super().__init__()
        self.weight, self.padding = weight(bits, 7, 65), padding
        self.position = nn.Embedding(3, 65)

    def forward(self, ids: Tensor) -> Tensor:
        return 3 * quantized_embedding(ids, self.weight(), self.padding) + self.position(torch.arange(3))


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("padding", [None, 1])
def test_look_ups_are_fused_and_positions_are_not(bits: int, padding: int | None) -> None:
    unit = export(Embedding(bits, padding), IDS)
    expected = run(unit, IDS)
    assert run_pass(FuseEmbedding(), unit).changes == 1
    assert sorted(calls(unit)) == ["add", "arange", "bit_embedding", "embedding", "mul"]
    assert torch.equal(run(unit, IDS)[0], expected[0])


class OtherScales(nn.Module):
    """Rows of one set of ids with the scales of another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = weight(2, 7, 65)

    def forward(self, ids: Tensor) -> Tensor:
        codes, scale = self.weight()
        embedding = torch.nn.functional.embedding
        return embedding(ids, codes) * embedding(ids + 1, scale)


def test_what_is_no_quantized_embedding_is_left_alone() -> None:
    unit = export(OtherScales(), IDS % 6)
    assert run_pass(FuseEmbedding(), unit).changes == 0
    assert calls(unit).count("embedding") == 2


def test_golden() -> None:
    check_pass(FuseEmbedding(), export(Embedding(2), IDS))
