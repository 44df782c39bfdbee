"""The registry: one converter per operator, and the call that a converter sees."""

from __future__ import annotations

import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lowering_tools import export
from torch import Tensor, fx, nn

from tbt_compile.codegen.importer import registry
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.registry import ATEN, CONVERTERS, TBT, Call, convert_map, converter
from tbt_compile.codegen.importer.relax_api import import_program
from tbt_compile.codegen.importer.units import CONVERTER_FILES
from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.tvm_api import Expr, relax

ISA = host_target().isa


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A registry without converters, in the place of the real one."""
    converters: dict[str, Any] = {}
    monkeypatch.setattr(registry, "CONVERTERS", converters)
    return converters


def call_of(target: Any, *args: Any, **kwargs: Any) -> Call:
    """A call of an operator; strings stand for nodes, whose Relax expressions are the strings in capitals."""
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) for name in ("x", "y", "z")}

    def with_nodes(value: Any) -> Any:
        return fx.node.map_aggregate(
            value, lambda item: nodes.get(item, item) if isinstance(item, str) else item
        )

    node = graph.call_function(target, with_nodes(args), with_nodes(kwargs))
    env = {node: name.upper() for name, node in nodes.items()}
    return Call(node, SimpleNamespace(env=env, replaced={}), Kernels(ISA))


def imported(module: nn.Module, *args: Tensor) -> str:
    """The module in Relax, as text, with the converters that are registered."""
    return str(import_program(export(module, *args).program, convert_map(Kernels(ISA))))


class Subtraction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sub(x, x, alpha=2)


def test_every_operator_has_a_converter_with_a_docstring() -> None:
    assert len(CONVERTERS) >= 35
    for name, function in CONVERTERS.items():
        packet, overload = name.split(".")
        namespace = "tbt" if hasattr(TBT, packet) else "aten"
        assert overload in getattr(getattr(torch.ops, namespace), packet).overloads()
        assert (function.__doc__ or "").startswith(f"`{namespace}::{packet}"), name
        assert function.__name__.startswith("convert_"), name


def test_every_file_of_converters_is_listed() -> None:
    listed = {file.__name__ for file in CONVERTER_FILES}
    assert {function.__module__ for function in CONVERTERS.values()} == listed
    folder = Path(registry.__file__).parent
    assert {file.stem for file in folder.glob("convert_*.py")} == {name.rpartition(".")[2] for name in listed}


def test_a_second_converter_is_refused(empty: dict[str, Any]) -> None:
    @converter(ATEN.neg.default)
    def convert_neg(call: Call) -> Expr:
        return call.emit(relax.op.negative(call.operands.self))

    with pytest.raises(ValueError, match=r"neg\.default is converted by convert_neg already"):
        converter(ATEN.neg.default)(convert_neg)
    assert empty == {"neg.default": convert_neg}


def test_operands_by_name() -> None:
    call = call_of(TBT.append_keys.default, "x", "y", "z", "binary", True, heads_last=True)
    names = ("past", "keys", "scale", "encoding", "center", "heads_last")
    assert [getattr(call.operands, name) for name in names] == ["X", "Y", "Z", "binary", True, True]


def test_operands_that_are_left_out_have_their_defaults() -> None:
    assert call_of(ATEN.add.Tensor, "x", 2).operands == SimpleNamespace(self="X", other=2, alpha=1)
    assert call_of(ATEN.celu.default, "x").operands.alpha == 1.0
    assert call_of(ATEN.layer_norm.default, "x", [5]).operands.weight is None
    assert call_of(TBT.pack_keys.default, "x", "y", "int8", False).operands.heads_last is False


def test_operands_in_lists_are_expressions_too() -> None:
    assert call_of(ATEN.index.Tensor, "x", [None, "y"]).operands.indices == [None, "Y"]
    assert call_of(ATEN.new_ones.default, "x", ["z", 3], dtype=torch.int64).operands.size == ["Z", 3]


def test_a_call_can_be_left_to_tvm(empty: dict[str, Any]) -> None:
    @converter(ATEN.sub.Tensor)
    def convert_sub(call: Call) -> Expr:
        assert call.operands.alpha == 2
        return call.default()

    assert list(empty) == ["sub.Tensor"]
    assert "R.subtract(x, x)" in imported(Subtraction(), torch.randn(2, 3))  # TVM ignores alpha


def test_what_tvm_lacks_cannot_be_left_to_it() -> None:
    with pytest.raises(ValueError, match=r"TVM has no converter for aten\.rms_norm\.default"):
        call_of(ATEN.rms_norm.default, "x", [5]).default()


def test_the_example_of_the_docstring(empty: dict[str, Any]) -> None:
    lines = (registry.__doc__ or "").splitlines()
    code = "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    "))
    exec(code, {**vars(registry), "relax": relax})
    assert list(empty) == ["masked_fill.Scalar", "softmax.int"]

    class Fill(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x > 0, 2.0)

    assert 'R.where(lv, R.const(2.0, "float32"), x)' in imported(Fill(), torch.randn(2, 3))


@pytest.mark.parametrize("target", [ATEN.cosh, operator.truediv])
def test_only_overloads_are_converted(target: Any) -> None:
    with pytest.raises(TypeError, match="is not an overload of an operator"):
        converter(target)
