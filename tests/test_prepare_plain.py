"""Plain modules: MLPs, attention blocks, and blocks whose code depends on masks or mode."""

from __future__ import annotations

import pytest
import torch
from models import MLP, AttentionBlock, Classifier
from torch import Tensor, nn

import tbt_compile
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.attention import QuantizedAttention
from tbt_compile.recipe import Recipe

X = torch.randn(3, 5, 16)
NO_OP = Recipe.parse("32-32-32")


def test_mlp_keeps_class_and_trains() -> None:
    model = MLP()
    assert tbt_compile.prepare(model, "2-2-2", torch.randn(2, 8)) is model
    assert type(model) is MLP
    assert [name for name, _ in iter_quantized(model)] == ["first", "second"]
    model(torch.randn(4, 8)).sum().backward()
    assert model.first.weight.grad is not None
    assert model.second.input_quantizer.encoding is tbt_compile.Encoding.TERNARY012
    assert model.tbt_recipe == Recipe.parse("2-2-2")


@pytest.mark.parametrize("model", [MLP(), Classifier()], ids=["mlp", "classifier"])
def test_no_op_quantizers_change_nothing(model: nn.Module) -> None:
    x = torch.randn(2, 8) if isinstance(model, MLP) else X
    model.eval()
    expected = model(x)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tbt_compile.prepare(model, NO_OP, x)
    found = model(x)
    assert torch.equal(found, expected)
    found.sum().backward()
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, gradients[name]), name


def test_a_mask_may_come_and_go() -> None:
    """Prepared with no mask, called with one and without: each pattern is traced when it comes."""
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    reference, model = Classifier().eval(), Classifier().eval()
    model.load_state_dict(reference.state_dict())
    tbt_compile.prepare(model, NO_OP, X)
    for call in (
        {"x": X},
        {"x": X, "mask": mask},
        {"x": X, "mask": None},
        {"x": X[:1, :2], "mask": mask[:1, :2]},
    ):
        assert torch.equal(model(**call), reference(**call))
    assert torch.equal(model(X, mask), reference(X, mask))


def test_dropout_follows_the_mode() -> None:
    model = tbt_compile.prepare(AttentionBlock(dropout=0.5), "2-2-8", X)
    model.train()
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))


def test_attention_block_computes_on_codes() -> None:
    model = tbt_compile.prepare(Classifier(), "2-2-2", X)
    core = model.attention.tbt_attention
    assert isinstance(core, QuantizedAttention)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("query", "key", "probabilities", "value"):
        core.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: (args[0], output.codes)})
        )
    model(X)
    assert (
        seen["query"][0].shape == seen["key"][0].shape == (3, 2, 5, 8)
    )  # features last, before K is transposed
    assert seen["probabilities"][0].shape == (3, 2, 5, 5)
    assert set(seen["probabilities"][1].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert set(seen["value"][1].unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_a_second_transformation_may_rewrite_the_traced_core() -> None:
    model = tbt_compile.prepare(Classifier().eval(), "2-2-2", X)
    before = model(X)
    core = model.attention.tbt_attention
    called: list[str] = []

    def rewrite(graph: torch.fx.Graph) -> None:
        for node in graph.nodes:
            if node.op == "call_module" and str(node.target).startswith("tbt_attention."):
                called.append(str(node.target))

    core.rewrite = rewrite
    assert torch.equal(model(X), before)
    assert not called
    core.forget()
    assert torch.equal(model(X), before)
    assert called == [f"tbt_attention.{name}" for name in ("query", "key", "probabilities", "value")]


def test_quantizers_may_be_replaced_after_the_first_call() -> None:
    model = tbt_compile.prepare(Classifier().eval(), "2-2-2", X)
    before = model(X)

    class Swapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x)

    core = model.attention.tbt_attention
    core.value = Swapped(core.value)
    assert torch.equal(model(X), before)
    assert core.value.calls == 1


class _Permuted(nn.Module):
    """Makes K^T in one step with the split into heads, so that no transpose stands before the product."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, tokens, width = q.shape
        q, v = (x.view(rows, tokens, 2, width // 2).permute(0, 2, 1, 3) for x in (q, v))
        k = k.view(rows, tokens, 2, width // 2).permute(0, 2, 3, 1)
        return torch.matmul(torch.softmax(torch.matmul(q, k), -1), v)


def test_a_key_that_was_never_transposed_is_quantized_with_its_features_last() -> None:
    tensors = [torch.randn(2, 5, 16) for _ in range(3)]
    model = tbt_compile.prepare(_Permuted(), "2-2-8", tuple(tensors))
    shapes: list[torch.Size] = []
    model.tbt_attention.key.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    model(*tensors)
    assert shapes == [(2, 2, 5, 8)]
    expected = _Permuted()(*tensors)
    assert torch.equal(tbt_compile.prepare(_Permuted(), NO_OP, tuple(tensors))(*tensors), expected)


class _Cooperating(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_subclasses_of_linear() -> None:
    x = torch.randn(2, 8)
    model = nn.Sequential(_Cooperating(8, 8), nn.ReLU())
    tbt_compile.prepare(model, "2-2-2", x)
    assert isinstance(model[0], _Cooperating)
    layer = model[0]
    expected = nn.Linear.forward(layer, layer.input_quantizer(x).value) * 0  # shape only
    assert model(x).shape == expected.shape
    codes = layer.weight_quantizer(layer.weight_rows).value
    quantized = nn.functional.linear(layer.input_quantizer(x).value, codes, layer.bias)
    torch.testing.assert_close(model(x), torch.relu(2 * quantized))
