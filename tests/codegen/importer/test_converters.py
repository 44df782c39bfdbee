"""Operators of plain modules that are not quantized: what torch computes, TVM's own converters and ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lowering_tools import export, library_of
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor


class Images(nn.Module):
    """Layers on x `[B, 8, 12, 12]`, one output each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(8, 4, 3, padding=1),
                nn.Conv2d(8, 8, 3, groups=8, stride=2),
                nn.BatchNorm2d(8),
                nn.BatchNorm2d(8, affine=False),
                nn.GroupNorm(2, 8),
                nn.MaxPool2d(2),
                nn.AvgPool2d(3, 2, 1),
                nn.AdaptiveAvgPool2d(2),
                nn.GELU(),
                nn.GELU(approximate="tanh"),
                nn.SiLU(),
                nn.CELU(0.5),
                nn.ELU(),
                nn.Sequential(nn.ReLU(), nn.Flatten()),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


class Rows(nn.Module):
    """Functions of x `[B, 5]` and flags `[B, 5]`, one output each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.batch_norm = nn.RMSNorm(5), nn.BatchNorm1d(5)
        self.register_buffer("places", torch.tensor([-1, 0, 3]))

    def forward(self, x: Tensor, flags: Tensor) -> list[Tensor]:
        return [
            self.norm(x),
            self.batch_norm(x),
            F.gelu(x.flatten()),
            x[:, -1],
            x[:, 1],
            x[:, self.places],
            x.narrow(1, 1, 2),
            x.narrow(1, -2, 2),
            x.index_select(1, self.places.abs()),
            x.masked_fill(flags, float("-inf")),
            1 - x,
            x - 2 * x.square(),
            x.amax(1),
            x.amin((0, 1), keepdim=True),
            x.cumsum(1),
            x.argmax(1),
            flags.int().cumsum(1) + x.shape[0],
        ]


def assert_equal(module: nn.Module, *inputs: Tensor) -> None:
    """The compiled module, made for two rows, against torch on `inputs`."""
    dims = tuple({0: Dim.DYNAMIC} for _ in inputs)
    unit = lowering_pipeline().run(export(module, *(x[:2] for x in inputs), dims=dims))
    got = library_of([unit], {}).call("unit", *(tensor(x.numpy()) for x in inputs))
    with torch.no_grad():
        expected = module(*inputs)
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        np.testing.assert_allclose(as_array(one), other.numpy(), rtol=1e-5, atol=1e-5, err_msg=str(index))


def with_statistics(module: nn.Module) -> nn.Module:
    """The module in eval mode, its batch norms with statistics that are not 0 and 1."""
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.3, 2.0)
    return module.eval()


def test_operators_on_images() -> None:
    torch.manual_seed(0)
    assert_equal(with_statistics(Images()), torch.randn(3, 8, 12, 12))


def test_operators_on_rows() -> None:
    torch.manual_seed(0)
    assert_equal(with_statistics(Rows()), torch.randn(3, 5), torch.rand(3, 5) < 0.5)


class Scaled(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, x, alpha=2)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Scaled(torch.add), "add: alpha is not 1"),
        (Scaled(torch.sub), "sub: alpha is not 1"),
        (nn.BatchNorm1d(4, track_running_stats=False), "without running statistics depends on the batch"),
        (nn.GLU(), "Unsupported function types .*glu"),
        (nn.RMSNorm((2, 4)), "rms_norm over several dimensions has no kernel"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(module: nn.Module, message: str) -> None:
    x = torch.randn(3, 2, 4) if isinstance(module, nn.RMSNorm) else torch.randn(3, 4)
    with pytest.raises(LoweringError, match=message):
        compile_units([lowering_pipeline().run(export(module, x))], host_target(), {})
