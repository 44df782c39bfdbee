"""Quantized linear layers become one operator each, with their bias, and nothing that only looks like one."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, frozen, run, weight
from torch import Tensor, nn

from tbt_compile.modules.whole_operators import whole_linear, whole_operators
from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import graph_text, run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.quantizers import QuantTensor, quantized_linear

X = torch.randn(2, 3, 65)


class Linear(nn.Module):
    """One quantized layer, 65 to 7, and what is done with its product."""

    def __init__(self, use: str = "bias", weight_bits: int = 2, bits: int = 2, signed: bool = True) -> None:
        super().__init__()
        self.use = use
        self.input, self.weight = activation(bits, signed), weight(weight_bits, 7, 65)
        self.bias, self.one = nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(1))
        self.row = nn.Parameter(torch.randn(1, 7))

    def forward(self, x: Tensor) -> Tensor:
        product = quantized_linear(self.input(x), self.weight(), None)
        if self.use == "nothing":
            return product
        if self.use == "twice":
            return (product + self.bias) * product
        if self.use == "one number":
            return product + self.one
        if self.use == "a multiple":
            return torch.add(product, self.bias, alpha=2)
        if self.use == "another sum":
            return product + product.sum((0, 1))
        if self.use == "a bias of logits":
            return product + self.row.to(x.device)
        return product + self.bias


@pytest.mark.parametrize("weight_bits", [1, 2, 8])
@pytest.mark.parametrize(
    ("bits", "signed"), [(1, True), (2, True), (8, True), (1, False), (2, False), (8, False)]
)
def test_every_pair_of_encodings(weight_bits: int, bits: int, signed: bool) -> None:
    for use in ("bias", "nothing"):
        unit = export(Linear(use, weight_bits, bits, signed), X)
        expected = run(unit, X)
        result = run_pass(FuseLinear(), unit)
        assert (result.changes, result.note) == (1, "0 linear layers stay in floating point")
        assert calls(unit) == ["bit_linear"]
        assert torch.equal(run(unit, X)[0], expected[0])


@pytest.mark.parametrize(
    ("use", "left"),
    [
        ("twice", ["bit_linear", "add", "mul"]),
        ("one number", ["bit_linear", "add"]),
        ("a multiple", ["bit_linear", "add"]),
        ("another sum", ["bit_linear", "sum", "add"]),
    ],
)
def test_only_a_bias_is_folded_in(use: str, left: list[str]) -> None:
    unit = export(Linear(use), X)
    expected = run(unit, X)
    assert run_pass(FuseLinear(), unit).changes == 1
    assert calls(unit) == left
    (fused,) = [node for node in unit.graph.nodes if "bit_linear" in str(node.target)]
    assert operands(fused).bias is None
    assert torch.equal(run(unit, X)[0], expected[0])


def test_a_bias_of_logits_is_one_row() -> None:
    unit = export(Linear("a bias of logits"), X)
    expected = run(unit, X)
    run_pass(CleanUp(), unit)
    assert run_pass(FuseLinear(), unit).changes == 1
    assert calls(unit) == ["reshape", "bit_linear"]
    assert torch.equal(run(unit, X)[0], expected[0])


class Shared(nn.Module):
    """One quantized input for two layers, one of which shares its weight with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.first, self.second = activation(2), weight(2, 65, 65), weight(1, 65, 65)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.input(x)
        y = quantized_linear(codes, self.first(), None) + quantized_linear(codes, self.second(), None)
        return quantized_linear(self.input(y), self.first(), None)


def test_shared_inputs_and_weights() -> None:
    unit = export(Shared(), X)
    expected = run(unit, X)
    assert run_pass(FuseLinear(), unit).changes == 3
    assert calls(unit) == ["bit_linear", "bit_linear", "add", "bit_linear"]
    assert torch.equal(run(unit, X)[0], expected[0])


class Mixed(nn.Module):
    """Layers with one operand in floating point, a plain layer, and codes that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.input, self.weight = nn.Linear(65, 65), activation(2), weight(2, 65, 65)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x)
        weight_only = quantized_linear(QuantTensor(x, None), self.weight(), None)
        input_only = quantized_linear(self.input(x), QuantTensor(self.plain.weight, None), None)
        product = torch.nn.functional.linear(self.input(x).codes, self.weight().codes)
        return weight_only + input_only + product


def test_what_is_no_quantized_layer_is_left_alone() -> None:
    unit = export(Mixed(), X)
    result = run_pass(FuseLinear(), unit)
    assert (result.changes, result.note) == (1, "3 linear layers stay in floating point")
    (fused,) = [node for node in unit.graph.nodes if "bit_linear" in str(node.target)]
    assert operands(fused).x_encoding == "float"  # a packed weight is never unpacked for a product of floats


def test_the_fused_layer_keeps_its_shape_and_module() -> None:
    unit = export(nn.Sequential(Linear(), nn.ReLU()), X)
    run_pass(CleanUp(), unit)
    run_pass(FuseLinear(), unit)
    (fused,) = [node for node in unit.graph.nodes if "bit_linear" in str(node.target)]
    assert tuple(fused.meta["val"].shape) == (2, 3, 7)
    assert next(reversed(fused.meta["nn_module_stack"].values()))[0] == "0"


def test_golden() -> None:
    x = torch.randn(2, 8)
    check_pass(FuseLinear(), export(frozen(nn.Sequential(nn.Linear(8, 4)), "2-1-2", x), x))


class Whole(Linear):
    """The same layer, captured whole."""

    def forward(self, x: Tensor) -> Tensor:
        own = None if self.use in ("a bias of logits", "nothing") else self.bias
        product = whole_linear(x, self.input, self.weight, own)
        if product is None:
            product = quantized_linear(self.input(x), self.weight(), own)
        return product + self.row if self.use == "a bias of logits" else product


@pytest.mark.parametrize("use", ["nothing", "bias", "a bias of logits"])
@pytest.mark.parametrize(("weight_bits", "bits", "signed"), [(1, 1, True), (2, 8, True), (8, 2, False)])
def test_a_layer_that_is_captured_whole_becomes_the_same(
    use: str, weight_bits: int, bits: int, signed: bool
) -> None:
    module = Whole(use, weight_bits, bits, signed)
    traced = export(module, X)
    with whole_operators():
        whole = export(module, X)
        assert whole_linear(X.double(), module.input, module.weight, None) is None
        assert whole_linear(X[..., :64], module.input, module.weight, None) is None
    assert "bit_linear" not in calls(traced)
    assert "bit_linear" in calls(whole)
    expected = run(traced, X)
    assert torch.equal(run(whole, X)[0], expected[0])
    for unit in (traced, whole):
        run_pass(CleanUp(), unit)
        run_pass(FuseLinear(), unit)
        assert torch.equal(run(unit, X)[0], expected[0])
    texts = [graph_text(unit.program.graph_module) for unit in (traced, whole)]
    one, other = (text.replace("_default", "").replace(", function=''", "") for text in texts)
    assert one == other
