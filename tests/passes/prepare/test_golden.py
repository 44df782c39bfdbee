"""Plans and rewritten graphs as text, compared with the files in `tests/golden`.

After a change that is meant, write them anew with `TBT_UPDATE_GOLDEN=1 pytest tests/passes/test_golden.py`
and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from models import MLP, AttentionBlock, bart, llama, t5_gated
from torch import nn

import tbt_compile
from tbt_compile.passes.base import graph_text
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context

GOLDEN = Path(__file__).parent.parent / "golden"


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("TBT_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} has changed"


@pytest.mark.parametrize("family", [bart, t5_gated, llama])
def test_plan(family: object) -> None:
    model = family(layers=1)  # type: ignore[operator]
    check(f"plan_{family.__name__}", f"{tbt_compile.plan(model, '2-1-2')}\n")  # type: ignore[attr-defined]


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
    check(f"graph_{name}", graph_text(context.captured))
