"""Attention kernels: their specs and operands, fused and in two products."""

from __future__ import annotations

import pytest
import torch
from converter_tools import imported
from torch import Tensor, nn

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)

TBT = torch.ops.tbt

SCALE = torch.tensor(0.5)
QUERY = torch.randn(2, 6, 4, 64)  # six heads share three of keys and values
PACKED = torch.randn(2, 3, 70, 64)


class Fused(nn.Module):
    def __init__(self, *, masked: bool, heads_last: bool) -> None:
        super().__init__()
        self.masked, self.heads_last = masked, heads_last

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
        kinds = ("ternary", "binary", True, "ternary012", "ternary", False)
        return TBT.attention(
            *(query, scale, keys, scale, mask if self.masked else None, 0.125),
            *(scale, values, scale, *kinds, self.heads_last),
        )


class Products(nn.Module):
    def forward(self, query: Tensor, keys: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        scores = TBT.attention_scores(query, scale, keys, scale, "int8", "int8", False)
        weights = scores.softmax(-1)
        return TBT.attention_context(weights, scale, values, scale, "uint8", "int8", False)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads_last", [False, True])
def test_fused_attention(masked: bool, heads_last: bool) -> None:
    query = QUERY.transpose(1, 2).contiguous() if heads_last else QUERY
    packed = (
        TBT.pack_keys(PACKED, SCALE, "binary", False),
        TBT.pack_values(PACKED, SCALE, "ternary", False),
    )
    text, kernels = imported(
        Fused(masked=masked, heads_last=heads_last), query, *packed, SCALE, torch.zeros(2, 1, 4, 70)
    )
    products = "64_ternary_binary_1_2_64_ternary012_ternary_0_2"
    assert kernels == [f"attention_{products}_0p125_{int(masked)}_{int(heads_last)}"]
    order = ["query", "scale", "keys", "scale", *(["mask"] if masked else []), "scale", "values", "scale"]
    assert f"({', '.join(order)})" in text
    shape = ", ".join(map(str, query.shape))
    assert f'out_ty=R.Tensor(({shape}), dtype="float32")' in text


def test_products_of_bytes() -> None:
    packed = TBT.pack_keys(PACKED, SCALE, "int8", False)
    text, kernels = imported(Products(), QUERY, packed, packed, SCALE)
    assert {name for name in kernels if not name.startswith("softmax")} == {
        "qk_64_int8_int8_0_2",
        "pv_64_uint8_int8_0_2",
    }
    assert 'R.Tensor((2, 6, 4, 70), dtype="float32")' in text
