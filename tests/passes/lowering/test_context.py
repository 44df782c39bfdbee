"""A copy of an export unit: a graph that can be lowered without changing the original."""

from __future__ import annotations

import torch
from lowering_tools import calls, export, frozen, run
from models import MLP

from tbt_compile.passes.base import graph_text
from tbt_compile.passes.lowering import lowering_pipeline


def test_a_copy_is_lowered_and_the_original_stays() -> None:
    x = torch.randn(3, 8)
    unit = export(frozen(MLP(), "2-2-2", x), x)
    before, expected = graph_text(unit.program.graph_module), run(unit, x)
    copied = unit.copy()
    assert graph_text(copied.program.graph_module) == before
    lowering_pipeline().run(copied)
    copied.program.constants.clear()
    copied.program.graph_signature.input_specs.clear()
    assert "bit_linear" in calls(copied)
    assert graph_text(unit.program.graph_module) == before
    assert torch.equal(run(unit, x)[0], expected[0])


def test_a_copy_shares_the_tensors() -> None:
    x = torch.randn(3, 8)
    unit = export(frozen(MLP(), "2-2-2", x), x)
    copied = unit.copy()
    assert copied.program.state_dict is unit.program.state_dict
    assert [*copied.program.constants] == [*unit.program.constants]
    assert torch.equal(run(copied, x)[0], run(unit, x)[0])
