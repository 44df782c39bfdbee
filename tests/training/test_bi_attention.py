"""Bi-Attention: one-bit attention weights from the sign of the scores, without a softmax."""

from __future__ import annotations

import torch
from models import AttentionBlock, bart

import tbt_compile
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
