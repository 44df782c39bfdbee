"""Exports change settings of the whole process only while they trace."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models import MLP
from torch import Tensor, nn

from tbt_compile.passes.base import graph_text
from tbt_compile.passes.export import export_program, why

X = torch.randn(3, 8)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("no such thing")


def settings() -> tuple[bool, bool, bool]:
    config = torch._dynamo.config
    return gc.isenabled(), torch.fx.config.do_not_emit_stack_traces, config.fake_tensor_cache_enabled


def test_settings_are_restored_after_success_and_failure() -> None:
    before = settings()
    export_program(MLP().eval(), (X,))
    assert settings() == before
    with pytest.raises(ArithmeticError, match="no such thing"):
        export_program(Raises(), (X,))
    assert settings() == before


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_branch_on_values_is_named_in_one_sentence() -> None:
    with pytest.raises(Exception, match="data-dependent") as caught:
        export_program(Decides(), (X,))
    sentence = why(caught.value)
    assert sentence.startswith(
        "it branches on the values of a tensor ('return x * 2 if x.sum() > 0 else x', "
    )
    assert "\n" not in sentence
    assert why(ArithmeticError("one\ntwo")) == "one"


def test_threads_take_turns() -> None:
    before, module = settings(), MLP().eval()
    with ThreadPoolExecutor(2) as threads:
        programs = list(threads.map(lambda _: export_program(module, (X,)), range(4)))
    assert settings() == before
    assert len({graph_text(program.graph_module) for program in programs}) == 1


def test_the_graph_is_that_of_a_plain_export() -> None:
    module = MLP().eval()
    shapes = ({0: torch.export.Dim("rows")},)
    ours = export_program(module, (X,), dynamic_shapes=shapes)
    with torch.no_grad():
        plain = torch.export.export(module, (X,), dynamic_shapes=shapes, strict=False)
    assert graph_text(ours.graph_module) == graph_text(plain.graph_module)
    assert torch.equal(ours.module()(X), plain.module()(X))
