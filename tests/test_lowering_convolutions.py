"""Quantized convolutions, compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from call_models import IMAGE, Features

import tbt_compile
from tbt_compile import CompiledModule, FrozenModel, Recipe

Pair = tuple[FrozenModel, CompiledModule]


@pytest.fixture(scope="module", params=[True, False])
def pair(request: pytest.FixtureRequest) -> Pair:
    """A frozen model, with or without `conv`, whose statistics come from training, and the compiled one."""
    torch.manual_seed(0)
    model = tbt_compile.prepare(Features(), Recipe.parse("2-2-2", conv=request.param), IMAGE)
    model.train()(torch.randn(8, *IMAGE.shape[1:]))
    frozen = tbt_compile.freeze(model)
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModule)
    return frozen, compiled


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_result_is_that_of_the_frozen_model(pair: Pair, rows: int) -> None:
    frozen, compiled = pair
    x = torch.randn(rows, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(rows))
    expected = frozen(x).numpy()
    assert rows < 5 or expected.std(0).max() > 0.05, "all images have the same scores"
    near = 1e-5 * float(np.abs(expected).max())
    np.testing.assert_allclose(compiled(x.numpy()), expected, rtol=1e-5, atol=near)


def test_the_kernels_are_those_of_linear_layers(pair: Pair) -> None:
    frozen, compiled = pair
    shapes = {"12_8", "5_6"}  # outputs and inputs of the pointwise convolution, and of the head
    shapes |= {"8_27", "12_108", "6_36"} if frozen.recipe.conv else {"float_8", "float_12", "float_6"}
    others = {"row_sum", "matmul_float"}  # a mean, and a convolution with groups
    kernels = set(compiled.description["kernels"])
    assert others < kernels
    assert {"_".join(name.split("_")[1:3]) for name in kernels - others} == shapes


def test_a_saved_model_computes_the_same(pair: Pair, tmp_path: Path) -> None:
    frozen, compiled = pair
    x = IMAGE.numpy()
    assert np.array_equal(tbt_compile.load(compiled.save(tmp_path / "compiled"))(x), compiled(x))
    again = tbt_compile.load(frozen.save(tmp_path / "frozen"), model=Features())
    assert again.recipe == frozen.recipe
    assert torch.equal(again(IMAGE), frozen(IMAGE))
