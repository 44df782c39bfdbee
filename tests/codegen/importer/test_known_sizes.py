"""Sizes that only the captured graph knows: slices that are broadcast, counts, operands of no dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from converter_tools import Each, assert_compiles
from lowering_tools import export, library_of
from torch import Tensor
from torch.export import Dim

from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.units import import_unit
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def test_the_first_row_is_broadcast() -> None:
    functions: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda x, n: torch.maximum(x, x[:1]),
        lambda x, n: x[:1].amax(1) + x.amax(1),
        lambda x, n: torch.where(x[:1] > 0, x, 0),
        lambda x, n: x[-1:] * x,
        lambda x, n: (x - x[:1]).topk(2, 1)[0],
        lambda x, n: torch.where(torch.arange(x.shape[1]) < n[:, None], x, -1.0),
        lambda x, n: x + torch.arange(x.shape[0] * 2)[::2][:, None],
        lambda x, n: torch.cat([x[:1], x]).sort(0)[0],
        lambda x, n: x[:1].repeat(x.shape[0], 1) + x,
        lambda x, n: x[0].repeat(x.shape[0], 2, 3),
        lambda x, n: torch.tile(x, (2, x.shape[0])).sum(1),
        lambda x, n: x.repeat(1, 2),
    ]
    assert_compiles(Each(*functions), X, torch.tensor([1, 2, 6, 0, 3]), rows=3)


def test_what_a_bound_on_a_size_leaves_of_a_table_is_broadcast() -> None:
    table = torch.arange(384.0).view(64, 6)

    def last_rows(x: Tensor) -> Tensor:
        return table[max(0, 64 - x.shape[0]) :]

    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x + last_rows(x),
        lambda x: last_rows(x)[:, max(0, 5 - x.shape[0]) : 1] * x,
        lambda x: (last_rows(x)[None] / x.expand(2, -1, -1)).sum(0),
        lambda x: torch.where(last_rows(x)[:, :1] > 370, x, last_rows(x)),
    ]
    assert_compiles(Each(*functions), X, rows=7)


def test_a_slice_may_have_fewer_rows_than_the_example() -> None:
    module = Each(lambda x: x[:2].exp().sum(0), lambda x: (x[-1:] + x[:1]).sum(0))
    unit = export(module, X, dims=(({0: Dim.DYNAMIC},),))
    decompose(unit)
    got = library_of([lowering_pipeline().run(unit)], {}).call("unit", tensor(X[:1].numpy()))
    for one, other in zip(got, module(X[:1]), strict=True):
        np.testing.assert_allclose(as_array(one), other.detach().numpy(), rtol=1e-5)


def test_operands_of_no_dimensions() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.sum().cumsum(0),
        lambda x: x.sum().cumprod(-1),
        lambda x: x.long().sum().cumsum(0),
        lambda x: x.sum().sum(0),
        lambda x: x.sum().sum(0, keepdim=True),
        lambda x: x.sum().mean(0),
        lambda x: x.sum().softmax(0),
        lambda x: x.sum().log_softmax(-1),
        lambda x: x.sum().max(0)[0],
        lambda x: x.sum().min(0)[1],
        lambda x: x.sum().amax(0),
        lambda x: x.sum().argmax(0),
        lambda x: x.sum().sort(0)[0],
        lambda x: x.sum().topk(1)[0],
        lambda x: x.sum().prod(0),
        lambda x: (x.sum() > 0).any(0),
        lambda x: x.sum().var(0, correction=0),
        lambda x: x.sum().logsumexp(0),
        lambda x: x.sum().flip(0),
    ]
    assert_compiles(Each(*functions), X, rows=3)


def test_parts_without_elements() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.split([1, 0, 5], 1)[2] + x.split([0, 1, 5], -1)[1],
        lambda x: x.split([1, 0, 5], 1)[1].sum(1),
        lambda x: torch.cat([x[:, 3:2], x, x[:, :0]], 1),
        lambda x: torch.cat([x[:0], x]),
        lambda x: x.narrow(1, 2, 0).sum(1) + x[:, 6:].sum(1),
        lambda x: x[:, :0].exp().prod(1),
        lambda x: (x[:, :0] > 0).all(1),
    ]
    assert_compiles(Each(*functions), X, rows=3)


def test_a_result_without_elements_is_refused() -> None:
    message = r"aten\.slice\.Tensor, which cannot be compiled: it returns a tensor without elements"
    unit = export(Each(lambda x: x[:, 3:2]), X, dims=(({0: Dim.DYNAMIC},),))
    with pytest.raises(LoweringError, match=message):
        import_unit(unit, Kernels(host_target().isa))
