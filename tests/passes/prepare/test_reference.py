"""The graph with quantizers inserted and the eager model that is written back compute the same function."""

from __future__ import annotations

import pytest
import torch
from models import FAMILIES, Classifier, bart
from torch import Tensor, nn

from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context

# Every pair of bits at every pair of places: the third follows from the first two.
RECIPES = [
    f"{'128'[first]}-{'128'[second]}-{'128'[(first + second) % 3]}"
    for first in range(3)
    for second in range(3)
]


def prepared(model: nn.Module, recipe: str, example_inputs: object = None) -> PrepareContext:
    return PREPARE.run(make_context(model, recipe, example_inputs))


def both_logits(context: PrepareContext, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of the eager model and of its reference graph, eager first (it initialises the scales)."""
    context.model.eval()
    with torch.no_grad():
        eager = context.model(**inputs)
        graph = context.captured(**inputs)
    return eager.logits, graph.logits


@pytest.mark.parametrize("recipe", RECIPES)
def test_bart_equals_its_graph_at_every_precision(recipe: str) -> None:
    context = prepared(bart(layers=1), recipe)
    eager, graph = both_logits(context, context.kwargs)
    assert torch.equal(eager, graph)
    assert eager.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_graph(family: str) -> None:
    context = prepared(FAMILIES[family](), "2-1-2")
    eager, graph = both_logits(context, context.kwargs)
    assert torch.equal(eager, graph)
    # Other token ids of the same shape, so that nothing of the example is burnt in.
    other = {**context.kwargs, "input_ids": (context.kwargs["input_ids"] * 3 + 1) % 90}
    eager_other, graph_other = both_logits(context, other)
    assert torch.equal(eager_other, graph_other)
    assert not torch.equal(eager, eager_other)


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_and_model_share_every_quantizer(family: str) -> None:
    context = prepared(FAMILIES[family](layers=1), "2-2-2")
    of_model = {id(module) for module in context.model.modules()}
    assert context.quantizers
    assert all(id(quantizer) in of_model for quantizer in context.quantizers.values())
    of_graph = {id(module) for module in context.captured.modules()}
    assert all(id(quantizer) in of_graph for quantizer in context.quantizers.values())


def test_plain_modules_equal_their_graph() -> None:
    x = torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    for inputs in ({"x": x}, {"x": x, "mask": mask}):
        model = Classifier().eval()
        context = prepared(model, "2-2-2", inputs)
        with torch.no_grad():
            assert torch.equal(model(**inputs), context.captured(**inputs))


def test_gradients_of_graph_and_model_agree() -> None:
    context = prepared(bart(layers=1), "2-2-2")
    inputs = context.kwargs
    both_logits(context, inputs)
    gradients = []
    for call in (context.model, context.captured):
        context.model.zero_grad()
        call(**inputs).logits.square().sum().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in context.model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        # Operands may lie in memory in another way, which changes the order of sums.
        near = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=near)
