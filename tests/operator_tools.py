"""What tests of `tbt::` operators share: encodings, random weights, and the fake against the reference."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack

TBT = torch.ops.tbt
SIGNED = [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8]
UNSIGNED = [Encoding.BINARY01, Encoding.TERNARY012, Encoding.UINT8]
LEARNED = [Encoding.BINARY, Encoding.TERNARY]
SCALE, OTHER = torch.tensor(0.6), torch.tensor(0.9)

BRIEF = settings(max_examples=30)
"""For properties of shapes, which few examples break."""

FEW = st.integers(1, 4)
LENGTHS = st.sampled_from([1, 63, 64, 65]) | st.integers(1, 140)
"""Lengths that are packed: whole words, and tails of every length."""


def weight_of(encoding: Encoding, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A packed weight of random codes, and the scales of its rows."""
    levels = torch.tensor(encoding.levels)
    return pack(levels[torch.randint(len(levels), (rows, columns))], encoding), torch.rand(rows, 1) + 0.1


def heads(batch: int, count: int, tokens: int, width: int, heads_last: bool) -> Tensor:
    """Random floats `[B, H, T, D]`, or `[B, T, H, D]`."""
    return torch.randn((batch, tokens, count, width) if heads_last else (batch, count, tokens, width))


def check_export(operator: Any, *arguments: Any) -> None:
    """Torch's own checks of an operator's schema and fake."""
    torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))


def check_fake(operator: Any, *arguments: Any) -> None:
    """The fake gives shapes and dtypes of what the reference computes."""
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(value) if isinstance(value, Tensor) else value for value in arguments]
        fakes = pytree.tree_leaves(operator(*given))
    results = pytree.tree_leaves(operator(*arguments))
    assert [(x.shape, x.dtype) for x in fakes] == [(x.shape, x.dtype) for x in results]
