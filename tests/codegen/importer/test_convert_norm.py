"""Normalisation layers against torch, and those that would be computed wrongly."""

from __future__ import annotations

import pytest
import torch
from converter_tools import Each, assert_compiles, imported
from lowering_tools import export
from torch import Tensor, nn

from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline


def test_norms_on_images() -> None:
    torch.manual_seed(0)
    module = Each(nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8))
    assert_compiles(module.eval(), torch.randn(3, 8, 12, 12))


def test_norms_on_rows() -> None:
    torch.manual_seed(0)
    assert_compiles(Each(nn.RMSNorm(5), nn.BatchNorm1d(5)).eval(), torch.randn(3, 5))


def test_only_the_last_dimension_has_a_kernel() -> None:
    module = Each(nn.LayerNorm(4), nn.LayerNorm((2, 4)))
    text, kernels = imported(module, torch.randn(3, 2, 4))
    assert kernels == ["layer_norm_4_1em05_0"]
    assert text.count("R.nn.layer_norm(") == 1


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (
            nn.BatchNorm1d(4, track_running_stats=False),
            torch.randn(3, 4),
            "without running statistics depends on the batch",
        ),
        (nn.RMSNorm((2, 4)), torch.randn(3, 2, 4), "rms_norm over several dimensions has no kernel"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(module: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        compile_units([lowering_pipeline().run(export(module, x))], host_target(), {})
