"""Calls of functions are quantized like layers: functional linear, products with parameters, attention."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import tbt_compile
from tbt_compile.errors import CaptureError, InputError
from tbt_compile.modules import QuantizedCall, iter_quantized
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


class Functional(nn.Module):
    """Products with parameters in every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(24, 16)), nn.Parameter(torch.randn(24))
        self.second, self.third = nn.Parameter(torch.randn(24, 8)), nn.Parameter(torch.randn(3, 4, 8))
        self.last = nn.Parameter(torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.first, self.bias)) @ self.second
        x = torch.einsum("btk,hdk->bthd", x, self.third).flatten(2)
        y = torch.addmm(self.last.new_zeros(6), x.flatten(0, 1), self.last.t())
        return y.view(*x.shape[:2], 6) + (self.last @ x.transpose(1, 2)).transpose(1, 2)


class Fused(nn.Module):
    """Attention as one call, with options."""

    def __init__(self, groups: int = 1, **options: Any) -> None:
        super().__init__()
        self.groups, self.options = groups, options
        self.query, self.rest = nn.Linear(16, 16), nn.Linear(16, 2 * (16 // groups))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        key, value = self.rest(x).unflatten(-1, (2, 2 // self.groups, 8)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:, None, None, :]
        options = {"enable_gqa": self.groups > 1, **self.options}
        return F.scaled_dot_product_attention(query, key, value, mask, **options).transpose(1, 2).flatten(2)


class Einsum(nn.Module):
    """Attention by einsum, with the value in front in the second product."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(x).unflatten(-1, (3, 2, 8)).unbind(2)
        weights = (torch.einsum("bihd,bjhd->bhij", query, key) / 8**0.5).softmax(-1)
        return torch.einsum("bjhd,bhij->bihd", value, weights).flatten(2)


class Branching(nn.Module):
    """A forward that no tracer can follow, with two attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(16, 16)

    def forward(self, *tensors: Tensor) -> Tensor:
        (x,) = tensors
        weights = (x @ x.transpose(-2, -1) / 4).softmax(-1)
        if x.shape[1] > 3:
            weights = weights * 0.5
        x = weights @ self.value(x)
        return torch.baddbmm(x.new_zeros(1, 1, 1), x, x.transpose(1, 2)).softmax(-1) @ x


class Doubled(nn.Linear):
    """A layer whose forward is its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * 2, self.bias)


class Table(nn.Module):
    """A table that is looked up and projected on, without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 16))

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(F.embedding(ids, self.table), self.table)


def multihead(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(16, 2, **options)


def weight_norm() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))


