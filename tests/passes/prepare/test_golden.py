"""Plans and rewritten graphs as text, compared with the files in `tests/golden`."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_text
from models import MLP, AttentionBlock, bart, llama, t5_gated
from torch import nn

import tbt_compile
from tbt_compile.passes.base import graph_text
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context


@pytest.mark.parametrize("family", [bart, t5_gated, llama])
def test_plan(family: object) -> None:
    model = family(layers=1)  # type: ignore[operator]
    check_text(f"plan_{family.__name__}", f"{tbt_compile.plan(model, '2-1-2')}\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "model", "inputs"),
    [
        ("mlp", MLP(), torch.zeros(2, 8)),
        (
            "attention",
            AttentionBlock(),
            {"x": torch.zeros(2, 5, 16), "mask": torch.ones(2, 5, dtype=torch.bool)},
        ),
    ],
)
def test_graph_with_quantizers(name: str, model: nn.Module, inputs: object) -> None:
    context = PREPARE.run(make_context(model, "2-2-2", inputs))
    check_text(f"graph_{name}", graph_text(context.captured))
