"""Bi-Attention: one-bit attention weights from the sign of the scores, without a softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import AttentionBlock, bart
from torch import nn

import tbt_compile
from tbt_compile.errors import PlanError
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context
from tbt_compile.recipe import Recipe

BIBERT = Recipe.parse(
    "1-1-1", weight_method="sign", activation_method="sign", center_activations=False, attention="bool"
)


def sign(x: torch.Tensor) -> torch.Tensor:
    return (x >= 0).float() * 2 - 1


def test_probabilities_are_the_scores_that_are_not_negative() -> None:
    model = bart(layers=1).eval()
    tbt_compile.prepare(model, BIBERT)
    caught = {}
    core = model.model.decoder.layers[0].self_attn.tbt_attention
    for name in ("query", "key", "probabilities", "value"):
        getattr(core, name).register_forward_hook(
            lambda _m, args, out, name=name: caught.__setitem__(name, (args[0], out))
        )
    ids = torch.randint(3, model.config.vocab_size, (2, 6))
    model(input_ids=ids, labels=ids)
    (query, _), (key, _), (scores, (codes, scale)) = caught["query"], caught["key"], caught["probabilities"]
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    expected = (sign(query) @ sign(key).transpose(-1, -2) >= 0).float().masked_fill(future, 0)
    assert torch.equal(codes, expected)
    assert scale.item() == 1
    assert (scores[..., future] < -1e30).all()


def test_the_captured_graph_and_the_eager_model_agree() -> None:
    x = torch.randn(3, 5, 16)
    model = AttentionBlock().eval()
    context = make_context(model, BIBERT, x)
    PREPARE.run(context, None)
    with torch.no_grad():
        assert torch.equal(context.captured(x), model(x))


class Fused(nn.Module):
    """Attention by one call of `F.scaled_dot_product_attention`."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.options = nn.Linear(16, 48), options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inner(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value, **self.options)


MASK = torch.rand(5, 5, generator=torch.Generator().manual_seed(2)) < 0.6


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, torch.ones(5, 5, dtype=torch.bool)),
        ({"is_causal": True}, torch.ones(5, 5, dtype=torch.bool).tril()),
        ({"attn_mask": MASK}, MASK),
        ({"attn_mask": torch.where(MASK, 0.0, -torch.inf)}, MASK),
    ],
    ids=["plain", "causal", "boolean", "additive"],
)
def test_fused_attention_has_no_softmax_either(options: dict[str, Any], allowed: torch.Tensor) -> None:
    x = torch.randn(3, 5, 16)
    model = Fused(**options).eval()
    context = make_context(model, BIBERT, x)
    PREPARE.run(context, None)
    caught: dict[str, torch.Tensor] = {}
    call = next(module for name, module in model.named_modules() if name.endswith("tbt_calls.0"))
    for name in ("query", "key", "value"):
        getattr(call, name).register_forward_hook(
            lambda _m, args, _out, name=name: caught.__setitem__(name, sign(args[0]))
        )
    with torch.no_grad():
        found = model(x)
        assert torch.equal(context.captured(x), found)
    scores = caught["query"] @ caught["key"].transpose(-1, -2)
    assert torch.equal(found, ((scores >= 0) & allowed).float() @ caught["value"])


class WrittenOut(nn.Module):
    """An attention that cannot be traced: its products are an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", y, y).softmax(-1), y)


def test_a_softmax_that_stays_is_refused() -> None:
    with pytest.raises(PlanError, match="leaves out its softmax"):
        tbt_compile.plan(WrittenOut(), BIBERT, torch.randn(2, 5, 16))
