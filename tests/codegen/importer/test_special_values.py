"""Operators on NaN, infinities, signed zeros, halves and extreme integers, against torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lowering_tools import export, library_of
from special_arithmetic import ARITHMETIC, CLOSE, DIVISIONS
from special_values import BOUNDS, COMPARISONS, ORDER, Functions, named, special_inputs
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor

GROUPS = {
    "bounds": BOUNDS,
    "comparison": COMPARISONS,
    "arithmetic": ARITHMETIC,
    "order": ORDER,
    "division": DIVISIONS,
    "close": CLOSE,
}
"""What is compiled together: the time grows faster than the number of functions."""

OPEN_SIGNS = {
    *("maximum", "minimum", "maxother", "minother", "dmaximum"),
    *("clamp_min_tensor", "clamp_max_tensor", "clamp_tensor"),
    *("fmax", "fmin", "amin", "aminmax", "sortd", "msort", "topk", "topks", "topk0", "softshrink"),
    *("maxpool1", "maxpool2", "maxpool2c", "maxpool2d", "scatter_amax", "scatter_amin"),
}
"""Functions whose result, if it is 0, has a sign that depends on PyTorch's vectors."""


class Group(nn.Module):
    """Functions of the special values; one more output has a parameter, see `Each`."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions, self.factor = functions, nn.Parameter(torch.full((1,), 2.0))

    def forward(self, *tensors: Tensor) -> list[Any]:
        given = named(tensors)
        results = [pytree.tree_leaves(function(given)) for function in self.functions.values()]
        return [*results, tensors[0] * self.factor]


@functools.cache
def compiled(group: str) -> dict[str, list[np.ndarray]]:
    """The results of a group of functions, by name."""
    tensors = tuple(special_inputs().values())
    unit = export(Group(GROUPS[group]), *tensors)
    decompose(unit)
    library = library_of([lowering_pipeline().run(unit)], {})
    left = iter(library.call("unit", *(tensor(each.numpy()) for each in tensors)))
    counts = {name: len(expected(function)) for name, function in GROUPS[group].items()}
    return {name: [as_array(next(left)) for _ in range(count)] for name, count in counts.items()}


def expected(function: Callable[[Any], Any]) -> list[Tensor]:
    return pytree.tree_leaves(function(named(tuple(special_inputs().values()))))


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_special_values(group: str, name: str) -> None:
    for got, result in zip(compiled(group)[name], expected(GROUPS[group][name]), strict=True):
        want = result.numpy()
        assert got.dtype == want.dtype
        if group == "close":
            if name == "gelu":  # PyTorch's, with AVX-512, is NaN at both infinities
                want = np.where(np.isinf(special_inputs()["x"].numpy()), got, want)
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
            continue
        np.testing.assert_array_equal(got, want)
        if want.dtype.kind == "f" and name not in OPEN_SIGNS:
            number = ~np.isnan(want)
            np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(want)[number])
