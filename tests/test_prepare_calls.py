"""Calls of functions are quantized like layers: functional linear, products with parameters, attention."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from call_models import CASES, CONVOLUTIONS, Block, Functional, Fused, Table, X
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.modules import QuantizedCall, iter_quantized
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context


def tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if each is not None]


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def evaluated(module: nn.Module) -> nn.Module:
    for each in module.modules():
        each.training = False  # an exported program's module has no `eval`
    return module


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", [*CASES, *CONVOLUTIONS])
def test_from_prepared_to_loaded(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = (CASES | CONVOLUTIONS)[case]
    model, recipe = evaluated(make()), Recipe.parse("2-2-2", conv=case in CONVOLUTIONS)
    fresh, keys = copy.deepcopy(model), list(model.state_dict())
    with torch.no_grad():
        unchanged = model(*inputs)
    context = PREPARE.run(make_context(model, recipe, inputs))
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

    prepared = tbt_compile.prepare(copy.deepcopy(fresh), recipe, inputs)
    with torch.no_grad():
        output = prepared(*inputs)
    frozen = tbt_compile.freeze(prepared)
    assert same(frozen.module(*inputs), output)
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"), model=fresh)
    assert same(loaded.module(*inputs), output)


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
    excluded = Recipe.parse("2-2-2", exclude=("inner.tbt_calls.*",))
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


def test_calls_of_an_exported_program_are_named_after_the_layers() -> None:
    program = torch.export.export(Block().eval(), (X,))
    names = ["inner.query", "inner.rest", "tbt_calls.2", "head"]
    plan = tbt_compile.plan(program)
    assert [site.name for site in plan] == names
    assert plan["head"].fqn == "tbt_calls.3"
    assert "head         linear" in str(plan)
    excluded = tbt_compile.Recipe.parse("2-2-2", exclude=("inner.*",))
    assert [site.name for site in tbt_compile.plan(program, excluded)] == names[2:]
    model = tbt_compile.prepare(program, excluded)
    assert torch.equal(model.inner.query.weight, program.state_dict["inner.query.weight"])


class Modal(nn.Module):
    """Dropouts of layers, of attention weights, and one that is always active; a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.norm = nn.Linear(16, 16), nn.Dropout(0.5), nn.BatchNorm1d(5)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.layer(x)))
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
def test_the_module_of_an_exported_program_switches_its_mode(training: bool) -> None:
    torch.manual_seed(0)
    plain = Modal()
    with torch.no_grad():
        plain.norm.running_mean.normal_()  # type: ignore[union-attr]
    program = torch.export.export(copy.deepcopy(plain).train(training), (X,))
    tbt_compile.prepare(plain, "2-2-2", X)
    model = copy.deepcopy(tbt_compile.prepare(program, "2-2-2"))
    assert model.training is training
    plain.eval()(X)
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    for _ in range(2):
        assert torch.equal(model(X), plain(X))
    assert model.train() is model
    assert all(module.training for module in model.modules())
    for each in (model, plain.train()):
        torch.manual_seed(1)
        each(X)
    trained, expected = (dict(each.named_buffers()) for each in (model, plain))
    assert torch.equal(trained["norm.running_mean"], expected["norm.running_mean"])
    if training:
        torch.manual_seed(1)
        output = model(X)
        torch.manual_seed(1)
        assert torch.equal(output, plain(X))
        assert trained["norm.num_batches_tracked"] == expected["norm.num_batches_tracked"] == 2
    assert torch.equal(copy.deepcopy(model).eval()(X), plain.eval()(X))


def test_a_dropout_that_is_always_active_stays_so() -> None:
    class Always(Block):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(F.dropout(x, 0.5, self.training)), 0.5)

    model = tbt_compile.prepare(torch.export.export(Always().eval(), (X,)), "2-2-2").eval()
    assert not torch.equal(model(X), model(X))
    assert float((model(X) == 0).float().mean()) > 0.2


def test_a_traced_graph_switches_its_mode() -> None:
    class Dropping(Block):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(super().forward(x))

    model = tbt_compile.prepare(fx.symbolic_trace(Dropping()), "2-2-2", X)
    model(X)
    assert torch.equal(model.eval()(X), model(X))
    assert not torch.equal(model.train()(X), model(X))


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


class Reused(nn.Module):
    """Runs one module twice with one weight, and another with that weight and then `second`, or none."""

    class Product(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return x @ (w * 2)

    def __init__(self, second: tuple[int, ...] | None) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 16))
        self.second = None if second is None else nn.Parameter(torch.randn(second))
        self.one, self.two = self.Product(), self.Product()

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.one(x, self.first), self.first)
        second = x.transpose(1, 2) if self.second is None else self.second
        return self.two(self.two(x, self.first), second)


@pytest.mark.parametrize("second", [(16, 16), (2, 16, 16), None])
def test_a_call_that_is_another_product_each_time_is_refused(second: tuple[int, ...] | None) -> None:
    reason = "matmul is another product each time that the module runs; use a module for each"
    with pytest.raises(PlanError, match=rf"'two\.tbt_calls\.0' of Reused cannot be quantized: {reason}"):
        tbt_compile.plan(Reused(second), "2-2-2", X)
    recipe = Recipe.parse("2-2-2", exclude=("two",))
    context = PREPARE.run(make_context(Reused(second), recipe, X))
    assert [site.fqn for site in context.planned] == ["one.tbt_calls.0"]
    with torch.no_grad():
        assert same(context.model(X), context.captured(X))


def test_every_weight_of_calls_that_stay_is_listed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.head = Batched(), nn.Parameter(torch.randn(2, 2, 4)), nn.Linear(4, 4)
            self.more = nn.Parameter(torch.randn(2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).unflatten(-1, (2, 2)).transpose(1, 2) @ self.outer @ self.more)

    kept = {item.name: item.reason for item in tbt_compile.plan(Twice(), "2-2-2", X).unquantized}
    expected = "matmul multiplies other inputs by other parts of it"
    assert [kept[name] for name in ("inner.heads", "outer", "more")] == [expected] * 3


def test_a_weight_that_changes_sides_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.product = nn.Parameter(torch.randn(16, 16)), Reused.Product()

        def forward(self, x: Tensor) -> Tensor:
            return self.product(self.weight, self.product(x, self.weight).transpose(1, 2))

    with pytest.raises(PlanError, match=r"'product\.tbt_calls\.0' .* is another product each time"):
        tbt_compile.plan(Model(), "2-2-2", X)
