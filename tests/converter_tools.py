"""Small modules through the importer: as Relax text, or compiled and compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lowering_tools import export, library_of
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.registry import convert_map
from tbt_compile.codegen.importer.relax_api import import_program
from tbt_compile.codegen.target.host import host_target
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor


class Each(nn.Module):
    """Layers, or functions of tensors, that all take the same inputs; one output each.

    One more output is the first input times a parameter: a unit without any has an empty table of places, for
    which alignment is left to chance. Statistics of batch norms are made to differ from 0 and 1.
    """

    def __init__(self, *layers: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layers = layers
        self.factor = nn.Parameter(torch.full((1,), 2.0))
        self.registered = nn.ModuleList([layer for layer in layers if isinstance(layer, nn.Module)])
        for layer in self.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is not None:
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.3, 2.0)  # type: ignore[union-attr]

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [*(layer(*inputs) for layer in self.layers), inputs[0] * self.factor]


def assert_compiles(module: nn.Module, *inputs: Tensor, rows: int = 2) -> None:
    """The compiled module, made with the first few rows, against torch on `inputs`."""
    dims = (tuple({0: Dim.DYNAMIC} for _ in inputs),)
    unit = export(module, *(x[:rows] for x in inputs), dims=dims)
    decompose(unit)
    got = library_of([lowering_pipeline().run(unit)], {}).call("unit", *(tensor(x.numpy()) for x in inputs))
    with torch.no_grad():
        expected = module(*inputs)
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        np.testing.assert_allclose(as_array(one), other.numpy(), rtol=1e-5, atol=1e-5, err_msg=str(index))


def imported(module: nn.Module, *args: Any) -> tuple[str, list[str]]:
    """The module in Relax, as text, and the names of its kernels; no lowering pass runs before."""
    kernels = Kernels(host_target().isa)
    return str(import_program(export(module, *args).program, convert_map(kernels))), sorted(kernels.built)
