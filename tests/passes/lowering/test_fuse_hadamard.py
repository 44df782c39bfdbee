"""Rotations go into the linear layers that take them, whether captured whole or in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_text import check_pass
from lowering_tools import calls, export, library_of, run, weight
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.modules.frozen import FrozenActivation
from tbt_compile.modules.whole_operators import whole_linear, whole_operators
from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.fuse_hadamard import FuseHadamard
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.passes.lowering.pipeline import lowering_pipeline
from tbt_compile.quantizers import quantized_linear
from tbt_compile.runtime.bound_library import as_array, tensor

X = torch.randn(2, 3, 48)


class Rotated(nn.Module):
    """One or two quantized layers with a rotated input, 48 to 7."""

    def __init__(self, encoding: Encoding = Encoding.TERNARY, layers: int = 1) -> None:
        super().__init__()
        self.input = FrozenActivation(encoding, True, torch.tensor(0.7), hadamard=16)
        self.weights = nn.ModuleList(weight(2, 7, 48) for _ in range(layers))
        self.bias = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        whole = [whole_linear(x, self.input, each, self.bias) for each in self.weights]
        if whole[0] is not None:
            return torch.stack(whole)
        codes = self.input(x)
        return torch.stack([quantized_linear(codes, each(), self.bias) for each in self.weights])


@pytest.mark.parametrize("encoding", (Encoding.BINARY, Encoding.TERNARY, Encoding.INT8))
@pytest.mark.parametrize("layers", (1, 2))
def test_every_encoding_and_layers_that_share_a_rotation(encoding: Encoding, layers: int) -> None:
    unit = export(Rotated(encoding, layers), X)
    expected = run(unit, X)
    assert run_pass(FuseLinear(), unit).changes == layers
    assert run_pass(FuseHadamard(), unit).changes == layers
    assert calls(unit) == ["bit_linear"] * layers + ["stack"]
    assert {operands(node).hadamard for node in unit.graph.nodes if "bit_linear" in str(node.target)} == {16}
    assert torch.equal(run(unit, X)[0], expected[0])
    assert run_pass(FuseHadamard(), unit).changes == 0


def test_golden() -> None:
    with whole_operators():
        unit = export(Rotated(), X)
    check_pass(FuseHadamard(), unit)


def test_a_rotation_that_no_layer_takes_has_a_kernel_of_its_own() -> None:
    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.tbt.hadamard(x, 16) * 2

    unit = export(Alone(), X)
    library = library_of([lowering_pipeline().run(unit)], {})
    assert "hadamard" in calls(unit)
    (found,) = library.call("unit", tensor(X.numpy()))
    assert np.array_equal(as_array(found), (torch.ops.tbt.hadamard(X, 16) * 2).numpy())
