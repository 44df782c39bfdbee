"""Packing kernels: which is called, with what, and the shape of the packed tokens."""

from __future__ import annotations

import pytest
import torch
from converter_tools import imported
from torch import Tensor, nn

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)

TBT = torch.ops.tbt


class Pack(nn.Module):
    """Keys and values `[2, 3, 70, 64]`, packed."""

    def __init__(self, encoding: str, heads_last: bool) -> None:
        super().__init__()
        self.kind = (encoding, False, heads_last)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return TBT.pack_keys(x, scale, *self.kind), TBT.pack_values(x, scale, *self.kind)


class Append(Pack):
    """The same behind what they were packed to."""

    def forward(self, x: Tensor, scale: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        grown = TBT.append_keys(keys, x, scale, *self.kind)
        if values.dtype is torch.int8:
            return grown, TBT.append_keys(values, x, scale, *self.kind)
        return grown, TBT.append_values(values, keys, x, scale, *self.kind)


X, SCALE = torch.randn(2, 3, 70, 64), torch.tensor(0.5)


@pytest.mark.parametrize("heads_last", [False, True])
def test_words(heads_last: bool) -> None:
    x = X.transpose(1, 2).contiguous() if heads_last else X
    text, kernels = imported(Pack("ternary", heads_last), x, SCALE)
    suffix = f"64_ternary_0_{int(heads_last)}"
    assert kernels == [f"pack_keys_{suffix}", f"pack_values_{suffix}"]
    assert 'R.Tensor((2, 3, 70, 2), dtype="uint64")' in text
    assert 'R.Tensor((2, 3, 2, 2, 64), dtype="uint64")' in text


def test_bytes_pack_values_like_keys() -> None:
    text, kernels = imported(Pack("int8", False), X, SCALE)
    assert kernels == ["pack_keys_64_int8_0_0"]
    assert text.count('out_ty=R.Tensor((2, 3, 70, 68), dtype="int8")') == 2


def test_appended_tokens_are_given_the_length_of_the_past() -> None:
    past = Pack("ternary", False)(X, SCALE)
    text, kernels = imported(Append("ternary", False), X, SCALE, *past)
    assert kernels == ["append_keys_64_ternary_0_0", "append_values_64_ternary_0_0"]
    assert text.count("(x, scale, 70)") == 2
    assert 'R.Tensor((2, 3, 140, 2), dtype="uint64")' in text
    assert 'R.Tensor((2, 3, 3, 2, 64), dtype="uint64")' in text
