"""Pointwise operators against torch, and those that would be computed wrongly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from converter_tools import Each, assert_compiles
from lowering_tools import export
from torch import Tensor, nn

from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline


def test_activations_on_images() -> None:
    torch.manual_seed(0)
    module = Each(nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.CELU(0.5), nn.CELU())
    assert_compiles(module, torch.randn(3, 8, 12, 12))


def test_functions_of_rows_and_flags() -> None:
    torch.manual_seed(0)
    module = Each(
        lambda x, flags: F.gelu(x.flatten()),
        lambda x, flags: x.masked_fill(flags, float("-inf")),
        lambda x, flags: 1 - x,
        lambda x, flags: x - 2 * x.square(),
        lambda x, flags: flags.int().cumsum(1) + x.shape[0],
    )
    assert_compiles(module, torch.randn(3, 5), torch.rand(3, 5) < 0.5)


@pytest.mark.parametrize(
    ("function", "message"), [(torch.add, "add: alpha is not 1"), (torch.sub, "sub: alpha is not 1")]
)
def test_a_factor_that_would_be_ignored_is_refused(function: Callable[..., Tensor], message: str) -> None:
    unit = export(Each(lambda x: function(x, x, alpha=2)), torch.randn(3, 4))
    with pytest.raises(LoweringError, match=message):
        compile_units([lowering_pipeline().run(unit)], host_target(), {})
