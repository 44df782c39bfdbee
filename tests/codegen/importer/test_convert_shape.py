"""Slices, windows and gathers against torch, at both ends of their range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from converter_tools import Each, assert_compiles
from lowering_tools import export, library_of
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.units import import_unit
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor

PLACES = torch.tensor([-1, 0, 3])


class Slices(Each):
    """Parts of x `[B, 5]`."""

    def __init__(self) -> None:
        super().__init__(
            lambda x: x[:, -1],
            lambda x: x[:, 1],
            lambda x: x[:, self.places],
            lambda x: x.narrow(1, 1, 2),
            lambda x: x.narrow(1, -2, 2),
            lambda x: x.index_select(1, self.places.abs()),
            lambda x: x.unfold(1, 3, 2),
            lambda x: x.unfold(-1, 5, 1),
            lambda x: x[:, :, None].unfold(1, 3, 1)[..., ::2].unfold(2, 1, 1),
        )
        self.register_buffer("places", PLACES)


def test_slices_of_rows() -> None:
    torch.manual_seed(0)
    assert_compiles(Slices(), torch.randn(3, 5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.select(0, x.shape[0] - 2), "aten.select.int: index is known at run time only"),
        (lambda x: x.narrow(0, 0, x.shape[0] - 1), "aten.narrow.default: length is known at run time only"),
    ],
)
def test_a_symbolic_place_is_refused(function: Callable[[Tensor], Tensor], message: str) -> None:
    dims = (({0: Dim("rows", min=3, max=64)},),)
    unit = export(Each(function), torch.randn(3, 5), dims=dims)
    with pytest.raises(LoweringError, match=message):
        import_unit(unit, Kernels(host_target().isa))


class Windows(Each):
    """Windows over x `[B, 5, 6]`."""

    def __init__(self) -> None:
        super().__init__(
            lambda x: x.unfold(1, 3, 1),
            lambda x: x.unfold(-1, 2, 3) + 1,
            lambda x: x.unfold(1, 5, 1).transpose(1, 3),
        )


def test_overlapping_windows() -> None:
    torch.manual_seed(0)
    assert_compiles(Windows(), torch.randn(3, 5, 6))


def test_dimensions_from_the_end() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.narrow(-1, 1, 3),
        lambda x: x.narrow(-2, -3, 2),
        lambda x: x.select(-1, 2),
        lambda x: x.select(-2, -1),
        lambda x: x.diff(dim=-1),
        lambda x: x.diff(dim=-2),
        lambda x: torch.cat([*x.unbind(-1), *x.split(2, -2)[0].unbind(-1)], -1),
        lambda x: x.chunk(2, -1)[1] + x.tensor_split(2, -1)[0],
        lambda x: x.unflatten(-1, (2, 3)).flip(-2).roll(1, -3).flatten(-2),
        lambda x: x.movedim(-1, -2).swapaxes(-1, -2).index_select(-1, torch.tensor([3, 0])),
        lambda x: x.unfold(-1, 2, 2).amax(-2) + x.cumsum(-2)[..., :2],
        lambda x: torch.stack([x, -x], -1).sum(-3),
    ]
    assert_compiles(Each(*functions), torch.randn(3, 5, 6))


def test_identity_matrices() -> None:
    square: Callable[[Tensor], Tensor] = lambda x: x @ torch.eye(5)  # noqa: E731
    assert_compiles(Each(square, lambda x: x @ torch.eye(5, 3)), torch.randn(3, 5))


def test_a_call_that_cannot_be_imported_is_named_with_its_module() -> None:
    dims = (({0: Dim("rows", min=3, max=64)},),)
    unit = export(Each(nn.Identity(), lambda x: x.tril(x.shape[0] - 2)), torch.randn(5, 5), dims=dims)
    message = (
        r"^the model itself calls aten\.tril\.default, which cannot be compiled: not with the operands "
        r"float32 \[s\d+, 5\], s\d+ - 2; write it with other operators"
    )
    with pytest.raises(LoweringError, match=message):
        import_unit(unit, Kernels(host_target().isa))


def test_padding_and_views_of_sizes_known_at_run_time() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.full((1,), 2.0))

        def forward(self, x: Tensor, ids: Tensor) -> list[Tensor]:
            tokens = x.shape[1]
            return [
                nn.functional.pad(ids, (0, tokens), value=-1),
                nn.functional.pad(x, (1, 0, tokens, 2)),
                x.view(x.shape[0], tokens, -1, 2) * self.factor,
                x.reshape(-1, tokens, 4) * self.factor,
            ]

    dims = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    unit = export(Padded(), torch.randn(3, 5, 4), torch.ones(3, 2, dtype=torch.int64), dims=dims)
    decompose(unit)
    library = library_of([lowering_pipeline().run(unit)], {})
    for rows, tokens in ((3, 5), (2, 7), (1, 1)):
        x, ids = torch.randn(rows, tokens, 4), torch.randint(9, (rows, 2))
        found = library.call("unit", tensor(x.numpy()), tensor(ids.numpy()))
        padded = Padded()(x, ids)
        for one, other in zip(found, padded, strict=True):
            np.testing.assert_array_equal(as_array(one), other.detach().numpy())
