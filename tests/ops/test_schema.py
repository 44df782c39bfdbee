"""Declarations against torch's registry, the roles of operands, and refused dtypes and ranks."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from operator_tools import OTHER, SCALE, TBT, weight_of
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from tbt_compile.encoding import Encoding
from tbt_compile.ops.linear import bit_linear
from tbt_compile.ops.operands import call_operator
from tbt_compile.ops.schema import (
    Heads,
    Operand,
    Operator,
    PackedWeight,
    Past,
    Scale,
    declare,
    declared_operators,
    declared_uses,
    operator_of,
)

ATEN = torch.ops.aten

# Names, order and defaults are what graphs on disk are written in.
SCHEMAS = {
    "quantize": "(Tensor x, Tensor scale, str encoding, bool center, float floor=0.) -> (Tensor, Tensor)",
    "unpack": "(Tensor packed, str encoding, SymInt columns) -> Tensor",
    "bit_linear": "(Tensor x, Tensor? x_scale, Tensor packed, Tensor weight_scale, Tensor? bias, "
    "str x_encoding, str weight_encoding, bool center, SymInt columns, "
    'str function="", float floor=0., SymInt hadamard=0) -> Tensor',
    "hadamard": "(Tensor x, SymInt block) -> Tensor",
    "bit_embedding": "(Tensor ids, Tensor packed, Tensor weight_scale, str weight_encoding, SymInt columns) "
    "-> Tensor",
    "pack_keys": "(Tensor keys, Tensor scale, str encoding, bool center, bool heads_last=False) -> Tensor",
    "pack_values": "(Tensor values, Tensor scale, str encoding, bool center, bool heads_last=False) "
    "-> Tensor",
    "append_keys": "(Tensor past, Tensor keys, Tensor scale, str encoding, bool center, "
    "bool heads_last=False) -> Tensor",
    "append_values": "(Tensor past, Tensor past_keys, Tensor values, Tensor scale, str encoding, "
    "bool center, bool heads_last=False) -> Tensor",
    "attention_scores": "(Tensor query, Tensor query_scale, Tensor keys, Tensor key_scale, "
    "str query_encoding, str key_encoding, bool center) -> Tensor",
    "attention_context": "(Tensor weights, Tensor weights_scale, Tensor values, Tensor value_scale, "
    "str weights_encoding, str value_encoding, bool center) -> Tensor",
    "masked_softmax": "(Tensor scores, Tensor? mask, float scale) -> Tensor",
    "attention": "(Tensor query, Tensor query_scale, Tensor keys, Tensor key_scale, Tensor? mask, "
    "float factor, Tensor weights_scale, Tensor values, Tensor value_scale, str query_encoding, "
    "str key_encoding, bool center_query, str weights_encoding, str value_encoding, bool center_weights, "
    "bool heads_last=False) -> Tensor",
    "add_layer_norm": "(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> Tensor",
}
ROLES: dict[type[Operand], dict[str, list[str]]] = {
    PackedWeight: {"unpack": ["packed"], "bit_linear": ["packed"], "bit_embedding": ["packed"]},
    Scale: {
        "quantize": ["scale"],
        "bit_linear": ["x_scale", "weight_scale"],
        "bit_embedding": ["weight_scale"],
        "pack_keys": ["scale"],
        "pack_values": ["scale"],
        "append_keys": ["scale"],
        "append_values": ["scale"],
        "attention_scores": ["query_scale", "key_scale"],
        "attention_context": ["weights_scale", "value_scale"],
        "attention": ["query_scale", "key_scale", "weights_scale", "value_scale"],
    },
    Heads: {
        "pack_keys": ["keys"],
        "pack_values": ["values"],
        "append_keys": ["keys"],
        "append_values": ["values"],
        "attention": ["query"],
    },
    Past: {"append_keys": ["past"], "append_values": ["past"]},
}
OPERATORS = {operator.name: operator for operator in declared_operators()}


def test_operators_are_declared_with_the_schemas_that_they_have_always_had() -> None:
    found = {name: str(operator.target._schema) for name, operator in OPERATORS.items()}
    assert found == {name: f"tbt::{name}{schema}" for name, schema in SCHEMAS.items()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_tensor_of_the_registered_schema_is_declared(name: str) -> None:
    operator = OPERATORS[name]
    assert operator.target is getattr(TBT, name).default
    tensors = [
        argument.name for argument in operator.target._schema.arguments if "Tensor" in str(argument.type)
    ]
    assert list(operator.operands) == tensors


@pytest.mark.parametrize("role", ROLES)
def test_roles(role: type[Operand]) -> None:
    found = {name: list(operator.having(role)) for name, operator in OPERATORS.items()}
    assert {name: names for name, names in found.items() if names} == ROLES[role]


@pytest.mark.parametrize("name", ROLES[PackedWeight])
def test_a_weight_names_the_operands_that_describe_it(name: str) -> None:
    operator = OPERATORS[name]
    types = {argument.name: str(argument.type) for argument in operator.target._schema.arguments}
    (weight,) = operator.having(PackedWeight).values()
    assert (types[weight.encoding], types[weight.columns]) == ("str", "int")


@pytest.mark.parametrize("name", ROLES[Heads])
def test_operators_with_heads_can_take_them_last(name: str) -> None:
    assert OPERATORS[name].target._schema.arguments[-1].name == "heads_last"


def test_the_declaration_of_a_node_and_the_uses_of_an_operand() -> None:
    graph = fx.Graph()
    x, weight, scale = (graph.placeholder(name) for name in ("x", "weight", "scale"))
    options = ("binary", "binary", True, 5)
    call = graph.call_function(TBT.bit_linear.default, (x, scale, weight, scale, None, *options))
    total = graph.call_function(ATEN.add.Tensor, (call, x))
    graph.output(total)
    assert operator_of(call) is bit_linear
    assert [operator_of(node) for node in (x, total, graph.output_node())] == [None] * 3
    assert list(declared_uses(x)) == [(call, bit_linear.operands["x"])]
    assert list(declared_uses(weight)) == [(call, bit_linear.operands["packed"])]
    names = ("x_scale", "weight_scale")
    assert list(declared_uses(scale)) == [(call, bit_linear.operands[name]) for name in names]
    assert list(declared_uses(call)) == []


def test_the_uses_of_an_operand_given_by_keyword() -> None:
    graph = fx.Graph()
    keys, scale = graph.placeholder("keys"), graph.placeholder("scale")
    named = {"keys": keys, "scale": scale, "encoding": "binary", "center": False}
    call = graph.call_function(TBT.pack_keys.default, (), named)
    assert list(declared_uses(keys)) == [(call, OPERATORS["pack_keys"].operands["keys"])]


@pytest.mark.parametrize(
    ("forms", "accepted", "refused"),
    [
        ("float32 []", [torch.zeros(())], [torch.zeros(1), torch.zeros((), dtype=torch.float64)]),
        ("float []", [torch.zeros((), dtype=torch.bfloat16)], [torch.zeros((), dtype=torch.int64)]),
        ("int64 [...]", [torch.zeros((), dtype=torch.int64)], [torch.zeros(2, dtype=torch.int32)]),
        ("float32 [..., T, D]", [torch.zeros(1, 2), torch.zeros(3, 1, 2)], [torch.zeros(2)]),
        (
            "int64 [N, planes, words] | int8 [N, K] | int16 [N, K]",
            [torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int8)],
            [torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int8)],
        ),
    ],
)
def test_forms(forms: str, accepted: list[torch.Tensor], refused: list[torch.Tensor]) -> None:
    operand = Operand(forms)
    assert all(operand.accepts(tensor) for tensor in accepted)
    assert not any(operand.accepts(tensor) for tensor in refused)


def test_a_form_that_cannot_be_read() -> None:
    with pytest.raises(AssertionError, match="'float32' is not a dtype with dimensions"):
        Operand("float32").accepts(torch.zeros(()))


def linear_call(**changed: Any) -> list[Any]:
    packed, scale = weight_of(Encoding.TERNARY, 3, 5)
    named = {"x": torch.randn(2, 5), "x_scale": SCALE, "packed": packed, "weight_scale": scale, "bias": None}
    return [*(named | changed).values(), "binary", "ternary", False, 5]


WRONG = [
    (
        bit_linear,
        linear_call(x=torch.zeros(2, 5, dtype=torch.int64)),
        "x is int64 [2, 5], expected float32 [..., K]",
    ),
    (bit_linear, linear_call(x_scale=torch.ones(1)), "x_scale is float32 [1], expected float32 []"),
    (
        bit_linear,
        linear_call(packed=torch.zeros(3, 5)),
        "packed is float32 [3, 5], expected int64 [N, planes, words] | int8 [N, K] | int16 [N, K]",
    ),
    (bit_linear, linear_call(bias=torch.zeros(1, 3)), "bias is float32 [1, 3], expected float32 [N]"),
    (
        OPERATORS["append_keys"],
        [torch.zeros(1, 2, 3, 1, dtype=torch.int64), torch.zeros(2, 3, 5), OTHER, "binary", False],
        "keys is float32 [2, 3, 5], expected float32 [B, H, T, D]",
    ),
    (
        OPERATORS["masked_softmax"],
        [torch.zeros(1, 2, 3, 4), torch.zeros(1, 1, 3, 4, dtype=torch.bool), 1.0],
        "mask is bool [1, 1, 3, 4], expected float32 [B, 1, Q, T]",
    ),
]


@pytest.mark.parametrize(
    ("operator", "arguments", "message"), WRONG, ids=[case[2].split()[0] for case in WRONG]
)
def test_a_wrong_dtype_or_rank_is_refused(operator: Operator, arguments: list[Any], message: str) -> None:
    expected = f"{operator}: operand {message}"
    with pytest.raises(TypeError) as refused:
        operator(*arguments)
    assert str(refused.value) == expected
    with FakeTensorMode() as mode, pytest.raises(TypeError) as refused:
        operator(
            *(mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for value in arguments)
        )
    assert str(refused.value) == expected


def test_an_operator_is_declared_once() -> None:
    def quantize(x: Annotated[torch.Tensor, Operand("float32 [K]")]) -> torch.Tensor:
        return x

    with pytest.raises(ValueError, match="tbt::quantize is declared already"):
        declare(quantize)
    assert [operator.name for operator in declared_operators()].count("quantize") == 1


def test_a_call_needs_every_operand_without_a_default() -> None:
    graph = torch.fx.Graph()
    with pytest.raises(KeyError, match="needs the operand other"):
        call_operator(graph, torch.ops.aten.add.Tensor, self=graph.placeholder("x"))
    with pytest.raises(KeyError, match="has no operand z"):
        call_operator(graph, torch.ops.aten.relu.default, self=graph.placeholder("y"), z=1)
