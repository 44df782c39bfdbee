"""Operators that TVM's own converters handle, and those that nobody does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from converter_tools import Each, assert_compiles
from lowering_tools import export
from torch import nn

from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline


def test_layers_on_images() -> None:
    torch.manual_seed(0)
    module = Each(
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8, stride=2),
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.ELU(),
        nn.Sequential(nn.ReLU(), nn.Flatten()),
    )
    assert_compiles(module.eval(), torch.randn(3, 8, 12, 12))


def test_functions_of_rows() -> None:
    module = Each(lambda x: x.cumsum(1), lambda x: x.argmax(1))
    assert_compiles(module, torch.randn(3, 5))


def test_what_tvm_gets_wrong_is_decomposed() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([1, 0, 3, 2])
    grid = torch.rand(1, 3, 2, 2) * 2 - 1
    module = Each(
        lambda x: x.any(1).float(),
        lambda x: x.any(0, keepdim=True).float(),
        lambda x: F.cross_entropy(x[0].T.reshape(2, 3), targets[:2], reduction="none"),
        lambda x: F.grid_sample(grid.new_ones(1, 1, 4, 5).cumsum(3), grid, align_corners=False) + x.sum(),
        lambda x: F.pixel_shuffle(x[:, None].repeat(1, 4, 1, 1), 2),
        lambda x: x.squeeze(0).sum().expand(x.shape[0]),
        lambda x: x[:, :1].squeeze(1),
    )
    assert_compiles(module, torch.randn(3, 3, 2))


def test_an_operator_without_a_converter_is_refused() -> None:
    unit = lowering_pipeline().run(export(nn.GLU(), torch.randn(3, 4)))
    with pytest.raises(
        LoweringError, match=r"calls aten\.glu\.default, which cannot be compiled: it has no compiled form"
    ):
        compile_units([unit], host_target(), {})