class Block(nn.Module):
    """An owner among layers that are quantized as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = Fused(), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.inner(x)))


CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "functional": (Functional, (X,)),
    "fused": (Fused, (X,)),
    "causal": (lambda: Fused(is_causal=True, scale=0.3), (X,)),
    "boolean mask": (Fused, (X, KEPT)),
    "additive mask": (Fused, (X, torch.where(KEPT, 0.0, -torch.inf))),
    "grouped queries": (lambda: Fused(groups=2), (X,)),
    "einsum": (Einsum, (X,)),
    "branching": (Branching, (X,)),
    "own forward": (lambda: Doubled(16, 8), (X,)),
    "table": (Table, (torch.arange(10).view(2, 5),)),
    "parametrized": (weight_norm, (X,)),
    "multihead": (lambda: multihead(batch_first=True), (X, X, X)),
    "cross": (
        lambda: multihead(kdim=8, vdim=6, add_bias_kv=True, add_zero_attn=True),
        (X, X[..., :8], X[..., :6]),
    ),
    "padding": (lambda: multihead(batch_first=True), (X, X, X, ~KEPT, False)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), (X,)),
    "transformer": (lambda: nn.Transformer(16, 2, 1, 1, 24, dropout=0.0, batch_first=True), (X, X[:, :3])),
    "block": (Block, (X,)),
    "graph": (lambda: fx.symbolic_trace(Block()), (X,)),
    "exported": (lambda: torch.export.export(Block().eval(), (X,)).module(), (X,)),
}


def tensors(output: Any) -> list[Tensor]:
    return [each for each in (output if isinstance(output, tuple) else (output,)) if each is not None]


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def evaluated(module: nn.Module) -> nn.Module:
    for each in module.modules():
        each.training = False  # an exported program's module has no `eval`
    return module


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    return evaluated(make()), inputs


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_from_prepared_to_loaded(case: tuple[nn.Module, tuple[Any, ...]], tmp_path: Path) -> None:
    model, inputs = case
    fresh, keys = copy.deepcopy(model), list(model.state_dict())
    with torch.no_grad():
        unchanged = model(*inputs)
    context = PREPARE.run(make_context(model, "2-2-2", inputs))
    assert isinstance(model, (type(fresh), fx.GraphModule))
    assert set(keys) <= set(model.state_dict())
    assert all(module.encoding.quantized for module in context.quantizers.values())
    with torch.no_grad():
        output = model(*inputs)
        assert same(output, context.captured(*inputs)), "the reference graph computes something else"
    assert not same(output, unchanged), "nothing is quantized"
    assert same(copy.deepcopy(model)(*inputs), output)

    tensors(model(*inputs))[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        if "quantizer" not in name and "tbt_" not in name:
            assert parameter.grad is not None, name

    prepared = tbt_compile.prepare(copy.deepcopy(fresh), "2-2-2", inputs)
    with torch.no_grad():
        output = prepared(*inputs)
    frozen = tbt_compile.freeze(prepared)
    assert same(frozen(*inputs), output)
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"), model=fresh)
    assert same(loaded(*inputs), output)


def test_no_float_weight_of_a_call_is_kept() -> None:
    model = tbt_compile.prepare(Functional(), "2-2-2", X)
    model(X)
    assert [
        name for name, _ in tbt_compile.freeze(model).module.named_parameters() if "tbt_" not in name
    ] == ["bias"]


def test_what_a_layer_and_a_call_share_is_one_packed_table() -> None:
    ids = torch.arange(10).view(2, 5)
    model = tbt_compile.prepare(Table(), "2-2-2", ids)
    model(ids)
    frozen = tbt_compile.freeze(model).module
    packed = {module.weight_quantizer.packed.data_ptr() for _, module in iter_quantized(frozen)}
    assert len(packed) == 1


def test_a_plan_names_calls_and_goes_through_json() -> None:
    plan = tbt_compile.plan(Block(), "2-2-2", X)
    assert [site.fqn for site in plan] == ["inner.query", "inner.rest", "inner.tbt_calls.0", "head"]
    assert plan["inner.tbt_calls.0"].owner == "inner"
    assert tbt_compile.QuantPlan.from_dict(plan.to_dict()) == plan
    excluded = tbt_compile.Recipe.parse("2-2-2", exclude=("inner.tbt_calls.*",))
    assert [site.fqn for site in tbt_compile.plan(Block(), excluded, X)] == [
        "inner.query",
        "inner.rest",
        "head",
    ]


def test_dropout_and_length_follow_the_call() -> None:
    model = tbt_compile.prepare(Fused(dropout_p=0.5), "2-2-2", X)
    assert not torch.equal(model(X), model(X))
    model = tbt_compile.prepare(Fused(), "2-2-2", X)
    assert model(X[:, :3]).shape == (2, 3, 16)


def test_a_pickle_computes_the_same() -> None:
    model = tbt_compile.prepare(Block(), "2-2-2", X)
    output = model(X)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(X), output)
    assert sum(isinstance(module, QuantizedCall) for module in again.modules()) == 1


def test_an_exported_program_becomes_a_module_that_trains() -> None:
    program = torch.export.export(Block().eval(), (X,))
    assert len(tbt_compile.plan(program).sites) == 4
    model = tbt_compile.prepare(program)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().sum().backward()
    before = model(X).detach()
    optimizer.step()
    assert not torch.equal(model(X), before)
    with pytest.raises(AssertionError, match="Guard failed"):
        model(X[:1, :2])


class Changing(nn.Module):
    """Makes one product more for longer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weight
        return F.linear(x, self.weight) if x.shape[1] > 5 else x


def test_other_calls_than_when_prepared_are_refused() -> None:
    model = tbt_compile.prepare(Changing(), "2-2-2", X)
    assert model(X).shape == X.shape
    longer = torch.cat([X, X], 1)
    with pytest.raises(CaptureError, match="forward of Changing computes something else.*1 is linear"):
        model(longer)
    model = tbt_compile.prepare(Changing(), "2-2-2", longer)
    with pytest.raises(CaptureError, match="it made 1 products, expected 2"):
        model(X)


class Batched(nn.Module):
    """A weight for each head, which no single matrix stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.out = nn.Parameter(torch.randn(2, 8, 8)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x.unflatten(-1, (2, 8)).transpose(1, 2) @ self.heads).transpose(1, 2).flatten(2))


def test_what_stays_in_full_precision_is_listed() -> None:
    (entry,) = (item for item in tbt_compile.plan(Batched(), "2-2-2", X).unquantized if item.name == "heads")
    assert entry.reason == "matmul multiplies other inputs by other parts of it"


def test_a_graph_compiles() -> None:
    model = tbt_compile.prepare(fx.symbolic_trace(Block()), "2-2-2", X)
    model(X)
    frozen = tbt_compile.freeze(model)
    expected = frozen(X).numpy()
    np.testing.assert_allclose(tbt_compile.lower(frozen)(X.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_an_encoder_of_pytorch_compiles() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, activation=F.mish, batch_first=True)
    inputs = {"src": X, "src_key_padding_mask": ~KEPT}
    model = tbt_compile.prepare(layer.eval(), "2-2-2", inputs)
    model(**inputs)
    frozen = tbt_compile.freeze(model)
    expected = frozen(**inputs).numpy()
    compiled = tbt_compile.lower(frozen)
    result = compiled(**{name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_attention_on_one_tensor_compiles_with_one_input() -> None:
    model = tbt_compile.prepare(multihead(batch_first=True).eval(), "2-2-2", (X, X, X))
    model(X, X, X)
    frozen = tbt_compile.freeze(model)
    compiled, x = tbt_compile.lower(frozen), X.numpy()
    assert [argument["name"] for argument in compiled.description["inputs"]] == ["query"]
    for result in (compiled(x), compiled(x, x, x)):
        np.testing.assert_allclose(result[0], frozen(X, X, X)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="'value' of .* was the same tensor as 'query'"):
        compiled(x, value=x + 1)
