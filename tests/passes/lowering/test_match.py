"""The vocabulary of patterns, on graphs built by hand."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import (
    ATEN,
    PACKED_OPERAND,
    TBT,
    addends,
    factors,
    is_call,
    match_call,
    quantize_of_codes,
    quantize_of_scale,
    replace,
    replace_with,
    rescaled,
    shape_of,
    single_user,
)


class Builder:
    """A graph of two inputs, and calls on them."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x, self.y = self.graph.placeholder("x"), self.graph.placeholder("y")

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(target, args, kwargs)


@pytest.fixture
def build() -> Builder:
    return Builder()


def test_calls_and_their_operands(build: Builder) -> None:
    softmax = build.call(ATEN.softmax.int, build.x, -1)
    assert is_call(softmax, ATEN.softmax.int)
    assert is_call(softmax, ATEN.relu.default, ATEN.softmax.int)
    assert not is_call(build.x, ATEN.softmax.int)
    assert not is_call(0.5, ATEN.softmax.int)
    matched = match_call(softmax, ATEN.softmax.int)
    assert matched is not None
    assert (matched.self, matched.dim, matched.dtype) == (build.x, -1, None)
    assert match_call(softmax, ATEN.relu.default) is None
    assert match_call(None, ATEN.relu.default) is None


def test_sums_and_products(build: Builder) -> None:
    x, y = build.x, build.y
    assert factors(build.call(ATEN.mul.Tensor, x, 0.5)) == (x, 0.5)
    assert addends(build.call(ATEN.add.Tensor, x, y)) == (x, y)
    assert addends(build.call(ATEN.add.Tensor, x, y, alpha=2)) is None
    assert factors(x) is addends(x) is None


def test_users(build: Builder) -> None:
    product = build.call(ATEN.matmul.default, build.x, build.y)
    assert single_user(product) is rescaled(product) is None
    scaled = build.call(ATEN.mul.Tensor, product, build.y)
    assert single_user(product) is scaled
    assert rescaled(product) == (scaled, build.y)
    assert rescaled(build.x) is None
    build.call(ATEN.relu.default, product)
    assert single_user(product) is rescaled(product) is None


def test_the_source_of_codes_and_scales(build: Builder) -> None:
    quantize = build.call(TBT.quantize.default, build.x, build.y, "ternary", True)
    codes, scale = (build.call(operator.getitem, quantize, i) for i in (0, 1))
    transposed = build.call(ATEN.transpose.int, scale, -1, -2)
    assert quantize_of_codes(codes) is quantize_of_scale(scale) is quantize_of_scale(transposed) is quantize
    assert quantize_of_codes(scale) is quantize_of_scale(codes) is quantize_of_codes(None) is None
    assert quantize_of_codes(build.call(operator.getitem, build.x, 0)) is None


def test_a_replacement_takes_the_place(build: Builder) -> None:
    relu = build.call(ATEN.relu.default, build.x)
    relu.meta = {"val": torch.empty(2, 3), "nn_module_stack": {"m": ("layer", object)}}
    last = build.call(ATEN.exp.default, relu)
    pack = replace(relu, TBT.pack_keys.default, keys=build.x, scale=build.y, encoding="binary", center=False)
    assert pack.meta == relu.meta
    assert shape_of(pack) == (2, 3)
    assert operands(last).self is pack
    assert pack.args == (build.x, build.y, "binary", False)
    assert [node.name for node in build.graph.nodes if node.op == "call_function"] == [pack.name, last.name]
    replace_with(pack, build.y)
    assert operands(last).self is build.y
    with pytest.raises(KeyError, match=r"relu\.default has no operand x"):
        replace(last, ATEN.relu.default, x=build.x)


@pytest.mark.parametrize("target", PACKED_OPERAND)
def test_packed_operands_exist(target: Any) -> None:
    names = [argument.name for argument in target._schema.arguments]
    assert {PACKED_OPERAND[target], "scale", "encoding", "center", "heads_last"} <= set(names)
